//! What has to be done from time to time: compaction, expiry, watching the disk.
//!
//! Invariants
//! - Whatever changes the state is a command of the leader, with the time or revision in it.
//! - At least `history` of the past stays readable, and not much more than that.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use crate::{
    Refusal, Revision, Term,
    command::{Action, Outcome},
    db::{Db, Family},
    dump::{swept, swept_value},
    engine::Core,
    history::{decode, scan, state_record},
    members,
    planted::{self, Bug},
    rows::{RowKind, SWEPT_KEY, revision_of_row, row_key},
    rt::{self, Instant},
};

const EXPIRY: Duration = Duration::from_millis(500);
/// Keys removed by one command, so that none takes long to apply.
const EXPIRE_LIMIT: u64 = 500;
const LEASES: Duration = Duration::from_millis(100);
const PROMOTE: Duration = Duration::from_millis(500);
const DISK: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_millis(50);
/// Rows looked at between two writes of a sweep.
const SWEEP_ROWS: usize = 5000;

/// How the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// How much stays readable at least.
    pub history: Duration,
    /// How often it is looked at: the most that stays beyond that.
    pub look: Duration,
}

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
        let swept = rt::blocking(move || if disk.is_full() { Ok(()) } else { sweep_rows(&db) });
        if let Err(error) = swept.await.and_then(|swept| swept) {
            tracing::warn!(%error, "removing old history failed");
        }
    }
}

/// What may be removed is what the database says is compacted. This member may show more already, but would
/// show less again after a crash, and answer from rows that are gone.
fn sweep_rows(db: &Db) -> io::Result<()> {
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

/// Removes keys whose time has come.
pub(crate) async fn expire(core: Arc<Core>) {
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(EXPIRY) => {}
        }
        let early = if planted::is(Bug::LeaseExpiresEarly) { 20 } else { 0 };
        let deadline = rt::unix_seconds() + early;
        while core.leads() && core.view.next_expiry() <= deadline {
            let command = Action::Expire { deadline, limit: EXPIRE_LIMIT }.encode();
            if let Err(error) = core.write(command).await {
                tracing::debug!(%error, "expiry was not written");
                break;
            }
        }
    }
}

/// Ends leases whose time is over.
pub(crate) async fn end_leases(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = rt::sleep(LEASES) => {}
        }
        // A leader whose own term has nothing applied yet may not know all leases.
        let leads = core.metrics(|metrics| {
            let current = metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
            (metrics.state.is_leader() && current).then_some(Term(metrics.current_term))
        });
        let Some(term) = leads else { continue };
        for id in core.lessor.due(term, core.view.snapshot().leases(), Instant::now()) {
            match core.write(Action::Revoke { id, fence: Some(term) }.encode()).await {
                Ok(Outcome::Done { .. } | Outcome::Refused(Refusal::LeaseNotFound)) => {}
                other => {
                    tracing::debug!(?other, id, "a lease could not be ended yet");
                    core.lessor.not_ended(id);
                }
            }
        }
    }
}

/// Lets learners vote that were added to do so, once they have caught up.
pub(crate) async fn promote(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = rt::sleep(PROMOTE) => {}
        }
        if !core.leads() {
            continue;
        }
        for id in members::waiting(&core) {
            match members::promote(&core, id).await {
                Ok(()) => tracing::info!(id, "the new member has caught up and votes now"),
                Err(error) => tracing::debug!(%error, id, "the new member does not vote yet"),
            }
        }
    }
}

/// Looks for room on the disk.
pub(crate) async fn watch_disk(core: Arc<Core>, db: Arc<Db>) {
    loop {
        let (disk, db) = (Arc::clone(&core.disk), Arc::clone(&db));
        if rt::blocking(move || disk.look(&db)).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(DISK) => {}
        }
    }
}

/// Hands over if this member leads and its disk does not keep up. A full disk is not handed over:
/// the others may be no better off, and could not even write down their vote.
pub(crate) async fn watch_stalls(core: Arc<Core>) {
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(STALL) => {}
        }
        let stalled = core.disk.health().stalled();
        if stalled > core.timing.election && !core.disk.is_full() && core.leads() {
            tracing::warn!(?stalled, "the disk has stalled; handing leadership over");
            if let Err(error) = members::transfer(&core, None).await {
                tracing::debug!(%error, "handing over did not work");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        Config, Entry, Event, EventKind,
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
        sweep_rows(&db).unwrap();
        assert_eq!(rows(), [2, 3, 4], "nothing is compacted");
        write(Some(Revision(3))).unwrap();
        sweep_rows(&db).unwrap();
        assert_eq!(rows(), [3, 4], "what was at the compacted revision can still be read");
        db.close();
    }
}
