//! Raises the group's feature level once every member knows the next one.
//!
//! Invariants
//! - A level is proposed only after all members, learners too, said under this leadership that they know it; one that
//!   does not answer, or whose program knows no levels, holds it back.
//! - At the newest level a member is asked until it has said that it knows it, and not again: only those are who are
//!   new to the group. One whose program is too old is named in the leader's log.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{
    raft::{
        engine::Core,
        forward::{Ask, decode_level},
        members,
        peer::ForwardError,
    },
    rt,
    types::Node,
    upkeep::leading::{Lead, leading},
};
use kontiki_state::{
    Level, Term,
    command::{Action, Outcome},
};

/// How often the others are asked while they hold the level back.
const ASK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(1);

/// Raises while this member leads.
pub(crate) async fn raise(core: Arc<Core>) {
    let mut server = core.server_metrics();
    let mut members = Members::default();
    loop {
        let level = core.local.level();
        let wait = match leading(&core) {
            Lead::Of(term) if level < core.local.newest => {
                if members.all_know(&core, level).await {
                    propose(&core, level.next(), term).await;
                }
                core.local.level() < core.local.newest
            }
            Lead::Of(_) => !members.each_knows(&core, level).await,
            lead => {
                members = Members::default();
                // Nobody tells when a new leader has applied what it has to know.
                matches!(lead, Lead::Soon)
            }
        };
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Both cancel-safe: whoever is woken looks at what there is, new members too.
            gone = server.changed() => if gone.is_err() { return },
            () = rt::sleep(ASK), if wait => {}
        }
    }
}

/// What the other members said under this leadership.
#[derive(Default)]
struct Members {
    /// Those that know the group's level.
    known: BTreeSet<u64>,
    /// Those that were complained of.
    told: BTreeSet<u64>,
}

impl Members {
    /// Whether all members know the level after the group's. All are asked: one may have been put back meanwhile.
    async fn all_know(&mut self, core: &Core, level: Level) -> bool {
        let mut all = true;
        for (id, node) in others(core) {
            let newest = newest_of(core, &node).await;
            all &= newest.is_some_and(|newest| newest > level);
            if newest.is_none_or(|newest| newest <= level) && self.told.insert(id) {
                tracing::info!(id, %node, level = level.next().0, "a feature level waits for a member");
            }
        }
        all
    }

    /// Whether each member knows the group's level; who did not say so is asked.
    async fn each_knows(&mut self, core: &Core, level: Level) -> bool {
        let mut all = true;
        for (id, node) in others(core) {
            if self.known.contains(&id) {
                continue;
            }
            match newest_of(core, &node).await {
                Some(newest) if newest >= level => drop(self.known.insert(id)),
                Some(newest) => {
                    all = false;
                    if self.told.insert(id) {
                        tracing::warn!(
                            id, %node, level = level.0, knows = newest.0,
                            "a member's program is too old for the group: start it with the one that the others run"
                        );
                    }
                }
                None => all = false,
            }
        }
        all
    }
}

fn others(core: &Core) -> Vec<(u64, Node)> {
    core.metrics(|metrics| members::others(metrics, core.id).map(|(id, node)| (id, node.clone())).collect())
}

/// The newest level that a member knows, if it answers. A program that knows no levels refuses the question.
async fn newest_of(core: &Core, node: &Node) -> Option<Level> {
    match core.peers.forward(&node.address, Ask::Level.encode(), ANSWER).await {
        Ok(answer) => decode_level(answer).ok(),
        Err(ForwardError::Refused) => Some(Level::FIRST),
        Err(ForwardError::NotSent | ForwardError::Lost) => None,
    }
}

async fn propose(core: &Core, to: Level, fence: Term) {
    match core.write(Action::RaiseLevel { to, fence }.encode()).await {
        Ok(Outcome::Done { .. }) => {
            let brings = Level::BRINGS.get(to.0 as usize).copied().unwrap_or_default();
            tracing::info!(level = to.0, brings, "the feature level has risen");
        }
        other => tracing::debug!(?other, level = to.0, "the feature level could not be raised yet"),
    }
}
