//! What goes into the log, and what comes out of applying it.
//!
//! A command is encoded once, by whoever proposes it; log, network and disk carry those bytes, and
//! only apply looks inside. Everything random or timed is already in it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    Compare, CompareOp, Entry, KeyRange, Level, Op, Order, Put, PutLease, RangeQuery, RangeResult, Refusal, Response,
    ResponseKind, Revision, SortBy, Target, Term, Txn, TxnResult,
    codec::{Malformed, Reader, Writer},
    keys::End,
};

/// Transactions within transactions. Deeper ones would be refused long before by whoever proposes.
pub const MAX_DEPTH: usize = 64;

/// An encoded [`Action`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What a command asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A client's transaction.
    Txn(Txn),
    /// Forget what was superseded at or before this revision.
    Compact { upto: Revision },
    /// Remove up to `limit` keys that expire at or before `deadline` (Unix seconds).
    Expire { deadline: u64, limit: u64 },
    /// Make a lease of so many seconds.
    Grant { id: i64, ttl: i64 },
    /// End a lease and remove its keys; for a fenced one, unless leadership has changed.
    Revoke { id: i64, fence: Option<Term> },
    /// Raise the feature level, unless leadership has changed.
    RaiseLevel { to: Level, fence: Term },
    /// End leases and remove their keys at one revision, unless leadership has changed. Those that are gone are passed
    /// over. Needs `Level::DIGESTS`.
    EndLeases { ids: Vec<i64>, fence: Term },
}

const TXN: u8 = 1;
const COMPACT: u8 = 2;
const EXPIRE: u8 = 3;
const GRANT: u8 = 4;
const REVOKE: u8 = 5;
const RAISE_LEVEL: u8 = 6;
const END_LEASES: u8 = 7;

impl Action {
    pub fn encode(&self) -> Command {
        let mut out = Writer::with_capacity(64 + self.size_hint());
        match self {
            Self::Txn(txn) => {
                out.u8(TXN);
                write_txn(&mut out, txn);
            }
            Self::Compact { upto } => {
                out.u8(COMPACT);
                out.varint(upto.0);
            }
            Self::Expire { deadline, limit } => {
                out.u8(EXPIRE);
                out.varint(*deadline);
                out.varint(*limit);
            }
            Self::Grant { id, ttl } => {
                out.u8(GRANT);
                out.signed(*id);
                out.signed(*ttl);
            }
            Self::Revoke { id, fence } => {
                out.u8(REVOKE);
                out.signed(*id);
                out.option(fence.map(|term| term.0));
            }
            Self::RaiseLevel { to, fence } => {
                out.u8(RAISE_LEVEL);
                out.varint(u64::from(to.0));
                out.varint(fence.0);
            }
            Self::EndLeases { ids, fence } => {
                out.u8(END_LEASES);
                out.varint(fence.0);
                out.varint(ids.len() as u64);
                ids.iter().for_each(|id| out.signed(*id));
            }
        }
        Command(out.finish())
    }

    pub fn decode(command: &Command) -> Result<Self, Malformed> {
        let mut input = Reader::new(command.0.clone());
        let action = match input.u8()? {
            TXN => Self::Txn(read_txn(&mut input, MAX_DEPTH)?),
            COMPACT => Self::Compact { upto: Revision(input.varint()?) },
            EXPIRE => Self::Expire { deadline: input.varint()?, limit: input.varint()? },
            GRANT => Self::Grant { id: input.signed()?, ttl: input.signed()? },
            REVOKE => Self::Revoke { id: input.signed()?, fence: input.option()?.map(Term) },
            RAISE_LEVEL => {
                let to = u32::try_from(input.varint()?).map_err(|_| Malformed("level"))?;
                Self::RaiseLevel { to: Level(to), fence: Term(input.varint()?) }
            }
            END_LEASES => {
                let fence = Term(input.varint()?);
                let ids = (0..input.count()?).map(|_| input.signed()).collect::<Result<_, _>>()?;
                Self::EndLeases { ids, fence }
            }
            _ => return Err(Malformed("unknown command")),
        };
        input.end()?;
        Ok(action)
    }

