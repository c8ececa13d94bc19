//! Node Leases, renewed for all live sessions of this master in one transaction. Which are renewed when is decided in
//! `kontiki-plan`.
//!
//! Invariants
//! - A Lease is renewed only while its agent is heard; the leader judges nodes by these renewals.
//! - The agent is told of each renewal, with the heartbeat that it began after.
//! - A renewal never overwrites a change it has not seen.

use std::{collections::HashMap, sync::Arc, time::Instant};

use jiff::Timestamp;
use kontiki_api::{Client, Writer, Writes};
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_plan::nodes::{
    lease_renewal::{self, Renewals, TICK},
    liveness::NAMESPACE,
};
use kontiki_store::{Compare, Op, Snapshot, Store, Txn, WriteError};
use serde_json::Value;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::sessions::{Handle, Sessions};

const LEASES: GroupResource<'static> = GroupResource { group: "coordination.k8s.io", resource: "leases" };
const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };
const PER_TXN: usize = 256;

/// What Leases are written through.
pub struct Leases {
    /// Renewals go straight to it.
    pub store: Store,
    /// May create Leases.
    pub client: Client,
    /// Where renewals are counted.
    pub writes: Writes,
}

impl Leases {
    /// Renews until `stop`.
    pub async fn keep(self, sessions: Arc<Sessions>, stop: CancellationToken) {
        let mut renewals = Renewals::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: a tick carries nothing.
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            let live = sessions.live();
            // Taken before the renewal begins: what was heard later proves less than it seems to.
            let beats: HashMap<&str, (u64, &Arc<Handle>)> =
                live.iter().map(|handle| (handle.node.as_str(), (handle.latest_beat(), handle))).collect();
            let nodes = live.iter().map(|handle| handle.node.clone()).collect();
            for chunk in renewals.due(nodes, now).chunks(PER_TXN) {
                for node in self.renew(chunk).await {
                    if let Some((beat, handle)) = beats.get(node.as_str()) {
                        handle.renewed(*beat);
                    }
                    renewals.renewed(node, now);
                }
            }
        }
    }

    /// Renews the Leases of `nodes`; returns those that were.
    async fn renew(&self, nodes: &[String]) -> Vec<String> {
        let snapshot = self.store.snapshot();
        let now = Timestamp::now();
        let (mut done, mut batch) = (Vec::new(), Vec::new());
        for node in nodes {
            match renewal(&snapshot, node, now) {
                Some(write) => batch.push((node.clone(), write)),
                None if create(&self.client, &snapshot, node, now).await => done.push(node.clone()),
                None => {}
            }
        }
        let (compares, puts) = batch.iter().map(|(_, (compare, put))| (compare.clone(), put.clone())).unzip();
        if batch.is_empty() {
            return done;
        }
        match self.write(Txn::guarded(compares, puts)).await {
            Ok(true) => done.extend(batch.into_iter().map(|(node, _)| node)),
            // Somebody touched one of them: each for itself, over what is there now.
            Ok(false) => {
                let snapshot = self.store.snapshot();
                for (node, _) in batch {
                    let Some((compare, put)) = renewal(&snapshot, &node, now) else { continue };
                    if self.write(Txn::guarded(vec![compare], vec![put])).await.is_ok_and(|done| done) {
                        done.push(node);
                    }
                }
            }
            Err(error) => debug!(%error, "leases could not be renewed"),
        }
        done
    }

    async fn write(&self, txn: Txn) -> Result<bool, WriteError> {
        let succeeded = self.store.txn(txn).await?.succeeded;
        if succeeded {
            self.writes.committed(Writer::NodeGateway, LEASES.resource);
        }
        Ok(succeeded)
    }
}

fn key(node: &str) -> bytes::Bytes {
    ObjectKey::new(LEASES, Some(NAMESPACE), node).encode()
}

fn renewal(snapshot: &Snapshot, node: &str, now: Timestamp) -> Option<(Compare, Op)> {
    let entry = snapshot.get(&key(node))?;
    let lease = lease_renewal::renewed(serde_json::from_slice(&entry.value).ok()?, node, now)?;
    Some((Compare::unchanged(entry.key.clone(), entry.mod_revision), Op::put(entry.key.clone(), lease.to_string())))
}

async fn create(client: &Client, snapshot: &Snapshot, node: &str, now: Timestamp) -> bool {
    // A Node that is not there yet gets its Lease next time.
    let Some(owner) = snapshot.get(&ObjectKey::new(NODES, None, node).encode()) else { return false };
    let owner: Value = serde_json::from_slice(&owner.value).unwrap_or_default();
    let lease = lease_renewal::first(node, &owner, now);
    match client.create(LEASES, Some(NAMESPACE), lease).await {
        Ok(_) => true,
        Err(status) => {
            debug!(node, reason = status.message, "the node's lease could not be created");
            false
        }
    }
}
