//! What goes into the log, and what comes out of applying it.
//!
//! A command is encoded once, by whoever proposes it; log, network and disk carry those bytes, and
//! only apply looks inside. Everything random or timed is already in it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    Compare, CompareOp, Entry, Op, Revision, Term, Txn, TxnResult,
    codec::{Malformed, Reader, Writer},
};

/// An encoded [`Action`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Command(pub(crate) Bytes);

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
pub(crate) enum Action {
    /// A client's transaction.
    Txn(Txn),
    /// Forget what was superseded at or before this revision.
    Compact { upto: Revision },
    /// Remove up to `limit` keys that expire at or before `deadline` (Unix seconds).
    Expire { deadline: u64, limit: u64 },
}

const TXN: u8 = 1;
const COMPACT: u8 = 2;
const EXPIRE: u8 = 3;

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
        }
        Command(out.finish())
    }

    pub fn decode(command: &Command) -> Result<Self, Malformed> {
        let mut input = Reader::new(command.0.clone());
        let action = match input.u8()? {
            TXN => Self::Txn(read_txn(&mut input)?),
            COMPACT => Self::Compact { upto: Revision(input.varint()?) },
            EXPIRE => Self::Expire { deadline: input.varint()?, limit: input.varint()? },
            _ => return Err(Malformed("unknown command")),
        };
        input.end()?;
        Ok(action)
    }

    fn size_hint(&self) -> usize {
        let Self::Txn(txn) = self else { return 0 };
        let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len() + 16,
            Op::Delete { key } => key.len() + 8,
            Op::DeletePrefix { prefix } => prefix.len() + 8,
        });
        ops.sum::<usize>() + txn.compares.iter().map(|compare| compare.key().len() + 24).sum::<usize>()
    }
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

fn read_txn(input: &mut Reader) -> Result<Txn, Malformed> {
    let fence = input.option()?.map(Term);
    let compares = (0..input.count()?).map(|_| read_compare(input)).collect::<Result<_, _>>()?;
    let success = (0..input.count()?).map(|_| read_op(input)).collect::<Result<_, _>>()?;
    let failure = (0..input.count()?).map(|_| read_op(input)).collect::<Result<_, _>>()?;
    Ok(Txn { compares, success, failure, fence })
}

fn write_compare(out: &mut Writer, compare: &Compare) {
    let (tag, key, op) = match compare {
        Compare::ModRevision { key, op, .. } => (0, key, op),
        Compare::CreateRevision { key, op, .. } => (1, key, op),
        Compare::Version { key, op, .. } => (2, key, op),
        Compare::Value { key, op, .. } => (3, key, op),
    };
    out.u8(tag);
    out.bytes(key);
    out.u8(match op {
        CompareOp::Eq => 0,
        CompareOp::Ne => 1,
        CompareOp::Gt => 2,
        CompareOp::Lt => 3,
    });
    match compare {
        Compare::ModRevision { rev, .. } | Compare::CreateRevision { rev, .. } => out.varint(rev.0),
        Compare::Version { version, .. } => out.varint(*version),
        Compare::Value { value, .. } => out.bytes(value),
    }
}

fn read_compare(input: &mut Reader) -> Result<Compare, Malformed> {
    let (tag, key) = (input.u8()?, input.bytes()?);
    let op = match input.u8()? {
        0 => CompareOp::Eq,
        1 => CompareOp::Ne,
        2 => CompareOp::Gt,
        3 => CompareOp::Lt,
        _ => return Err(Malformed("unknown comparison")),
    };
    Ok(match tag {
        0 => Compare::ModRevision { key, op, rev: Revision(input.varint()?) },
        1 => Compare::CreateRevision { key, op, rev: Revision(input.varint()?) },
        2 => Compare::Version { key, op, version: input.varint()? },
        3 => Compare::Value { key, op, value: input.bytes()? },
        _ => return Err(Malformed("unknown compare")),
    })
}

