//! Lets new members vote.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{
    raft::{engine::Core, members},
    rt,
};

const PROMOTE: Duration = Duration::from_millis(500);

/// Lets learners vote that were added to do so, once they have caught up.
pub(crate) async fn promote(core: Arc<Core>) {
    let mut server = core.server_metrics();
    loop {
        let waiting = if core.leads() { members::waiting(&core) } else { Vec::new() };
        for id in &waiting {
            match members::promote(&core, *id).await {
                Ok(()) => tracing::info!(id, "the new member has caught up and votes now"),
                Err(error) => tracing::debug!(%error, id, "the new member does not vote yet"),
            }
        }
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Both cancel-safe: the server's metrics tell of a new leader and of new members.
            gone = server.changed() => if gone.is_err() { return },
            () = rt::sleep(PROMOTE), if !waiting.is_empty() => {}
        }
    }
}