    /// The least level that the group has to be at for this to be in its log.
    #[must_use]
    pub fn needs(&self) -> Level {
        match self {
            Self::EndLeases { .. } => Level::DIGESTS,
            _ => Level::FIRST,
        }
    }

    fn size_hint(&self) -> usize {
        if let Self::Txn(txn) = self { size_hint(txn) } else { 0 }
    }
}

fn size_hint(txn: &Txn) -> usize {
    let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put(put) => put.key.len() + put.value.as_ref().map_or(0, Bytes::len) + 24,
        Op::Delete { range, .. } => range.start.len() + 16,
        Op::Range(query) => query.range.start.len() + 32,
        Op::Txn(inner) => size_hint(inner),
    });
    ops.sum::<usize>() + txn.compares.iter().map(|compare| compare.range.start.len() + 24).sum::<usize>()
}

fn write_txn(out: &mut Writer, txn: &Txn) {
    out.option(txn.fence.map(|term| term.0));
    out.varint(txn.compares.len() as u64);
    for compare in &txn.compares {
        write_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        out.varint(ops.len() as u64);
        for op in ops {
            write_op(out, op);
        }
    }
}

fn read_txn(input: &mut Reader, depth: usize) -> Result<Txn, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed("transactions nested too deeply"))?;
    let fence = input.option()?.map(Term);
    let compares = (0..input.count()?).map(|_| read_compare(input)).collect::<Result<_, _>>()?;
    let success = (0..input.count()?).map(|_| read_op(input, depth)).collect::<Result<_, _>>()?;
    let failure = (0..input.count()?).map(|_| read_op(input, depth)).collect::<Result<_, _>>()?;
    Ok(Txn { compares, success, failure, fence })
}

fn write_range(out: &mut Writer, range: &KeyRange) {
    match &range.end {
        End::Key => out.u8(0),
        End::Before(end) => {
            out.u8(1);
            out.bytes(end);
        }
        End::Never => out.u8(2),
    }
    out.bytes(&range.start);
}

fn read_range(input: &mut Reader) -> Result<KeyRange, Malformed> {
    let end = match input.u8()? {
        0 => End::Key,
        1 => End::Before(input.bytes()?),
        2 => End::Never,
        _ => return Err(Malformed("unknown range")),
    };
    Ok(KeyRange { start: input.bytes()?, end })
}

fn write_compare(out: &mut Writer, compare: &Compare) {
    write_range(out, &compare.range);
    out.u8(match compare.op {
        CompareOp::Eq => 0,
        CompareOp::Ne => 1,
        CompareOp::Gt => 2,
        CompareOp::Lt => 3,
    });
    let (tag, number) = match &compare.target {
        Target::Version(n) => (0, *n),
        Target::CreateRevision(n) => (1, *n),
        Target::ModRevision(n) => (2, *n),
        Target::Lease(n) => (3, *n),
        Target::Value(value) => {
            out.u8(4);
            return out.bytes(value);
        }
    };
    out.u8(tag);
    out.signed(number);
}

fn read_compare(input: &mut Reader) -> Result<Compare, Malformed> {
    let range = read_range(input)?;
    let op = match input.u8()? {
        0 => CompareOp::Eq,
        1 => CompareOp::Ne,
        2 => CompareOp::Gt,
        3 => CompareOp::Lt,
        _ => return Err(Malformed("unknown comparison")),
    };
    let target = match input.u8()? {
        0 => Target::Version(input.signed()?),
        1 => Target::CreateRevision(input.signed()?),
        2 => Target::ModRevision(input.signed()?),
        3 => Target::Lease(input.signed()?),
        4 => Target::Value(input.bytes()?),
        _ => return Err(Malformed("unknown compare")),
    };
    Ok(Compare { range, op, target })
}

/// Bits of a put's first byte after the tag.
const PREV: u8 = 1;
const KEEP_VALUE: u8 = 2;
const KEEP_LEASE: u8 = 4;
/// Bits of a range's.
const KEYS_ONLY: u8 = 1;
const COUNT_ONLY: u8 = 2;