fn write_op(out: &mut Writer, op: &Op) {
    match op {
        Op::Put { key, value, expires } => {
            out.u8(0);
            out.bytes(key);
            out.option(*expires);
            out.bytes(value);
        }
        Op::Delete { key } => {
            out.u8(1);
            out.bytes(key);
        }
        Op::DeletePrefix { prefix } => {
            out.u8(2);
            out.bytes(prefix);
        }
    }
}

fn read_op(input: &mut Reader) -> Result<Op, Malformed> {
    Ok(match input.u8()? {
        0 => {
            let (key, expires, value) = (input.bytes()?, input.option()?, input.bytes()?);
            Op::Put { key, value, expires }
        }
        1 => Op::Delete { key: input.bytes()? },
        2 => Op::DeletePrefix { prefix: input.bytes()? },
        _ => return Err(Malformed("unknown operation")),
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
    /// The transaction's term was not the entry's: nothing was done.
    Fenced,
    /// The command could not be read: nothing was done.
    Malformed,
}

impl Outcome {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Self::Done { revision } => {
                out.u8(0);
                out.varint(revision.0);
            }
            Self::Txn(result) => {
                out.u8(1);
                out.bool(result.succeeded);
                out.varint(result.revision.0);
                out.varint(result.current.len() as u64);
                for entry in &result.current {
                    out.bool(entry.is_some());
                    if let Some(entry) = entry {
                        write_entry(out, entry);
                    }
                }
            }
            Self::Fenced => out.u8(2),
            Self::Malformed => out.u8(3),
        }
    }

    pub(crate) fn read(input: &mut Reader) -> Result<Self, Malformed> {
        Ok(match input.u8()? {
            0 => Self::Done { revision: Revision(input.varint()?) },
            1 => {
                let (succeeded, revision) = (input.bool()?, Revision(input.varint()?));
                let current = (0..input.count()?)
                    .map(|_| if input.bool()? { read_entry(input).map(|e| Some(Arc::new(e))) } else { Ok(None) })
                    .collect::<Result<_, _>>()?;
                Self::Txn(TxnResult { succeeded, revision, current })
            }
            2 => Self::Fenced,
            3 => Self::Malformed,
            _ => return Err(Malformed("unknown outcome")),
        })
    }
}

fn write_entry(out: &mut Writer, entry: &Entry) {
    out.bytes(&entry.key);
    out.varint(entry.create_revision.0);
    out.varint(entry.mod_revision.0);
    out.varint(entry.version);
    out.option(entry.expires);
    out.bytes(&entry.value);
}

fn read_entry(input: &mut Reader) -> Result<Entry, Malformed> {
    let key = input.bytes()?;
    let (create_revision, mod_revision) = (Revision(input.varint()?), Revision(input.varint()?));
    let (version, expires) = (input.varint()?, input.option()?);
    Ok(Entry { key, value: input.bytes()?, create_revision, mod_revision, version, expires })
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

    #[test]
    fn actions_read_back() {
        let key = Bytes::from_static(b"/a");
        let txn = Txn {
            compares: vec![
                Compare::absent(key.clone()),
                Compare::Value { key: key.clone(), op: CompareOp::Ne, value: Bytes::from_static(b"v") },
                Compare::Version { key: key.clone(), op: CompareOp::Lt, version: 9 },
            ],
            success: vec![Op::Put { key: key.clone(), value: Bytes::from_static(b"x"), expires: Some(7) }],
            failure: vec![Op::delete(key.clone()), Op::DeletePrefix { prefix: key }],
            fence: Some(Term(0)),
        };
        for action in [
            Action::Txn(txn),
            Action::Txn(Txn::default()),
            Action::Compact { upto: Revision(300) },
            Action::Expire { deadline: 1 << 40, limit: 5 },
        ] {
            assert_eq!(Action::decode(&action.encode()), Ok(action));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Action::decode(&Command(bytes.clone().into()));
            let _ = Outcome::read(&mut Reader::new(bytes.into()));
        }
    }
}
