//! Gives memory and disk back once a member has little to do.
//!
//! Invariants
//! - A member that has written little since the last time does nothing.
//! - What is kept does not change: only copies of it, and what was deleted, go.

use std::{io, sync::Arc, time::Duration};

use crate::{
    disk::db::{Db, Families, Family},
    raft::engine::Core,
    rt,
    types::LogId,
};

const LOOK: Duration = Duration::from_secs(5);
/// Bytes written between two looks that count as rest: Leases, and what a few people do.
const LITTLE: u64 = 256 << 10;
/// Looks in a row that make rest: a sweep of the past writes now and then while it is at work.
const CALM: u32 = 2;
/// Bytes written since the last time that are worth the trouble.
const WORTH: u64 = 4 << 20;
/// Bytes of log that a member at rest keeps for others that are behind.
const LOG: u64 = 8 << 20;
/// Bytes of files that may hold what was deleted, beyond half of what is alive.
const SLACK: u64 = 8 << 20;

/// Looks until the store stops.
pub(crate) async fn settle(core: Arc<Core>, db: Arc<Db>) {
    let mut rest = Rest::default();
    let mut swept = Swept::default();
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(LOOK) => {}
        }
        let written = core.disk.writer().bytes();
        if !rest.is_calm(written) || core.disk.is_full() {
            continue;
        }
        let due = is_due(&core, &db, rest.is_worth(written), &swept).unwrap_or_else(|error| {
            tracing::debug!(%error, "the size of the files is not known");
            false
        });
        if !due {
            continue;
        }
        match settle_now(&core, &db, swept.clone()).await {
            Ok(after) => swept = after,
            Err(error) => tracing::debug!(%error, "memory and disk were not given back"),
        }
        rest.settled(core.disk.writer().bytes());
    }
}

/// Whether a calm member has anything to give back.
fn is_due(core: &Core, db: &Db, worth: bool, swept: &Swept) -> io::Result<bool> {
    if worth || core.log.beyond(LOG).is_some() {
        return Ok(true);
    }
    db.with(|families| {
        Ok(log_files(core, &families)?.is_littered_since(swept.log)
            || row_files(core, &families)?.is_littered_since(swept.rows))
    })
}

/// What the files of a family hold, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Files {
    size: u64,
    alive: u64,
    /// Deleted since the start, about.
    deleted: u64,
}

impl Files {
    /// Whether the files hold more of what was deleted than they may, and more than a compaction left in them that
    /// found them as `left`: what may still be asked for stays, however large.
    fn is_littered_since(self, left: Self) -> bool {
        let changed =
            self.size.abs_diff(left.size) + self.alive.abs_diff(left.alive) + self.deleted.abs_diff(left.deleted);
        self.size > self.alive + self.alive / 2 + SLACK && changed >= WORTH
    }
}

/// The files as the last compaction left them.
#[derive(Clone, Default)]
struct Swept {
    log: Files,
    rows: Files,
}

fn log_files(core: &Core, families: &Families<'_>) -> io::Result<Files> {
    Ok(Files { size: families.size(Family::Log)?, alive: core.log.bytes(), deleted: 0 })
}

fn row_files(core: &Core, families: &Families<'_>) -> io::Result<Files> {
    let alive = core.view.look(kontiki_state::Snapshot::bytes);
    Ok(Files { size: families.size(Family::Rows)?, alive, deleted: core.disk.writer().deleted() })
}

/// How much was written, and when it was last looked at.
#[derive(Default)]
struct Rest {
    settled: u64,
    looked: u64,
    /// Looks in a row that found little written.
    calm: u32,
}

impl Rest {
    /// Whether nothing is at work that would take again at once what is given back.
    fn is_calm(&mut self, written: u64) -> bool {
        let lately = written.saturating_sub(self.looked);
        self.looked = written;
        self.calm = if lately <= LITTLE { self.calm.saturating_add(1) } else { 0 };
        self.calm >= CALM
    }

    /// Whether enough was written since the last time that there is something to give back.
    fn is_worth(&self, written: u64) -> bool {
        written.saturating_sub(self.settled) >= WORTH
    }

    fn settled(&mut self, written: u64) {
        (self.settled, self.looked, self.calm) = (written, written, 0);
    }
}

