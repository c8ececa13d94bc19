//! Forgets the past: decides how far, and removes the rows that nobody can ask for any more.

use std::{collections::VecDeque, io, sync::Arc};

use super::Keep;
use crate::{
    Past,
    disk::{
        db::{Db, Families, Family},
        dump::swept,
        history::{decode, scan, state_record},
        past::{Marks, remove_marks},
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
/// The past takes at most one part in so many of what is free on the disk.
const SHARE: u64 = 4;

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
        let now = rt::unix_seconds();
        let sweep = move || if disk.is_full() { Ok(()) } else { sweep_rows(&db, disk.writer(), keep.past, now) };
        let swept = rt::blocking(sweep);
        if let Err(error) = swept.await.and_then(|swept| swept) {
            tracing::warn!(%error, "removing old history failed");
        }
    }
}

/// What may be removed is what the database says is compacted. This member may show more already, but would
/// show less again after a crash, and answer from rows that are gone.
fn sweep_rows(db: &Db, writer: &BatchWriter, past: Past, now: u64) -> io::Result<()> {
    let record = db.with(|families| state_record(&families))?;
    let (epoch, Some(compacted)) = (record.epoch, record.compacted) else { return Ok(()) };
    let mut at = db.with(|families| swept(&families, epoch))?;
    let free = db.space().map_or(u64::MAX, |(free, _)| free);
    let past = Past { bytes: past.bytes.min(free / SHARE), ..past };
    let upto = db.with(|families| reach(&families, epoch, at, compacted, past, now))?;
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
            remove_marks(&families, &mut batch, reached)?;
            batch.put(Family::Rows, SWEPT_KEY, swept_value(epoch, reached));
            families.write(batch, false)?;
            Ok(reached)
        })?;
        from = at;
    }
    Ok(())
}

