//! What has to be done from time to time, each by a task of its own.
//!
//! Invariants
//! - Whatever changes the state is a command of the leader, with the time or revision in it.
//! - At least `Keep::history` of the past stays readable, and not much more than that. What is kept beyond it is seen only
//!   by who asks for the past of one key.

pub(crate) mod consistency;
mod expiry;
mod health;
mod history;
mod leading;
mod learners;
mod level;
mod settle;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{Past, disk::db::Db, raft::engine::Core};

/// How the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// How much stays readable at least.
    pub history: Duration,
    /// How much of what is compacted is kept.
    pub past: Past,
    /// How often it is looked at: the most that stays beyond that.
    pub look: Duration,
}

/// All of them, to be run until the store stops.
pub(crate) fn tasks(core: &Arc<Core>, db: &Arc<Db>, keep: Keep) -> [BoxFuture<'static, ()>; 10] {
    let (core, db) = (|| Arc::clone(core), || Arc::clone(db));
    [
        Box::pin(history::compact(core(), keep)),
        Box::pin(history::sweep(core(), db(), keep)),
        Box::pin(expiry::expire_keys(core())),
        Box::pin(expiry::end_leases(core())),
        Box::pin(consistency::compare(core())),
        Box::pin(level::raise(core())),
        Box::pin(settle::settle(core(), db())),
        Box::pin(learners::promote(core())),
        Box::pin(health::watch_disk(core(), db())),
        Box::pin(health::watch_stalls(core())),
    ]
}
