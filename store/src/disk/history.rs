//! Reading the past: events since a revision, and keys as they were at one.
//!
//! Invariants
//! - Every event after the compacted revision can be read, with the state before it.
//! - Rows are read only up to a revision that is known to be in the database.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use bytes::Bytes;

use crate::disk::db::{Families, Family};
use kontiki_state::{
    Batch, Entry, Event, EventKind, KeyRange, Revision, Snapshot,
    codec::Malformed,
    rows::{Row, RowKind, STATE_KEY, StateRecord, key_of_row, lease_span, revision_of_row, row_key},
};

/// Limits of one step of catching up.
const STEP_ROWS: usize = 20_000;
const STEP_EVENTS: usize = 1000;

/// Part of the past.
pub(crate) struct Step {
    pub batches: Vec<Batch>,
    /// Everything up to here is in `batches` or did not match.
    pub upto: Revision,
}

/// Calls `visit` with the raw rows of revisions in `(after, upto]`, until it says stop.
pub(crate) fn scan(
    db: &Families<'_>,
    epoch: u32,
    after: Revision,
    upto: Revision,
    mut visit: impl FnMut(&[u8], Box<[u8]>) -> io::Result<bool>,
) -> io::Result<()> {
    let start = row_key(epoch, after.next(), b"");
    let end = row_key(epoch, upto.next(), b"");
    for row in db.scan(Family::Rows, &start)? {
        let (key, value) = row?;
        if key[..] >= end[..] || !visit(&key, value)? {
            break;
        }
    }
    Ok(())
}

/// Calls `visit` with the raw rows of an epoch's leases.
pub(crate) fn scan_leases(
    db: &Families<'_>,
    epoch: u32,
    mut visit: impl FnMut(&[u8], Bytes) -> io::Result<()>,
) -> io::Result<()> {
    let (from, to) = lease_span(epoch);
    for row in db.scan(Family::Rows, &from)? {
        let (key, value) = row?;
        if key[..] >= to[..] {
            break;
        }
        visit(&key, value.into_vec().into())?;
    }
    Ok(())
}

/// The next events of `range` after a revision, up to `upto` at most. What was before revisions that
/// follow compacted ones is not told.
pub(crate) fn step(
    db: &Families<'_>,
    epoch: u32,
    range: &KeyRange,
    after: Revision,
    upto: Revision,
    compacted: Revision,
) -> io::Result<Step> {
    let mut rows: Vec<Row> = Vec::new();
    let (mut scanned, mut at, mut cut) = (0, after, false);
    scan(db, epoch, after, upto, |key, value| {
        let revision = revision_of_row(key).unwrap_or_default();
        // A revision is never split, however many keys it changed.
        if revision != at && (scanned >= STEP_ROWS || rows.len() >= STEP_EVENTS) {
            cut = true;
            return Ok(false);
        }
        at = revision;
        scanned += 1;
        if key_of_row(key).is_some_and(|key| range.contains(key)) {
            rows.push(decode(key, value)?);
        }
        Ok(true)
    })?;
    let batches = rows.chunk_by(|a, b| a.entry.mod_revision == b.entry.mod_revision);
    let batches = batches.map(|rows| batch(db, epoch, rows, compacted));
    Ok(Step { batches: batches.collect::<io::Result<_>>()?, upto: if cut { at } else { upto } })
}

/// The keys of `range` as they were at `revision`, given how they are now.
pub(crate) fn range_at(
    db: &Families<'_>,
    epoch: u32,
    range: &KeyRange,
    revision: Revision,
    now: &Snapshot,
) -> io::Result<Vec<Arc<Entry>>> {
    // The first change of a key after `revision` tells what the key was at it.
    let mut undo: HashMap<Bytes, Revision> = HashMap::new();
    scan(db, epoch, revision, now.revision(), |key, value| {
        if let Some(name) = key_of_row(key).filter(|name| range.contains(name))
            && !undo.contains_key(name)
        {
            let row = decode(key, value)?;
            undo.insert(row.entry.key, row.prev);
        }
        Ok(true)
    })?;
    let unchanged = now.entries(range).into_iter().filter(|entry| !undo.contains_key(&entry.key));
    let mut then: BTreeMap<Bytes, Arc<Entry>> = unchanged.map(|entry| (entry.key.clone(), entry)).collect();
    for (key, prev) in undo {
        if let Some(entry) = superseded(db, epoch, prev, &key)? {
            then.insert(key, Arc::new(entry));
        }
    }
    Ok(then.into_values().collect())
}

/// The events that the rows of one revision record, in their order.
fn batch(db: &Families<'_>, epoch: u32, rows: &[Row], compacted: Revision) -> io::Result<Batch> {
    let mut events: Vec<(u64, Event)> = Vec::with_capacity(rows.len());
    for row in rows {
        let known = row.entry.mod_revision.0 > compacted.0;
        let prev = if known { superseded(db, epoch, row.prev, &row.entry.key)?.map(Arc::new) } else { None };
        if row.kind != RowKind::Delete {
            let entry = Arc::new(row.entry.clone());
            let prev = if row.kind == RowKind::DeleteAndPut { None } else { prev.clone() };
            events.push((row.order, Event { kind: EventKind::Put, entry, prev }));
        }
        if row.kind != RowKind::Put {
            let order = if row.kind == RowKind::Delete { row.order } else { row.deleted };
            let entry = Entry {
                value: Bytes::new(),
                create_revision: Revision(0),
                version: 0,
                expires: None,
                lease: 0,
                ..row.entry.clone()
            };
            events.push((order, Event { kind: EventKind::Delete, entry: Arc::new(entry), prev }));
        }
    }
    events.sort_by_key(|(order, _)| *order);
    Ok(events.into_iter().map(|(_, event)| event).collect())
}

/// The row that one at `revision` or later superseded.
fn superseded(db: &Families<'_>, epoch: u32, revision: Revision, key: &[u8]) -> io::Result<Option<Entry>> {
    if revision == Revision(0) {
        return Ok(None);
    }
    let at = row_key(epoch, revision, key);
    let Some(value) = db.get(Family::Rows, &at)? else { return Ok(None) };
    let row = decode(&at, value.into_boxed_slice())?;
    Ok(matches!(row.kind, RowKind::Put | RowKind::DeleteAndPut).then_some(row.entry))
}

/// How far the rows in the database go.
pub(crate) fn state_record(db: &Families<'_>) -> io::Result<StateRecord> {
    match db.get(Family::Rows, STATE_KEY)? {
        Some(bytes) => StateRecord::decode(bytes.into()).map_err(invalid),
        None => Ok(StateRecord::default()),
    }
}

/// Reads a row, or says that the database is damaged.
pub(crate) fn decode(key: &[u8], value: impl Into<Bytes>) -> io::Result<Row> {
    Row::decode(Bytes::copy_from_slice(key), value.into()).map_err(invalid)
}

/// The database holds what it should not.
pub(crate) fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
