//! Ends what has a time: keys that expire, and leases that nobody keeps alive.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{
    raft::engine::Core,
    rt,
    upkeep::leading::{Lead, leading},
};
use kontiki_state::{
    Level, Refusal, Term,
    command::{Action, Outcome},
    planted::{self, Bug},
};

const EXPIRY: Duration = Duration::from_millis(500);
/// How often a new leader looks whether it may end leases.
const SOON: Duration = Duration::from_millis(100);
/// Keys removed by one command, so that none takes long to apply.
const EXPIRE_LIMIT: u64 = 500;
/// Leases ended by one command.
const END_LIMIT: usize = 500;

/// Removes keys whose time has come.
pub(crate) async fn expire_keys(core: Arc<Core>) {
    let mut server = core.server_metrics();
    loop {
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Both cancel-safe: whoever is woken looks at what there is.
            gone = server.changed() => if gone.is_err() { return },
            () = rt::sleep(EXPIRY), if core.leads() => {}
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
    let mut server = core.server_metrics();
    loop {
        let lead = leading(&core);
        match lead {
            Lead::Of(term) => end_due(&core, term).await,
            Lead::Soon => {}
            Lead::No => core.local.leases.resign(),
        }
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // All cancel-safe: whoever is woken looks at what there is.
            gone = server.changed() => if gone.is_err() { return },
            // Nobody tells when the metrics show what was applied: the view does so earlier.
            () = rt::sleep(SOON), if matches!(lead, Lead::Soon) => {}
            () = core.local.leases.next(), if matches!(lead, Lead::Of(_)) => {}
        }
    }
}

/// Ends what is due: together where the group knows how to, else one by one.
async fn end_due(core: &Core, term: Term) {
    let due = core.local.leases.due(term, || core.view.snapshot());
    let together = if core.local.level() >= Level::DIGESTS { END_LIMIT } else { 1 };
    for ids in due.chunks(together) {
        let action = match *ids {
            [id] => Action::Revoke { id, fence: Some(term) },
            _ => Action::EndLeases { ids: ids.to_vec(), fence: term },
        };
        match core.write(action.encode()).await {
            Ok(Outcome::Done { .. } | Outcome::Refused(Refusal::LeaseNotFound)) => {}
            other => {
                tracing::debug!(?other, ?ids, "leases could not be ended yet");
                ids.iter().for_each(|id| core.local.leases.not_ended(*id));
            }
        }
    }
}