/// Gives back what can be; tells how the files are then.
async fn settle_now(core: &Arc<Core>, db: &Arc<Db>, mut swept: Swept) -> io::Result<Swept> {
    trim_log(core).await?;
    let (db, core) = (Arc::clone(db), Arc::clone(core));
    rt::blocking(move || {
        db.with(|families| {
            families.flush()?;
            if log_files(&core, &families)?.is_littered_since(swept.log) {
                families.compact(Family::Log);
                swept.log = log_files(&core, &families)?;
            }
            let before = row_files(&core, &families)?;
            if before.is_littered_since(swept.rows) {
                families.compact(Family::Rows);
                // What is deleted meanwhile may be in them still.
                swept.rows = Files { deleted: before.deleted, ..row_files(&core, &families)? };
            }
            tracing::debug!(log = ?log_files(&core, &families)?, rows = ?row_files(&core, &families)?, "settled");
            Ok(())
        })?;
        core.log.shrink();
        give_back();
        Ok(swept)
    })
    .await?
}

/// Drops the head of the log that only members need who are behind by more than `LOG` bytes. A snapshot serves them.
async fn trim_log(core: &Core) -> io::Result<()> {
    let Some(upto) = core.log.beyond(LOG) else { return Ok(()) };
    let stopped = |_| crate::disk::failure::stopped();
    core.raft.trigger().snapshot().await.map_err(stopped)?;
    let wait = core.raft.wait(Some(LOOK));
    let reached = |id: Option<LogId>| id.is_some_and(|id| id.index >= upto);
    if wait.metrics(|metrics| reached(metrics.snapshot), "snapshot").await.is_ok() {
        core.raft.trigger().purge_log(upto).await.map_err(stopped)?;
        // A member that is being sent the log holds it: the next time takes it.
        drop(wait.metrics(|metrics| reached(metrics.purged), "purge").await);
    }
    Ok(())
}

/// Has the C library's allocator, which RocksDB uses, give back what is free.
fn give_back() {
    if rt::simulated() {
        return;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_settles_once_after_much_was_written() {
        let mut rest = Rest::default();
        let mut due = |written: u64| {
            let due = rest.is_calm(written) && rest.is_worth(written);
            if due {
                rest.settled(written + 100);
            }
            due
        };
        for (name, written, expect) in [
            ("a new one", 1000, false),
            ("little", 2000, false),
            ("busy", 50 << 20, false),
            ("busy still", 60 << 20, false),
            ("a moment without work", (60 << 20) + 4000, false),
            ("at rest", (60 << 20) + 5000, true),
            ("at rest again", (60 << 20) + 9000, false),
            ("leases alone", (60 << 20) + LITTLE, false),
            ("busy again", 65 << 20, false),
            ("a moment", (65 << 20) + 5000, false),
            ("and at rest", (65 << 20) + 5000, true),
        ] {
            assert_eq!(due(written), expect, "{name}");
        }
    }

    #[test]
    fn files_are_rewritten_when_they_hold_what_was_deleted_and_never_for_what_is_kept() {
        const MIB: u64 = 1 << 20;
        let files = |size: u64, alive: u64, deleted: u64| Files {
            size: size * MIB,
            alive: alive * MIB,
            deleted: deleted * MIB,
        };
        let new = Files::default();
        for (name, now, left, expect) in [
            ("an empty one", files(0, 0, 0), new, false),
            ("all of it alive", files(100, 100, 0), new, false),
            ("large after a restart, nothing counted", files(33, 0, 0), new, true),
            ("a little litter", files(8, 0, 8), new, false),
            ("the past, kept still", files(100, 1, 0), files(100, 1, 0), false),
            ("the past, deleted after it was looked at", files(100, 1, 90), files(100, 1, 0), true),
            ("as the last time left it", files(100, 1, 90), files(100, 1, 90), false),
            ("the log, purged after it was looked at", files(70, 2, 0), files(70, 64, 0), true),
            ("a few Leases later", files(101, 1, 92), files(100, 1, 90), false),
        ] {
            assert_eq!(now.is_littered_since(left), expect, "{name}");
        }
    }
}
