//! Keeps this member's view of the group current for whoever watches it.

use std::{io, path::Path, sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{
    Member, Status,
    raft::{
        engine::Core,
        forward::{Ask, decode_members},
        members,
    },
    rt::{Instant, timeout},
};
use kontiki_state::{Entry, Term};

/// How fresh `last_quorum_ack` and `applied` are kept where this member leads; elsewhere they are as old as `ASK`.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a follower asks the leader how all members do.
const ASK: Duration = Duration::from_secs(1);

/// This member's view of the group, now.
pub(crate) fn status(core: &Core, name: &str, told: &[Member]) -> Status {
    let members = merge(members::list(core), told);
    let applied = *core.view.applied().borrow();
    core.metrics(|metrics| {
        // A group of one has nobody to ask: its leader is its own quorum at any time.
        let alone = metrics.state.is_leader() && metrics.membership_config.membership().voter_ids().eq([core.id]);
        let last_quorum_ack = match alone {
            true => Some(Instant::now()),
            false => metrics.last_quorum_acked.as_ref().and_then(|at| Instant::now().checked_sub(at.elapsed())),
        };
        let acked = last_quorum_ack.is_some_and(|at| at.elapsed() < core.timing.election);
        Status {
            id: core.id,
            name: name.to_owned(),
            leader: metrics.current_leader,
            term: Term(metrics.current_term),
            is_leader: metrics.state.is_leader() && acked && members::shows_own_term(metrics),
            last_quorum_ack: last_quorum_ack.map(Instant::into_std),
            applied,
            last_log: core.log.last_index(),
            members,
        }
    })
}

/// What this member knows itself, completed by what the leader told.
fn merge(mut own: Vec<Member>, told: &[Member]) -> Vec<Member> {
    for member in &mut own {
        if let Some(told) = told.iter().find(|told| told.id == member.id && member.matched.is_none()) {
            member.reachable |= told.reachable;
            (member.matched, member.lag, member.term) = (told.matched, told.lag, told.term);
        }
    }
    own
}

/// Publishes until the store stops.
pub(crate) async fn run(core: Arc<Core>, name: String, tx: watch::Sender<Status>) {
    let mut server = core.server_metrics();
    let mut told: Vec<Member> = Vec::new();
    let mut asked = Instant::now();
    // Raft has ended without a word: nothing would ever change again.
    let mut gone = false;
    loop {
        let now = status(&core, &name, &told);
        tx.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if (gone || core.metrics(|metrics| metrics.running_state.is_err())) && !core.stop.is_cancelled() {
            let reason = core.metrics(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
            tracing::error!(?reason, "raft has stopped; this member has to be restarted");
            core.view.hub.close();
            core.stop.cancel();
        }
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            // Cancel-safe: only looks at a version.
            news = timeout(if core.leads() { REFRESH } else { ASK }, server.changed()) => gone = matches!(news, Ok(Err(_))),
        }
        if core.leads() {
            told.clear();
        } else if asked.elapsed() >= ASK {
            asked = Instant::now();
            told = ask(&core).await.unwrap_or_default();
        }
    }
}

/// A hash of keys that does not depend on how they are kept.
pub(crate) fn hash(entries: &[Arc<Entry>]) -> u32 {
    let mut hash = Sha256::new();
    for entry in entries {
        let numbers = [
            entry.create_revision.0,
            entry.mod_revision.0,
            entry.version,
            entry.lease.cast_unsigned(),
            entry.key.len() as u64,
            entry.value.len() as u64,
        ];
        numbers.iter().for_each(|number| hash.update(number.to_be_bytes()));
        hash.update(&entry.key);
        hash.update(&entry.value);
    }
    let hash = hash.finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// Bytes of the files in a directory.
pub(crate) fn disk_usage(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for file in std::fs::read_dir(dir)? {
        match file?.metadata() {
            Ok(metadata) => sum += metadata.len(),
            // Files come and go while the database works.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

async fn ask(core: &Core) -> Option<Vec<Member>> {
    let crate::raft::engine::Leader::At(address) = core.leader() else { return None };
    let answer = core.peers.forward(&address, Ask::Members.encode(), REFRESH).await.ok()?;
    decode_members(answer).ok()
}
