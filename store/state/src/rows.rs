//! How the state machine lies in RocksDB.
//!
//! One row per change: `epoch (4) | revision (8) | key` → what the key became. The latest row of a
//! key is its current value and stays; a row that a later one supersedes is history, and goes when
//! the later one is compacted. So there is one copy of a value, whether it is current or past.
//!
//! A row names the revision of the row it superseded, so the state before any event that is still
//! in history can be told. `epoch` changes when a snapshot replaces everything: the new rows are
//! written beside the old ones, and one small write switches over.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::{
    Entry, EntryId, Event, EventKind, Level, Revision,
    codec::{Malformed, Reader, Writer},
    digest::Sum,
};

/// Where the state record lies (in the rows' column family, so that both are written as one).
pub const STATE_KEY: &[u8] = b"state";
/// The membership as of the applied index, as JSON.
pub const MEMBERSHIP_KEY: &[u8] = b"state/membership";
/// How far compaction has removed rows: epoch and revision.
pub const SWEPT_KEY: &[u8] = b"state/swept";

/// Marks say how far the state was in a second: so revisions have times.
const MARKS: &[u8] = b"mark/";

const PREFIX: usize = 12;

/// What a row says became of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowKind {
    Delete,
    Put,
    /// Put, and deleted by the same transaction.
    PutAndDelete,
    /// Deleted, and put by the same transaction.
    DeleteAndPut,
}

/// What one revision did to one key, as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub kind: RowKind,
    /// Place among the changes of its revision.
    pub order: u64,
    /// The deletion's place, of a key that was both put and deleted.
    pub deleted: u64,
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
            0 => RowKind::Delete,
            1 => RowKind::Put,
            2 => RowKind::PutAndDelete,
            3 => RowKind::DeleteAndPut,
            _ => return Err(Malformed("unknown row")),
        };
        let (order, prev, create) = (input.varint()?, Revision(input.varint()?), Revision(input.varint()?));
        let (version, expires, lease) = (input.varint()?, input.option()?, input.signed()?);
        let both = matches!(kind, RowKind::PutAndDelete | RowKind::DeleteAndPut);
        let deleted = if both { input.varint()? } else { 0 };
        let entry = Entry {
            key: key.slice(PREFIX..),
            value: input.rest(),
            create_revision: create,
            mod_revision,
            version,
            expires,
            lease,
        };
        Ok(Self { kind, order, deleted, prev, entry })
    }
}

