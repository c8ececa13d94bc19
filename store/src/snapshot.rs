//! A consistent view of all current keys at one revision.
//!
//! Invariants
//! - Taking one costs a few reference counts; it never blocks the writer nor is changed by it.
//! - It holds memory of what it shows: keep it for a request, not for ever.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::{
    Compare, CompareOp, Entry, KeyRange, Op, Put, PutLease, RangeQuery, RangeResult, Refusal, Response, ResponseKind,
    Revision, Target, Txn, TxnResult,
    keys::{End, prefix_end},
    query::query,
};

/// A lease: keys that live as long as somebody keeps it alive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// How long it lives after it was last kept alive, in seconds.
    pub ttl: i64,
    /// Index of the log entry that granted it: what tells it from an earlier one of the same id.
    pub granted: u64,
    /// The keys attached to it.
    pub keys: OrdSet<Bytes>,
}

/// All current keys and leases at one revision.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    pub(crate) map: OrdMap<Bytes, Arc<Entry>>,
    pub(crate) leases: OrdMap<i64, Lease>,
    pub(crate) revision: Revision,
    /// History before here is gone; `None` as long as nothing was compacted.
    pub(crate) compacted: Option<Revision>,
    pub(crate) applied: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { map: OrdMap::new(), leases: OrdMap::new(), revision: Revision(1), compacted: None, applied: 0 }
    }
}

/// Which way a transaction and those within it go, as judged on the state before all of them.
pub(crate) struct Path<'a> {
    pub succeeded: bool,
    /// The operations of the branch taken.
    pub ops: &'a [Op],
    /// The paths of the transactions among them, in order.
    pub inner: Vec<Path<'a>>,
}

