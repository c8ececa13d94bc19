//! Forgets the past: decides how far, and removes the rows that nobody can ask for any more.

use std::{collections::VecDeque, io, sync::Arc};

use super::Keep;
use crate::{
    disk::{
        db::{Db, Family},
        dump::swept,
        history::{decode, scan, state_record},
        stream::swept_value,
        writer::BatchWriter,
    },
    raft::engine::Core,
    rt::{self, Instant},
};
use kontiki_state::{
    Revision,
    command::Action,
    planted::{self, Bug},
    rows::{RowKind, SWEPT_KEY, revision_of_row, row_key},
};

/// Rows looked at between two writes of a sweep.
const SWEEP_ROWS: usize = 5000;

/// Forgets the past bit by bit. Every member notes revisions, so a new leader knows them too.
pub(crate) async fn compact(core: Arc<Core>, keep: Keep) {
    let mut seen: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        seen.push_back((Instant::now(), core.view.snapshot().revision()));
        let mut old = None;
        while let Some((_, revision)) = seen.front().filter(|(at, _)| at.elapsed() >= keep.history) {
            old = Some(*revision);
            seen.pop_front();
        }
        if let Some(upto) = old
            && core.leads()
            && upto > core.view.compacted()
            && let Err(error) = core.write(Action::Compact { upto }.encode()).await
        {
            // The next look tries a later revision.
            tracing::debug!(%error, "compaction was not written");
        }
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(keep.look) => {}
        }
    }
}

/// Removes the rows of what was compacted.
pub(crate) async fn sweep(core: Arc<Core>, db: Arc<Db>, keep: Keep) {
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(keep.look) => {}
        }
        let (db, disk) = (Arc::clone(&db), Arc::clone(&core.disk));
        let swept = rt::blocking(move || if disk.is_full() { Ok(()) } else { sweep_rows(&db, disk.writer()) });
        if let Err(error) = swept.await.and_then(|swept| swept) {
            tracing::warn!(%error, "removing old history failed");
        }
    }
}

/// What may be removed is what the database says is compacted. This member may show more already, but would
/// show less again after a crash, and answer from rows that are gone.
fn sweep_rows(db: &Db, writer: &BatchWriter) -> io::Result<()> {
    let record = db.with(|families| state_record(&families))?;
    let (epoch, Some(upto)) = (record.epoch, record.compacted) else { return Ok(()) };
    let mut at = db.with(|families| swept(&families, epoch))?;
    // What was deleted at the last compacted revision itself was kept until now.
    let mut from = Revision(at.0.saturating_sub(1));
    while at < upto {
        at = db.with(|families| {
            let (mut batch, mut rows, mut done) = (families.batch(), 0, at);
            let mut reached = upto;
            scan(&families, epoch, from, upto, |key, value| {
                let revision = revision_of_row(key).unwrap_or_default();
                if rows >= SWEEP_ROWS && revision != done {
                    reached = done;
                    return Ok(false);
                }
                (rows, done) = (rows + 1, revision);
                let row = decode(key, value)?;
                if row.prev != Revision(0) {
                    // What it superseded was about as large.
                    writer.add_deleted((row.entry.key.len() + row.entry.value.len()) as u64);
                    batch.delete(Family::Rows, row_key(epoch, row.prev, &row.entry.key));
                }
                let gone = matches!(row.kind, RowKind::Delete | RowKind::PutAndDelete) && revision != upto;
                if gone || (planted::is(Bug::SweepsLiveRows) && rows % 16 == 0) {
                    batch.delete(Family::Rows, key);
                }
                Ok(true)
            })?;
            batch.put(Family::Rows, SWEPT_KEY, swept_value(epoch, reached));
            families.write(batch, false)?;
            Ok(reached)
        })?;
        from = at;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Config;
    use kontiki_state::{
        Entry, Event, EventKind,
        rows::{STATE_KEY, StateRecord, event_rows},
    };

    fn put(revision: u64, prev: Option<Arc<Entry>>) -> Event {
        let revision = Revision(revision);
        let (key, value) = (Bytes::from_static(b"a"), Bytes::new());
        let entry = Entry {
            key,
            value,
            create_revision: Revision(2),
            mod_revision: revision,
            version: 1,
            expires: None,
            lease: 0,
        };
        Event { kind: EventKind::Put, entry: Arc::new(entry), prev }
    }

    /// Seed 901 of the simulation: a member that had swept further than its database was compacted came back
    /// and told of a past that was not.
    #[test]
    fn a_sweep_goes_no_further_than_the_database_is_compacted() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Config::unconnected(1, dir.path()), "test").unwrap();
        let writer = crate::disk::writer::tests::writer();
        let epoch = StateRecord::default().epoch;
        let one = put(2, None);
        let two = put(3, Some(Arc::clone(&one.entry)));
        let three = put(4, Some(Arc::clone(&two.entry)));
        let record = |compacted| StateRecord { revision: Revision(4), compacted, ..StateRecord::default() };
        let write = |compacted| {
            db.with(|families| {
                let mut batch = families.batch();
                for (key, value) in [&one, &two, &three].iter().flat_map(|event| event_rows(epoch, &[(*event).clone()]))
                {
                    batch.put(Family::Rows, key, value);
                }
                batch.put(Family::Rows, STATE_KEY, record(compacted).encode());
                families.write(batch, false)
            })
        };
        let rows = || {
            let has = |revision| {
                db.with(|f| f.get(Family::Rows, row_key(epoch, Revision(revision), b"a"))).unwrap().is_some()
            };
            [2, 3, 4].into_iter().filter(|revision| has(*revision)).collect::<Vec<_>>()
        };
        write(None).unwrap();
        sweep_rows(&db, &writer).unwrap();
        assert_eq!(rows(), [2, 3, 4], "nothing is compacted");
        write(Some(Revision(3))).unwrap();
        sweep_rows(&db, &writer).unwrap();
        assert_eq!(rows(), [3, 4], "what was at the compacted revision can still be read");
        db.close();
    }
}