/// The key of a row.
pub fn row_key(epoch: u32, revision: Revision, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX + key.len());
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(&revision.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The part of a row's key that is the store's key, if it is a row's key at all.
pub fn key_of_row(key: &[u8]) -> Option<&[u8]> {
    key.get(PREFIX..)
}

/// The revision in a row's key.
pub fn revision_of_row(key: &[u8]) -> Option<Revision> {
    Some(Revision(u64::from_be_bytes(key.get(4..PREFIX)?.try_into().ok()?)))
}

/// The rows that record the events of one revision.
pub fn event_rows(epoch: u32, events: &[Event]) -> Vec<(Vec<u8>, Bytes)> {
    // A key that was both put and deleted has one row for both: the put's, which tells of the deletion.
    let deleted = if events.len() > 1 { put_and_deleted(events) } else { HashMap::new() };
    let numbered = events.iter().enumerate();
    let wanted = numbered.filter(|(_, event)| event.kind == EventKind::Put || !deleted.contains_key(&event.entry.key));
    let row = |(order, event): (usize, &Event)| match deleted.get(&event.entry.key) {
        None => event_row(epoch, order, event, None),
        Some(at) => {
            let before = event.prev.as_ref().or(events[*at].prev.as_ref()).cloned();
            event_row(epoch, order, &Event { prev: before, ..event.clone() }, Some(*at))
        }
    };
    wanted.map(row).collect()
}

/// The keys that were both put and deleted, and where among the events the deletion is.
fn put_and_deleted(events: &[Event]) -> HashMap<Bytes, usize> {
    let put: HashSet<&Bytes> = events.iter().filter(|e| e.kind == EventKind::Put).map(|e| &e.entry.key).collect();
    let numbered = events.iter().enumerate();
    let again = numbered.filter(|(_, e)| e.kind == EventKind::Delete && put.contains(&e.entry.key));
    again.map(|(order, event)| (event.entry.key.clone(), order)).collect()
}

fn event_row(epoch: u32, order: usize, event: &Event, deleted: Option<usize>) -> (Vec<u8>, Bytes) {
    let entry = &event.entry;
    let prev = event.prev.as_ref().map_or(Revision(0), |prev| prev.mod_revision);
    let mut out = Writer::with_capacity(entry.value.len() + 40);
    out.u8(match (event.kind, deleted) {
        (EventKind::Delete, _) => 0,
        (EventKind::Put, None) => 1,
        (EventKind::Put, Some(deleted)) if order < deleted => 2,
        (EventKind::Put, Some(_)) => 3,
    });
    out.varint(order as u64);
    out.varint(prev.0);
    out.varint(entry.create_revision.0);
    out.varint(entry.version);
    out.option(entry.expires);
    out.signed(entry.lease);
    if let (EventKind::Put, Some(deleted)) = (event.kind, deleted) {
        out.varint(deleted as u64);
    }
    out.raw(&entry.value);
    (row_key(epoch, entry.mod_revision, &entry.key), out.finish())
}

/// Where the mark of a second lies.
pub fn mark_key(second: u64) -> Vec<u8> {
    [MARKS, &second.to_be_bytes()].concat()
}

/// The last revision of a second.
pub fn mark_value(revision: Revision) -> Bytes {
    let mut out = Writer::default();
    out.varint(revision.0);
    out.finish()
}

/// Reads a mark back; `None`: what lies there is none.
pub fn decode_mark(key: &[u8], value: Bytes) -> Option<Result<(u64, Revision), Malformed>> {
    let second = u64::from_be_bytes(key.strip_prefix(MARKS)?.try_into().ok()?);
    Some(Reader::new(value).varint().map(|revision| (second, Revision(revision))))
}

/// A lease as stored: made with a time to live, or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseRow {
    pub id: i64,
    /// Seconds; `None` if it has ended.
    pub ttl: Option<i64>,
    /// Index of the entry that granted it.
    pub granted: u64,
}

const LEASES: &[u8] = b"lease/";