impl Snapshot {
    /// The revision it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The log index it shows.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The oldest revision that can be read; zero if nothing was compacted yet.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted.unwrap_or_default()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// One key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.map.get(key).cloned()
    }

    /// All keys that begin with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        self.span(Bound::Included(Bytes::copy_from_slice(prefix)), prefix)
    }

    /// The keys after `start_after` that begin with `prefix`, in order.
    pub fn range_from<'a>(
        &'a self,
        prefix: &[u8],
        start_after: &[u8],
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let from = if start_after < prefix {
            Bound::Included(Bytes::copy_from_slice(prefix))
        } else {
            Bound::Excluded(Bytes::copy_from_slice(start_after))
        };
        self.span(from, prefix)
    }

    /// How many keys begin with `prefix`.
    #[must_use]
    pub fn count(&self, prefix: &[u8]) -> usize {
        self.range(prefix).count()
    }

    /// Answers a query about the present; its revision is not looked at.
    #[must_use]
    pub fn query(&self, wanted: &RangeQuery) -> RangeResult {
        query(&self.map, wanted)
    }

    /// All leases, by id.
    #[must_use]
    pub fn leases(&self) -> &OrdMap<i64, Lease> {
        &self.leases
    }

    /// Answers a transaction that only reads.
    ///
    /// # Errors
    /// If it asks for a revision that cannot be read.
    pub fn read(&self, txn: &Txn) -> Result<TxnResult, Refusal> {
        Ok(self.read_path(&self.path(txn)?))
    }

    fn read_path(&self, path: &Path<'_>) -> TxnResult {
        let mut inner = path.inner.iter();
        let responses = path.ops.iter().filter_map(|op| {
            let kind = match op {
                Op::Range(wanted) => self.look(wanted, false),
                Op::Txn(_) => ResponseKind::Txn(self.read_path(inner.next()?)),
                Op::Put(_) | Op::Delete { .. } => return None,
            };
            Some(Response { revision: self.revision, kind })
        });
        TxnResult { succeeded: path.succeeded, responses: responses.collect(), revision: self.revision }
    }

    /// Answers a query, or says that it is one for history. `written`: the state is no longer that
    /// of its revision, because a transaction is at work on it.
    pub(crate) fn look(&self, wanted: &RangeQuery, written: bool) -> ResponseKind {
        let now = self.revision.0.cast_signed();
        let present = wanted.revision <= 0 || (wanted.revision == now && !written);
        if present { ResponseKind::Range(self.query(wanted)) } else { ResponseKind::Past(wanted.clone()) }
    }

    /// Judges the conditions of a transaction and checks what the branches taken need.
    pub(crate) fn path<'a>(&self, txn: &'a Txn) -> Result<Path<'a>, Refusal> {
        let mut unreadable = None;
        let path = self.judge(txn, &mut unreadable)?;
        // As in etcd, what is wrong with a put is told before what is wrong with a range.
        unreadable.map_or(Ok(path), Err)
    }

    fn judge<'a>(&self, txn: &'a Txn, unreadable: &mut Option<Refusal>) -> Result<Path<'a>, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut inner = Vec::new();
        for op in ops {
            match op {
                Op::Put(put) => self.check_put(put)?,
                Op::Range(wanted) if unreadable.is_none() => *unreadable = self.readable(wanted.revision).err(),
                Op::Txn(txn) => inner.push(self.judge(txn, unreadable)?),
                Op::Range(_) | Op::Delete { .. } => {}
            }
        }
        Ok(Path { succeeded, ops, inner })
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        let keeps = put.value.is_none() || put.lease == PutLease::Keep;
        if keeps && !self.map.contains_key(&put.key) {
            return Err(Refusal::KeyNotFound);
        }
        if let PutLease::Set(lease) = put.lease
            && lease != 0
            && !self.leases.contains_key(&lease)
        {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    /// Whether the past at `revision` can be read; zero is the present. As in etcd what was compacted
    /// before anything was is all before -1.
    pub(crate) fn readable(&self, revision: i64) -> Result<(), Refusal> {
        match () {
            () if revision == 0 => Ok(()),
            () if revision > self.revision.0.cast_signed() => Err(Refusal::Future),
            () if revision < self.compacted.map_or(-1, |compacted| compacted.0.cast_signed()) => {
                Err(Refusal::Compacted)
            }
            () => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range.end == End::Key {
            return meets(self.map.get(&compare.range.start).map(|entry| &**entry), compare);
        }
        if compare.range.is_empty() {
            return meets(None, compare);
        }
        let mut entries = self.map.range(compare.range.bounds()).peekable();
        if entries.peek().is_none() {
            return meets(None, compare);
        }
        entries.all(|(_, entry)| meets(Some(entry), compare))
    }

    fn span<'a>(&'a self, from: Bound<Bytes>, prefix: &[u8]) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let to = match prefix_end(prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.map.range((from, to)).map(|(_, entry)| entry)
    }

    /// The entries of a range, in order.
    pub(crate) fn entries(&self, range: &KeyRange) -> Vec<Arc<Entry>> {
        query(&self.map, &RangeQuery::new(range.clone())).entries
    }
}

fn meets(entry: Option<&Entry>, compare: &Compare) -> bool {
    let number = |of: fn(&Entry) -> u64| entry.map_or(0, of).cast_signed();
    match &compare.target {
        Target::Version(want) => test(compare.op, &number(|e| e.version), want),
        Target::CreateRevision(want) => test(compare.op, &number(|e| e.create_revision.0), want),
        Target::ModRevision(want) => test(compare.op, &number(|e| e.mod_revision.0), want),
        Target::Lease(want) => test(compare.op, &entry.map_or(0, |e| e.lease), want),
        Target::Value(want) => entry.is_some_and(|entry| test(compare.op, &entry.value, want)),
    }
}

fn test<T: Ord>(op: CompareOp, have: &T, want: &T) -> bool {
    match op {
        CompareOp::Eq => have == want,
        CompareOp::Ne => have != want,
        CompareOp::Gt => have > want,
        CompareOp::Lt => have < want,
    }
}