/// How far rows go: what is compacted and older than the past that is kept, and more if that has too many bytes.
fn reach(
    db: &Families<'_>,
    epoch: u32,
    swept: Revision,
    compacted: Revision,
    past: Past,
    now: u64,
) -> io::Result<Revision> {
    let until = now.saturating_sub(past.time.as_secs());
    if past == Past::NONE {
        return Ok(compacted);
    }
    let old = Marks::read_until(db, |second, _| second > until)?.at(until).unwrap_or_default();
    let from = old.max(swept).min(compacted);
    let end = row_key(epoch, compacted, b"");
    let fits = |from: Revision| db.span_size(Family::Rows, &row_key(epoch, from, b""), &end) <= past.bytes;
    if fits(from) {
        return Ok(from);
    }
    Ok(Marks::read(db)?.first(from, fits).map_or(compacted, |first| first.min(compacted)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        Config,
        disk::past::{Change, Question, When, tell},
    };
    use kontiki_state::{
        Entry, Event, EventKind,
        rows::{STATE_KEY, StateRecord, event_rows, mark_key, mark_value},
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
        sweep_rows(&db, &writer, Past::NONE, 0).unwrap();
        assert_eq!(rows(), [2, 3, 4], "nothing is compacted");
        write(Some(Revision(3))).unwrap();
        sweep_rows(&db, &writer, Past::NONE, 0).unwrap();
        assert_eq!(rows(), [3, 4], "what was at the compacted revision can still be read");
        db.close();
    }

    /// Revision `n` is of the second `100 * n`, and all but the last is compacted.
    #[test]
    fn the_past_is_kept_for_its_time_and_within_its_bytes() {
        const ALL: u64 = 1 << 30;
        let kept = |time: u64, bytes: u64, now: u64| {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open(&Config::unconnected(1, dir.path()), "test").unwrap();
            let writer = crate::disk::writer::tests::writer();
            let epoch = StateRecord::default().epoch;
            let mut prev = None;
            db.with(|families| {
                let mut batch = families.batch();
                for revision in 2..=9 {
                    let event = put(revision, prev.take());
                    let entry = Entry { value: noise(revision, 100_000), ..Entry::clone(&event.entry) };
                    let event = Event { entry: Arc::new(entry), ..event };
                    let (key, value) = event_rows(epoch, std::slice::from_ref(&event)).remove(0);
                    batch.put(Family::Rows, key, value);
                    batch.put(Family::Rows, mark_key(revision * 100), mark_value(Revision(revision)));
                    prev = Some(event.entry);
                }
                let compacted = Some(Revision(8));
                let record = StateRecord { revision: Revision(9), compacted, ..StateRecord::default() };
                batch.put(Family::Rows, STATE_KEY, record.encode());
                families.write(batch, false)?;
                families.flush()
            })
            .unwrap();
            sweep_rows(&db, &writer, Past { time: std::time::Duration::from_secs(time), bytes }, now).unwrap();
            let ask = |upto| {
                let question = Question { key: Bytes::from_static(b"a"), upto, limit: 100, bytes: usize::MAX };
                db.with(|families| tell(&families, epoch, &question, Revision(9), Some(Revision(9)))).unwrap()
            };
            let told = ask(When::Now);
            let revisions: Vec<u64> = told.changes.iter().map(|change| change.revision.0).collect();
            assert!(told.changes.iter().all(|change| change.second == Some(change.revision.0 * 100)), "{told:?}");
            if time > 0 {
                assert_eq!(ask(When::Second(850)).upto, Some(Revision(8)));
            }
            db.close();
            (told.since.0, told.since_second, revisions)
        };
        let down_to = |last: u64| (last..=9).rev().collect::<Vec<_>>();
        for (name, time, bytes, now, since, last) in [
            ("nothing but what is not compacted", 0, 0, 10_000, 8, 8),
            ("young enough", 1000, ALL, 900, 0, 2),
            ("as old as may be", 300, ALL, 900, 6, 6),
            ("older than all that is compacted", 10, ALL, 900, 8, 8),
            ("of a time to come", 300, ALL, 0, 0, 2),
            ("too many bytes", 1000, 350_000, 900, 5, 5),
            ("no room at all", 1000, 0, 900, 8, 8),
        ] {
            let (seen, second, revisions) = kept(time, bytes, now);
            assert_eq!((seen, revisions), (since, down_to(last)), "{name}");
            assert_eq!(second, Some(since.max(2) * 100), "{name}");
        }
    }

    /// Bytes that do not repeat, or they would be packed to nothing.
    fn noise(seed: u64, len: usize) -> Bytes {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        };
        (0..len / 8).flat_map(|_| next()).collect::<Vec<_>>().into()
    }

    /// A key made, changed, deleted and made again, among others.
    #[test]
    fn what_became_of_a_key_is_told_across_its_deletions() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Config::unconnected(1, dir.path()), "test").unwrap();
        let epoch = StateRecord::default().epoch;
        let (two, five) = (put(2, None), put(5, None));
        let three = put(3, Some(Arc::clone(&two.entry)));
        let gone = Event { kind: EventKind::Delete, entry: put(4, None).entry, prev: Some(Arc::clone(&three.entry)) };
        let six = put(6, Some(Arc::clone(&five.entry)));
        db.with(|families| {
            let mut batch = families.batch();
            for event in [&two, &three, &gone, &five, &six] {
                let (key, value) = event_rows(epoch, std::slice::from_ref(event)).remove(0);
                batch.put(Family::Rows, key, value);
                batch.put(Family::Rows, row_key(epoch, event.entry.mod_revision, b"another"), b"x");
            }
            families.write(batch, false)
        })
        .unwrap();
        let told = |key: &'static [u8], upto: u64, limit, own: Option<u64>| {
            let upto = When::Revision(Revision(upto));
            let question = Question { key: Bytes::from_static(key), upto, limit, bytes: usize::MAX };
            let told = db.with(|families| tell(&families, epoch, &question, Revision(6), own.map(Revision))).unwrap();
            let change = |change: &Change| (change.revision.0, change.entry.is_some());
            (told.changes.iter().map(change).collect::<Vec<_>>(), told.more)
        };
        let all = [(6, true), (5, true), (4, false), (3, true), (2, true)];
        for (name, upto, limit, expect, more) in [
            ("all of it", 6, 9, &all[..], false),
            ("a page", 6, 2, &all[..2], true),
            ("the next one", 4, 2, &all[2..4], true),
            ("the last one", 2, 2, &all[4..], false),
            ("while it was gone", 4, 1, &all[2..3], true),
            ("before it was", 1, 9, &[], false),
        ] {
            assert_eq!(told(b"a", upto, limit, Some(6)), (expect.to_vec(), more), "{name}");
        }
        assert_eq!(told(b"b", 6, 9, None), (Vec::new(), false), "a key that never was");
        db.close();
    }
}
