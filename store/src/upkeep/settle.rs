//! Gives memory and disk back once a member has little to do.
//!
//! Invariants
//! - A member that has written little since the last time does nothing.
//! - What is kept does not change: only copies of it, and what was deleted, go.

use std::{io, sync::Arc, time::Duration};

use crate::{
    disk::db::{Db, Family},
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
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(LOOK) => {}
        }
        let alive = core.view.look(kontiki_state::Snapshot::bytes);
        let littered = is_littered(core.disk.health().garbage(), alive);
        if !rest.is_due(core.disk.health().bytes(), littered) || core.disk.is_full() {
            continue;
        }
        if let Err(error) = settle_now(&core, &db).await {
            tracing::debug!(%error, "memory and disk were not given back");
        }
        rest.settled(core.disk.health().bytes());
    }
}

/// Whether files hold more of what was deleted than they may.
fn is_littered(garbage: u64, alive: u64) -> bool {
    garbage > alive / 2 + SLACK
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
    /// Whether there is something to give back and nothing that would take it again at once.
    fn is_due(&mut self, written: u64, littered: bool) -> bool {
        let lately = written.saturating_sub(self.looked);
        self.looked = written;
        self.calm = if lately <= LITTLE { self.calm.saturating_add(1) } else { 0 };
        self.calm >= CALM && (littered || written.saturating_sub(self.settled) >= WORTH)
    }

    fn settled(&mut self, written: u64) {
        (self.settled, self.looked, self.calm) = (written, written, 0);
    }
}

async fn settle_now(core: &Arc<Core>, db: &Arc<Db>) -> io::Result<()> {
    trim_log(core).await?;
    let alive = core.view.look(kontiki_state::Snapshot::bytes);
    let (db, core) = (Arc::clone(db), Arc::clone(core));
    rt::blocking(move || {
        db.with(|families| {
            families.flush()?;
            let log = core.log.bytes();
            if is_littered(families.size(Family::Log)?.saturating_sub(log), log) {
                families.compact(Family::Log);
            }
            let health = core.disk.health();
            if is_littered(health.garbage(), alive) {
                families.compact(Family::Rows);
                health.swept_up();
            }
            Ok(())
        })?;
        core.log.shrink();
        give_back();
        Ok(())
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
        let mut due = |written: u64, littered| {
            let due = rest.is_due(written, littered);
            if due {
                rest.settled(written + 100);
            }
            due
        };
        for (name, written, littered, expect) in [
            ("a new one", 1000, false, false),
            ("little", 2000, false, false),
            ("busy", 50 << 20, false, false),
            ("busy still", 60 << 20, true, false),
            ("a moment without work", (60 << 20) + 4000, false, false),
            ("at rest", (60 << 20) + 5000, false, true),
            ("at rest again", (60 << 20) + 9000, false, false),
            ("leases alone", (60 << 20) + LITTLE, false, false),
            ("what was deleted goes", (60 << 20) + LITTLE, true, true),
            ("busy again", 65 << 20, false, false),
            ("a moment", (65 << 20) + 5000, false, false),
            ("and at rest", (65 << 20) + 5000, false, true),
        ] {
            assert_eq!(due(written, littered), expect, "{name}");
        }
    }
}