fn write_op(out: &mut Writer, op: &Op) {
    match op {
        Op::Put(put) => {
            out.u8(0);
            write_put(out, put);
        }
        Op::Delete { range, prev } => {
            out.u8(1);
            write_range(out, range);
            out.bool(*prev);
        }
        Op::Range(query) => {
            out.u8(2);
            write_query(out, query);
        }
        Op::Txn(txn) => {
            out.u8(3);
            write_txn(out, txn);
        }
    }
}

fn read_op(input: &mut Reader, depth: usize) -> Result<Op, Malformed> {
    Ok(match input.u8()? {
        0 => Op::Put(read_put(input)?),
        1 => Op::Delete { range: read_range(input)?, prev: input.bool()? },
        2 => Op::Range(read_query(input)?),
        3 => Op::Txn(read_txn(input, depth)?),
        _ => return Err(Malformed("unknown operation")),
    })
}

fn write_put(out: &mut Writer, put: &Put) {
    let keep_lease = put.lease == PutLease::Keep;
    let flags = [(put.prev, PREV), (put.value.is_none(), KEEP_VALUE), (keep_lease, KEEP_LEASE)];
    out.u8(flags.iter().map(|(set, bit)| u8::from(*set) * bit).sum());
    out.bytes(&put.key);
    out.option(put.expires);
    if let PutLease::Set(lease) = put.lease {
        out.signed(lease);
    }
    if let Some(value) = &put.value {
        out.bytes(value);
    }
}

fn read_put(input: &mut Reader) -> Result<Put, Malformed> {
    let flags = input.u8()?;
    if flags & !(PREV | KEEP_VALUE | KEEP_LEASE) != 0 {
        return Err(Malformed("unknown flag of a put"));
    }
    let (key, expires) = (input.bytes()?, input.option()?);
    let lease = if flags & KEEP_LEASE == 0 { PutLease::Set(input.signed()?) } else { PutLease::Keep };
    let value = if flags & KEEP_VALUE == 0 { Some(input.bytes()?) } else { None };
    Ok(Put { key, value, expires, lease, prev: flags & PREV != 0 })
}

fn write_query(out: &mut Writer, query: &RangeQuery) {
    write_range(out, &query.range);
    out.signed(query.revision);
    out.varint(query.limit);
    out.u8(match query.order {
        Order::None => 0,
        Order::Ascend => 1,
        Order::Descend => 2,
    });
    out.u8(match query.by {
        SortBy::Key => 0,
        SortBy::Version => 1,
        SortBy::Create => 2,
        SortBy::Mod => 3,
        SortBy::Value => 4,
    });
    out.u8(u8::from(query.keys_only) * KEYS_ONLY + u8::from(query.count_only) * COUNT_ONLY);
    for filter in [query.min_mod, query.max_mod, query.min_create, query.max_create] {
        out.signed(filter);
    }
}

fn read_query(input: &mut Reader) -> Result<RangeQuery, Malformed> {
    let (range, revision, limit) = (read_range(input)?, input.signed()?, input.varint()?);
    let order = match input.u8()? {
        0 => Order::None,
        1 => Order::Ascend,
        2 => Order::Descend,
        _ => return Err(Malformed("unknown order")),
    };
    let by = match input.u8()? {
        0 => SortBy::Key,
        1 => SortBy::Version,
        2 => SortBy::Create,
        3 => SortBy::Mod,
        4 => SortBy::Value,
        _ => return Err(Malformed("unknown sort")),
    };
    let flags = input.u8()?;
    if flags & !(KEYS_ONLY | COUNT_ONLY) != 0 {
        return Err(Malformed("unknown flag of a range"));
    }
    Ok(RangeQuery {
        range,
        revision,
        limit,
        order,
        by,
        keys_only: flags & KEYS_ONLY != 0,
        count_only: flags & COUNT_ONLY != 0,
        min_mod: input.signed()?,
        max_mod: input.signed()?,
        min_create: input.signed()?,
        max_create: input.signed()?,
    })
}

