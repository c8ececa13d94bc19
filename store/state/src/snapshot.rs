//! A consistent view of all current keys at one revision.
//!
//! Invariants
//! - Taking one costs a few reference counts; it never blocks the writer nor is changed by it.
//! - It holds memory of what it shows: keep it for a request, not for ever.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::{
    Compare, CompareOp, Digest, Entry, KeyRange, Lease, Level, Op, Put, PutLease, RangeQuery, RangeResult, Refusal,
    Response, ResponseKind, Revision, Target, Txn, TxnResult,
    digest::Sum,
    keys::{End, prefix_end},
    packed::{Numbers, Packed},
    query::{between, in_range, query},
};

/// All current keys and leases at one revision.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    pub keys: OrdSet<Packed>,
    pub leases: OrdMap<i64, Lease>,
    pub revision: Revision,
    /// History before here is gone; `None` as long as nothing was compacted.
    pub compacted: Option<Revision>,
    pub applied: u64,
    /// The feature level: what the log may hold, and in which form data is written.
    pub level: Level,
    pub sum: Sum,
    /// Of keys and values.
    pub bytes: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            keys: OrdSet::new(),
            leases: OrdMap::new(),
            revision: Revision(1),
            compacted: None,
            applied: 0,
            level: Level::FIRST,
            sum: Sum::default(),
            bytes: 0,
        }
    }
}

/// Which way a transaction and those within it go, as judged on the state before all of them.
pub struct Path<'a> {
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

    /// The group's feature level.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// What all of it amounts to. Members that applied the same entries have the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.sum.digest(self.revision, self.compacted, self.level)
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What keys and leases amount to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// One key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        Some(Arc::new(self.keys.get(key)?.entry()))
    }

    /// All keys that begin with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
        self.span(Bound::Included(Bytes::copy_from_slice(prefix)), prefix)
    }

    /// The keys after `start_after` that begin with `prefix`, in order.
    pub fn range_from<'a>(&'a self, prefix: &[u8], start_after: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
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
        self.packed(Bound::Included(Bytes::copy_from_slice(prefix)), prefix).count()
    }

    /// Answers a query about the present; its revision is not looked at.
    #[must_use]
    pub fn query(&self, wanted: &RangeQuery) -> RangeResult {
        query(&self.keys, wanted)
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
    pub fn look(&self, wanted: &RangeQuery, written: bool) -> ResponseKind {
        let now = self.revision.0.cast_signed();
        let present = wanted.revision <= 0 || (wanted.revision == now && !written);
        if present { ResponseKind::Range(self.query(wanted)) } else { ResponseKind::Past(wanted.clone()) }
    }

    /// Judges the conditions of a transaction and checks what the branches taken need, one operation
    /// after the other: the first that cannot be is told.
    pub fn path<'a>(&self, txn: &'a Txn) -> Result<Path<'a>, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut inner = Vec::new();
        for op in ops {
            match op {
                Op::Put(put) => self.check_put(put)?,
                Op::Range(wanted) => self.readable(wanted.revision)?,
                Op::Txn(txn) => inner.push(self.path(txn)?),
                Op::Delete { .. } => {}
            }
        }
        Ok(Path { succeeded, ops, inner })
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if let PutLease::Set(lease) = put.lease
            && lease != 0
            && !self.leases.contains_key(&lease)
        {
            return Err(Refusal::LeaseNotFound);
        }
        let keeps = put.value.is_none() || put.lease == PutLease::Keep;
        if keeps && !self.keys.contains(&put.key[..]) {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    /// Whether the past at `revision` can be read; zero is the present. As in etcd what was compacted
    /// before anything was is all before -1.
    pub fn readable(&self, revision: i64) -> Result<(), Refusal> {
        if revision == 0 {
            Ok(())
        } else if revision > self.revision.0.cast_signed() {
            Err(Refusal::Future)
        } else if revision < self.compacted.map_or(-1, |compacted| compacted.0.cast_signed()) {
            Err(Refusal::Compacted)
        } else {
            Ok(())
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range.end == End::Key {
            return meets(self.keys.get(&compare.range.start[..]), compare);
        }
        if compare.range.is_empty() {
            return meets(None, compare);
        }
        let mut keys = in_range(&self.keys, &compare.range).peekable();
        if keys.peek().is_none() {
            return meets(None, compare);
        }
        keys.all(|key| meets(Some(key), compare))
    }

    fn span<'a>(&'a self, from: Bound<Bytes>, prefix: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<'a> {
        self.packed(from, prefix).map(|key| Arc::new(key.entry()))
    }

    fn packed<'a>(&'a self, from: Bound<Bytes>, prefix: &[u8]) -> impl Iterator<Item = &'a Packed> + use<'a> {
        let to = match prefix_end(prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        between(&self.keys, from, to)
    }

    /// The entries of a range, in order.
    pub fn entries(&self, range: &KeyRange) -> Vec<Arc<Entry>> {
        query(&self.keys, &RangeQuery::new(range.clone())).entries
    }
}

fn meets(key: Option<&Packed>, compare: &Compare) -> bool {
    let number = |of: fn(&Numbers) -> u64| key.map_or(0, |key| of(&key.numbers())).cast_signed();
    match &compare.target {
        Target::Version(want) => test(compare.op, &number(|n| n.version), want),
        Target::CreateRevision(want) => test(compare.op, &number(|n| n.create_revision.0), want),
        Target::ModRevision(want) => test(compare.op, &number(|n| n.mod_revision.0), want),
        Target::Lease(want) => test(compare.op, &key.map_or(0, |key| key.numbers().lease), want),
        Target::Value(want) => key.is_some_and(|key| test(compare.op, key.value(), &want[..])),
    }
}

fn test<T: Ord + ?Sized>(op: CompareOp, have: &T, want: &T) -> bool {
    match op {
        CompareOp::Eq => have == want,
        CompareOp::Ne => have != want,
        CompareOp::Gt => have > want,
        CompareOp::Lt => have < want,
    }
}