/// Where a lease's row lies.
pub fn lease_key(epoch: u32, id: i64) -> Vec<u8> {
    [LEASES, &epoch.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// Where the leases of an epoch lie: from, and up to but without.
pub fn lease_span(epoch: u32) -> (Vec<u8>, Vec<u8>) {
    ([LEASES, &epoch.to_be_bytes()].concat(), [LEASES, &(epoch + 1).to_be_bytes()].concat())
}

/// The value of a lease's row.
pub fn lease_value(ttl: i64, granted: u64) -> Bytes {
    let mut out = Writer::default();
    out.signed(ttl);
    out.varint(granted);
    out.finish()
}

/// Reads a lease's row back.
pub fn decode_lease(key: &[u8], value: Bytes) -> Result<LeaseRow, Malformed> {
    let id = key.last_chunk().filter(|_| key.len() == LEASES.len() + PREFIX).ok_or(Malformed("lease key"))?;
    let mut input = Reader::new(value);
    Ok(LeaseRow { id: i64::from_be_bytes(*id), ttl: Some(input.signed()?), granted: input.varint()? })
}

/// What the state machine's rows amount to; written in the same batch as the rows themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateRecord {
    pub epoch: u32,
    pub revision: Revision,
    /// `None` as long as nothing was compacted.
    pub compacted: Option<Revision>,
    pub applied: Option<EntryId>,
    /// The feature level.
    pub level: Level,
    /// What keys and leases amount to; not told below `Level::DIGESTS`.
    pub sum: Option<Sum>,
}

impl Default for StateRecord {
    fn default() -> Self {
        Self { epoch: 1, revision: Revision(1), compacted: None, applied: None, level: Level::FIRST, sum: None }
    }
}

impl StateRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(48);
        out.varint(u64::from(self.epoch));
        out.varint(self.revision.0);
        out.option(self.compacted.map(|revision| revision.0));
        out.entry_id(self.applied);
        // Programs of the first level read no further, and refuse what goes on.
        if self.level >= Level::DIGESTS {
            out.varint(u64::from(self.level.0));
            out.raw(&self.sum.unwrap_or_default().0.to_be_bytes());
        }
        out.finish()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Reader::new(bytes);
        let epoch = u32::try_from(input.varint()?).map_err(|_| Malformed("epoch"))?;
        let (revision, compacted) = (Revision(input.varint()?), input.option()?.map(Revision));
        let applied = input.entry_id()?;
        let (mut level, mut sum) = (Level::FIRST, None);
        if !input.is_empty() {
            level = Level(u32::try_from(input.varint()?).map_err(|_| Malformed("level"))?);
            let bytes = input.rest();
            sum = Some(Sum(u128::from_be_bytes(bytes[..].try_into().map_err(|_| Malformed("sum"))?)));
        }
        Ok(Self { epoch, revision, compacted, applied, level, sum })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn entry(revision: u64) -> Entry {
        Entry {
            key: Bytes::from_static(b"/k"),
            value: Bytes::from_static(b"value"),
            create_revision: Revision(3),
            mod_revision: Revision(revision),
            version: 9,
            expires: Some(5),
            lease: -8,
        }
    }

    fn decode(rows: Vec<(Vec<u8>, Bytes)>) -> Vec<Row> {
        rows.into_iter().map(|(key, value)| Row::decode(key.into(), value).unwrap()).collect()
    }

    #[test]
    fn rows_read_back() {
        let prev = Some(Arc::new(entry(6)));
        let event = Event { kind: EventKind::Put, entry: Arc::new(entry(700)), prev: prev.clone() };
        let rows = event_rows(2, std::slice::from_ref(&event));
        let key = &rows[0].0;
        assert_eq!((revision_of_row(key), key_of_row(key)), (Some(Revision(700)), Some(&b"/k"[..])));
        let row = Row { kind: RowKind::Put, order: 0, deleted: 0, prev: Revision(6), entry: entry(700) };
        assert_eq!(decode(rows), [row]);
        let gone = Event { kind: EventKind::Delete, entry: Arc::new(entry(700)), prev };
        let both = Row { kind: RowKind::PutAndDelete, order: 0, deleted: 1, prev: Revision(6), entry: entry(700) };
        let rows = event_rows(2, &[event.clone(), gone.clone()]);
        assert_eq!(decode(rows), std::slice::from_ref(&both));
        let anew = Event { prev: None, ..event };
        let both = Row { kind: RowKind::DeleteAndPut, order: 1, deleted: 0, ..both };
        assert_eq!(decode(event_rows(2, &[gone, anew])), [both]);
        for compacted in [None, Some(Revision(0)), Some(Revision(5))] {
            let record = StateRecord {
                applied: Some(EntryId { term: crate::Term(3), index: 9 }),
                compacted,
                ..StateRecord::default()
            };
            assert_eq!(StateRecord::decode(record.encode()), Ok(record));
        }
        for id in [0, -1, i64::MAX] {
            let row = LeaseRow { id, ttl: Some(60), granted: 9 };
            assert_eq!(decode_lease(&lease_key(7, id), lease_value(60, 9)), Ok(row));
            let (from, to) = lease_span(7);
            assert!(from < lease_key(7, id) && lease_key(7, id) < to);
        }
        for second in [0, 1_800_000_000] {
            let mark = decode_mark(&mark_key(second), mark_value(Revision(9)));
            assert_eq!(mark, Some(Ok((second, Revision(9)))));
        }
        assert_eq!(decode_mark(STATE_KEY, Bytes::new()), None);
    }
}
