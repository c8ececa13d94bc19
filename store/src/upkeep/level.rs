//! Raises the group's feature level once every member knows the next one.
//!
//! Invariants
//! - A level is proposed only after all members, learners too, said under this leadership that they know it; one that
//!   does not answer, or whose program knows no levels, holds it back.
//! - Nobody is asked while this member itself knows no higher level.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{
    raft::{
        engine::Core,
        forward::{Ask, decode_level},
    },
    rt,
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
    let mut held_by = None;
    loop {
        let level = core.local.level();
        if level < core.local.newest
            && let Lead::Of(term) = leading(&core)
        {
            match holds_back(&core, level.next()).await {
                None => propose(&core, level.next(), term).await,
                Some(member) if held_by.as_ref() != Some(&member) => {
                    tracing::info!(%member, level = level.next().0, "a feature level waits for a member");
                    held_by = Some(member);
                }
                Some(_) => {}
            }
        }
        let wait = core.local.level() < core.local.newest;
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Both cancel-safe: whoever is woken looks at what there is.
            gone = server.changed() => if gone.is_err() { return },
            () = rt::sleep(ASK), if wait => {}
        }
    }
}

/// A member that does not know a level.
async fn holds_back(core: &Core, level: Level) -> Option<String> {
    let others = core.metrics(|metrics| {
        let nodes = metrics.membership_config.membership().nodes().filter(|(id, _)| **id != core.id);
        nodes.map(|(id, node)| (*id, node.clone())).collect::<Vec<_>>()
    });
    for (id, node) in others {
        let answer = core.peers.forward(&node.address, Ask::Level.encode(), ANSWER).await;
        let newest = answer.ok().and_then(|answer| decode_level(answer).ok());
        if newest.is_none_or(|newest| newest < level) {
            return Some(format!("{id} ({node})"));
        }
    }
    None
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
