//! Watches this member's disk.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{
    disk::db::Db,
    raft::{engine::Core, members},
    rt,
    upkeep::leading::{Lead, leading},
};

/// How often room on the disk is looked for: while there is little, and while there is much.
const DISK: Duration = Duration::from_millis(500);
const DISK_WIDE: Duration = Duration::from_secs(2);

/// Looks for room on the disk.
pub(crate) async fn watch_disk(core: Arc<Core>, db: Arc<Db>) {
    loop {
        let (disk, db) = (Arc::clone(&core.disk), Arc::clone(&db));
        let Ok(wide) = rt::blocking(move || disk.look(&db)).await else { return };
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = rt::sleep(if wide { DISK_WIDE } else { DISK }) => {}
        }
    }
}

/// Hands over if this member leads and its disk does not keep up. A full disk is not handed over:
/// the others may be no better off, and could not even write down their vote.
pub(crate) async fn watch_stalls(core: Arc<Core>) {
    let mut server = core.server_metrics();
    loop {
        let leads = !matches!(leading(&core), Lead::No);
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Both cancel-safe: whoever is woken looks at what there is.
            gone = server.changed() => if gone.is_err() { return },
            () = rt::sleep(core.timing.election / 6), if leads => {}
        }
        let stalled = core.disk.writer().stalled();
        if stalled > core.timing.election && !core.disk.is_full() && core.leads() {
            tracing::warn!(?stalled, "the disk has stalled; handing leadership over");
            if let Err(error) = members::transfer(&core, None).await {
                tracing::debug!(%error, "handing over did not work");
            }
        }
    }
}
