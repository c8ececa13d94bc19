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

use crate::{
    Entry, Event, EventKind, Revision, Snapshot,
    db::{Families, Family},
    hub::Batch,
    rows::{Row, key_of_row, revision_of_row, row_key},
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

/// The next events under `prefix` after a revision, up to `upto` at most.
pub(crate) fn step(db: &Families<'_>, epoch: u32, prefix: &[u8], after: Revision, upto: Revision) -> io::Result<Step> {
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
        if key_of_row(key).is_some_and(|key| key.starts_with(prefix)) {
            rows.push(decode(key, value)?);
        }
        Ok(true)
    })?;
    let batches = rows.chunk_by_mut(|a, b| a.entry.mod_revision == b.entry.mod_revision);
    let batches = batches.map(|rows| {
        rows.sort_by_key(|row| row.order);
        rows.iter().map(|row| event(db, epoch, row)).collect::<io::Result<Batch>>()
    });
    Ok(Step { batches: batches.collect::<io::Result<_>>()?, upto: if cut { at } else { upto } })
}

/// The keys under `prefix` as they were at `revision`, given how they are now.
pub(crate) fn range_at(
    db: &Families<'_>,
    epoch: u32,
    prefix: &[u8],
    revision: Revision,
    now: &Snapshot,
) -> io::Result<Vec<Entry>> {
    // The first change of a key after `revision` tells what the key was at it.
    let mut undo: HashMap<Bytes, Revision> = HashMap::new();
    scan(db, epoch, revision, now.revision(), |key, value| {
        if let Some(name) = key_of_row(key).filter(|name| name.starts_with(prefix))
            && !undo.contains_key(name)
        {
            let row = decode(key, value)?;
            undo.insert(row.entry.key, row.prev);
        }
        Ok(true)
    })?;
    let mut then: BTreeMap<Bytes, Entry> = now
        .range(prefix)
        .filter(|entry| !undo.contains_key(&entry.key))
        .map(|entry| (entry.key.clone(), Entry::clone(entry)))
        .collect();
    for (key, prev) in undo {
        if let Some(entry) = superseded(db, epoch, prev, &key)? {
            then.insert(key, entry);
        }
    }
    Ok(then.into_values().collect())
}

fn event(db: &Families<'_>, epoch: u32, row: &Row) -> io::Result<Event> {
    let prev = superseded(db, epoch, row.prev, &row.entry.key)?.map(Arc::new);
    Ok(Event { kind: row.kind, entry: Arc::new(row.entry.clone()), prev })
}

/// The row that one at `revision` or later superseded.
fn superseded(db: &Families<'_>, epoch: u32, revision: Revision, key: &[u8]) -> io::Result<Option<Entry>> {
    if revision == Revision(0) {
        return Ok(None);
    }
    let at = row_key(epoch, revision, key);
    let Some(value) = db.get(Family::Rows, &at)? else { return Ok(None) };
    let row = decode(&at, value.into_boxed_slice())?;
    Ok((row.kind == EventKind::Put).then_some(row.entry))
}

/// Reads a row, or says that the database is damaged.
pub(crate) fn decode(key: &[u8], value: Box<[u8]>) -> io::Result<Row> {
    Row::decode(Bytes::copy_from_slice(key), value.into_vec().into())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
