//! An entry of the Raft log as bytes: on disk, and in the messages that replicate it.

use bytes::Bytes;
use openraft::entry::RaftEntry as _;

use crate::types::{LogEntry, Membership, Payload, log_id};
use kontiki_state::{
    codec::{Malformed, Reader, Writer},
    command::Command,
};

/// What an entry costs beside its command.
const OVERHEAD: usize = 96;

/// What an entry costs in memory, about.
pub(crate) fn size(entry: &LogEntry) -> usize {
    OVERHEAD + if let Payload::Normal(command) = &entry.payload { command.0.len() } else { 0 }
}

/// The key of a log entry.
pub(crate) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The index in an entry's key.
pub(crate) fn index_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// An entry without its index, as stored and as sent.
pub(crate) fn entry_value(entry: &LogEntry) -> Bytes {
    let mut out = Writer::with_capacity(size(entry));
    write_entry(&mut out, entry);
    out.finish()
}

fn write_entry(out: &mut Writer, entry: &LogEntry) {
    out.varint(entry.log_id.leader_id.term);
    match &entry.payload {
        Payload::Blank => out.u8(0),
        Payload::Normal(command) => {
            out.u8(1);
            out.raw(&command.0);
        }
        Payload::Membership(membership) => {
            out.u8(2);
            out.raw(&serde_json::to_vec(&membership).expect("a membership is plain data"));
        }
    }
}

/// Reads an entry back.
pub(crate) fn decode_entry(index: u64, value: Bytes) -> Result<LogEntry, Malformed> {
    let mut input = Reader::new(value);
    let (term, tag) = (input.varint()?, input.u8()?);
    let payload = match tag {
        0 => Payload::Blank,
        1 => Payload::Normal(Command(input.rest())),
        2 => {
            let membership: Membership =
                serde_json::from_slice(&input.rest()).map_err(|_| Malformed("membership entry"))?;
            Payload::Membership(membership)
        }
        _ => return Err(Malformed("unknown log entry")),
    };
    Ok(LogEntry::new(log_id(term, index), payload))
}

/// Reads a row of the log back.
pub(crate) fn decode_row(key: &[u8], value: Bytes) -> Result<LogEntry, Malformed> {
    decode_entry(index_of(key).ok_or(Malformed("log key"))?, value)
}