/// What applying an entry gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The entry was openraft's own (blank, membership), or housekeeping.
    Done {
        /// The store's revision after it.
        revision: Revision,
    },
    /// A transaction was decided.
    Txn(TxnResult),
    /// Nothing was done.
    Refused(Refusal),
}

const REFUSALS: [Refusal; 7] = [
    Refusal::Fenced,
    Refusal::LeaseNotFound,
    Refusal::LeaseExists,
    Refusal::KeyNotFound,
    Refusal::Compacted,
    Refusal::Future,
    Refusal::Malformed,
];

impl Outcome {
    pub fn write(&self, out: &mut Writer) {
        match self {
            Self::Done { revision } => {
                out.u8(0);
                out.varint(revision.0);
            }
            Self::Txn(result) => {
                out.u8(1);
                write_result(out, result);
            }
            Self::Refused(refusal) => {
                out.u8(2);
                out.u8(REFUSALS.iter().position(|known| known == refusal).unwrap_or_default() as u8);
            }
        }
    }

    pub fn read(input: &mut Reader) -> Result<Self, Malformed> {
        Ok(match input.u8()? {
            0 => Self::Done { revision: Revision(input.varint()?) },
            1 => Self::Txn(read_result(input, MAX_DEPTH)?),
            2 => {
                let refusal = REFUSALS.get(usize::from(input.u8()?)).ok_or(Malformed("unknown refusal"))?;
                Self::Refused(*refusal)
            }
            _ => return Err(Malformed("unknown outcome")),
        })
    }
}

fn write_result(out: &mut Writer, result: &TxnResult) {
    out.bool(result.succeeded);
    out.varint(result.revision.0);
    out.varint(result.responses.len() as u64);
    for response in &result.responses {
        out.varint(response.revision.0);
        match &response.kind {
            ResponseKind::Put(prev) => {
                out.u8(0);
                write_entries(out, prev.as_slice());
            }
            ResponseKind::Delete(count, prev) => {
                out.u8(1);
                out.varint(*count);
                write_entries(out, prev);
            }
            ResponseKind::Range(found) => {
                out.u8(2);
                out.varint(found.count);
                out.bool(found.more);
                write_entries(out, &found.entries);
            }
            ResponseKind::Past(query) => {
                out.u8(3);
                write_query(out, query);
            }
            ResponseKind::Txn(inner) => {
                out.u8(4);
                write_result(out, inner);
            }
        }
    }
}

fn read_result(input: &mut Reader, depth: usize) -> Result<TxnResult, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed("results nested too deeply"))?;
    let (succeeded, revision) = (input.bool()?, Revision(input.varint()?));
    let responses = (0..input.count()?).map(|_| read_response(input, depth)).collect::<Result<_, _>>()?;
    Ok(TxnResult { succeeded, revision, responses })
}

fn read_response(input: &mut Reader, depth: usize) -> Result<Response, Malformed> {
    let revision = Revision(input.varint()?);
    let kind = match input.u8()? {
        0 => ResponseKind::Put(read_entries(input)?.pop()),
        1 => ResponseKind::Delete(input.varint()?, read_entries(input)?),
        2 => {
            let (count, more) = (input.varint()?, input.bool()?);
            ResponseKind::Range(RangeResult { entries: read_entries(input)?, count, more })
        }
        3 => ResponseKind::Past(read_query(input)?),
        4 => ResponseKind::Txn(read_result(input, depth)?),
        _ => return Err(Malformed("unknown response")),
    };
    Ok(Response { revision, kind })
}

fn write_entries(out: &mut Writer, entries: &[Arc<Entry>]) {
    out.varint(entries.len() as u64);
    for entry in entries {
        write_entry(out, entry);
    }
}

fn read_entries(input: &mut Reader) -> Result<Vec<Arc<Entry>>, Malformed> {
    (0..input.count()?).map(|_| read_entry(input).map(Arc::new)).collect()
}

