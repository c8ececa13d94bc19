//! How the state machine lies in RocksDB.
//!
//! One row per change: `epoch (4) | revision (8) | key` → what the key became. The latest row of a
//! key is its current value and stays; a row that a later one supersedes is history, and goes when
//! the later one is compacted. So there is one copy of a value, whether it is current or past.
//!
//! A row names the revision of the row it superseded, so the state before any event that is still
//! in history can be told. `epoch` changes when a snapshot replaces everything: the new rows are
//! written beside the old ones, and one small write switches over.

use bytes::Bytes;

use crate::{
    Entry, Event, EventKind, Revision,
    codec::{Malformed, Reader, Writer},
    raft::LogId,
};

/// Where the state record lies (in the rows' column family, so that both are written as one).
pub(crate) const STATE_KEY: &[u8] = b"state";
/// The membership as of the applied index, as JSON.
pub(crate) const MEMBERSHIP_KEY: &[u8] = b"state/membership";
/// How far compaction has removed rows: epoch and revision.
pub(crate) const SWEPT_KEY: &[u8] = b"state/swept";

const PREFIX: usize = 12;

/// One change of one key, as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub kind: EventKind,
    /// Place among the changes of its revision.
    pub order: u64,
    /// Revision of the row that this one superseded; zero if the key did not exist.
    pub prev: Revision,
    pub entry: Entry,
}

impl Row {
    /// Reads a row back from its key and value.
    pub fn decode(key: Bytes, value: Bytes) -> Result<Self, Malformed> {
        if key.len() < PREFIX {
            return Err(Malformed("row key too short"));
        }
        let mod_revision = Revision(u64::from_be_bytes(key[4..PREFIX].try_into().expect("eight bytes")));
        let mut input = Reader::new(value);
        let kind = match input.u8()? {
            0 => EventKind::Delete,
            1 => EventKind::Put,
            _ => return Err(Malformed("unknown row")),
        };
        let (order, prev, create) = (input.varint()?, Revision(input.varint()?), Revision(input.varint()?));
        let (version, expires) = (input.varint()?, input.option()?);
        let entry = Entry {
            key: key.slice(PREFIX..),
            value: input.rest(),
            create_revision: create,
            mod_revision,
            version,
            expires,
        };
        Ok(Self { kind, order, prev, entry })
    }
}

/// The key of a row.
pub(crate) fn row_key(epoch: u32, revision: Revision, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX + key.len());
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(&revision.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The part of a row's key that is the store's key, if it is a row's key at all.
pub(crate) fn key_of_row(key: &[u8]) -> Option<&[u8]> {
    key.get(PREFIX..)
}

/// The revision in a row's key.
pub(crate) fn revision_of_row(key: &[u8]) -> Option<Revision> {
    Some(Revision(u64::from_be_bytes(key.get(4..PREFIX)?.try_into().ok()?)))
}

fn row_value(kind: EventKind, order: u64, prev: Revision, entry: &Entry) -> Bytes {
    let mut out = Writer::with_capacity(entry.value.len() + 32);
    out.u8(u8::from(kind == EventKind::Put));
    out.varint(order);
    out.varint(prev.0);
    out.varint(entry.create_revision.0);
    out.varint(entry.version);
    out.option(entry.expires);
    out.raw(&entry.value);
    out.finish()
}

/// Key and value of the row that records an event.
pub(crate) fn event_row(epoch: u32, order: usize, event: &Event) -> (Vec<u8>, Bytes) {
    let prev = event.prev.as_ref().map_or(Revision(0), |prev| prev.mod_revision);
    let key = row_key(epoch, event.entry.mod_revision, &event.entry.key);
    (key, row_value(event.kind, order as u64, prev, &event.entry))
}

/// What the state machine's rows amount to; written in the same batch as the rows themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StateRecord {
    pub epoch: u32,
    pub revision: Revision,
    pub compacted: Revision,
    pub applied: Option<LogId>,
}

impl Default for StateRecord {
    fn default() -> Self {
        Self { epoch: 1, revision: Revision(1), compacted: Revision(1), applied: None }
    }
}

impl StateRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(48);
        out.varint(u64::from(self.epoch));
        out.varint(self.revision.0);
        out.varint(self.compacted.0);
        out.log_id(self.applied.as_ref());
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let epoch = u32::try_from(input.varint()?).map_err(|_| Malformed("epoch"))?;
        let (revision, compacted) = (Revision(input.varint()?), Revision(input.varint()?));
        let record = Self { epoch, revision, compacted, applied: input.log_id()? };
        input.end()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn rows_read_back() {
        let entry = Entry {
            key: Bytes::from_static(b"/k"),
            value: Bytes::from_static(b"value"),
            create_revision: Revision(3),
            mod_revision: Revision(700),
            version: 9,
            expires: Some(5),
        };
        let prev = Arc::new(Entry { mod_revision: Revision(6), ..entry.clone() });
        let event = Event { kind: EventKind::Put, entry: Arc::new(entry.clone()), prev: Some(prev) };
        let (key, value) = event_row(2, 4, &event);
        assert_eq!((revision_of_row(&key), key_of_row(&key)), (Some(Revision(700)), Some(&b"/k"[..])));
        let row = Row::decode(key.into(), value).unwrap();
        assert_eq!(row, Row { kind: EventKind::Put, order: 4, prev: Revision(6), entry });
        let record = StateRecord { applied: Some(crate::raft::log_id(3, 9)), ..StateRecord::default() };
        assert_eq!(StateRecord::decode(record.encode()), Ok(record));
    }
}