fn write_entry(out: &mut Writer, entry: &Entry) {
    out.bytes(&entry.key);
    out.varint(entry.create_revision.0);
    out.varint(entry.mod_revision.0);
    out.varint(entry.version);
    out.option(entry.expires);
    out.signed(entry.lease);
    out.bytes(&entry.value);
}

fn read_entry(input: &mut Reader) -> Result<Entry, Malformed> {
    let key = input.bytes()?;
    let (create_revision, mod_revision) = (Revision(input.varint()?), Revision(input.varint()?));
    let (version, expires, lease) = (input.varint()?, input.option()?, input.signed()?);
    Ok(Entry { key, value: input.bytes()?, create_revision, mod_revision, version, expires, lease })
}

// openraft asks for serde on its response type; it gets the store's own encoding.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Writer::default();
        self.write(&mut out);
        serializer.serialize_bytes(&out.finish())
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        Self::read(&mut Reader::new(bytes)).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy_txn() -> Txn {
        let key = Bytes::from_static(b"/a");
        let query =
            RangeQuery { limit: 3, order: Order::Descend, min_mod: -4, ..RangeQuery::new(KeyRange::prefix("x")) };
        let put = Put { key: key.clone(), value: None, expires: Some(7), lease: PutLease::Keep, prev: true };
        let inner = Txn { success: vec![Op::get("y"), Op::Range(query)], ..Txn::default() };
        Txn {
            compares: vec![
                Compare::absent(key.clone()),
                Compare::new(key.clone(), CompareOp::Ne, Target::Value(Bytes::from_static(b"v"))),
                Compare { range: KeyRange::prefix("p"), op: CompareOp::Lt, target: Target::Lease(-9) },
            ],
            success: vec![Op::Put(put), Op::put("b", "2"), Op::Txn(inner)],
            failure: vec![Op::delete(key.clone()), Op::Delete { range: KeyRange::prefix(key), prev: true }],
            fence: Some(Term(0)),
        }
    }

    #[test]
    fn actions_read_back() {
        for action in [
            Action::Txn(busy_txn()),
            Action::Txn(Txn::default()),
            Action::Compact { upto: Revision(300) },
            Action::Expire { deadline: 1 << 40, limit: 5 },
            Action::Grant { id: i64::MIN, ttl: 60 },
            Action::Revoke { id: -1, fence: Some(Term(4)) },
        ] {
            assert_eq!(Action::decode(&action.encode()), Ok(action));
        }
    }

    #[test]
    fn outcomes_read_back() {
        let entry = Arc::new(Entry {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            version: 2,
            expires: None,
            lease: -5,
        });
        let found = RangeResult { entries: vec![Arc::clone(&entry)], count: 7, more: true };
        let kinds = vec![
            ResponseKind::Put(None),
            ResponseKind::Put(Some(Arc::clone(&entry))),
            ResponseKind::Delete(2, vec![entry]),
            ResponseKind::Range(found),
            ResponseKind::Past(RangeQuery::new(KeyRange::key("k"))),
            ResponseKind::Txn(TxnResult { succeeded: false, revision: Revision(0), responses: Vec::new() }),
        ];
        let responses = kinds.into_iter().map(|kind| Response { revision: Revision(4), kind }).collect();
        let txn = Outcome::Txn(TxnResult { succeeded: true, revision: Revision(4), responses });
        let refused = REFUSALS.map(Outcome::Refused);
        for outcome in [txn, Outcome::Done { revision: Revision(1) }].into_iter().chain(refused) {
            let mut out = Writer::default();
            outcome.write(&mut out);
            assert_eq!(Outcome::read(&mut Reader::new(out.finish())), Ok(outcome));
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = (0..2 * MAX_DEPTH).fold(Txn::default(), |txn, _| Txn::write(vec![Op::Txn(txn)]));
        assert!(Action::decode(&Action::Txn(deep).encode()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Action::decode(&Command(bytes.clone().into()));
            let _ = Outcome::read(&mut Reader::new(bytes.into()));
        }
    }
}
