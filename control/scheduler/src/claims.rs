//! Waits for the volumes of a pod that has its node.
//!
//! A pod that waits does not count among the writes under way: others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kontiki_api::Status;
use kontiki_cache::Informer;
use kontiki_plan::object::{annotation, deleting};
use kontiki_plan::scheduler::ClaimKey;
use kontiki_plan::storage::binder::{SELECTED_NODE, claim_of, unbound};
use tokio::time::Instant;

use crate::bind::Binder;

/// A volume may take this long to be made, as upstream's `bindTimeoutSeconds`.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Counted as long as it lives.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Binder {
    /// Until all of them have volumes.
    ///
    /// # Errors
    /// One is gone, or was given back by whoever should have made its volume, or it takes too long: the pod has to be
    /// placed anew.
    pub(crate) async fn await_claims(&self, claims: &[ClaimKey]) -> Result<(), Status> {
        if claims.is_empty() {
            return Ok(());
        }
        // What was asked for a moment ago has to be seen before it may be missed.
        self.catch_up().await;
        let _waiting = Waiting::new(&self.waiting);
        let informer: Informer<PersistentVolumeClaim> = self.cache.get();
        let mut changes = informer.subscribe();
        let deadline = Instant::now() + TIMEOUT;
        while !self.all_bound(&informer, claims)? {
            if tokio::time::timeout_at(deadline, changes.next()).await.is_err() {
                return Err(Status::internal("binding volumes: timed out waiting for the condition"));
            }
        }
        Ok(())
    }

    fn all_bound(&self, informer: &Informer<PersistentVolumeClaim>, claims: &[ClaimKey]) -> Result<bool, Status> {
        let mut all = true;
        for (namespace, name) in claims {
            let claim = informer.get(Some(namespace), name).filter(|claim| !deleting(&claim.metadata));
            let Some(claim) = claim else {
                return Err(Status::internal(format!("binding volumes: persistentvolumeclaim \"{name}\" is gone")));
            };
            if !unbound(&claim) {
                continue;
            }
            all = false;
            if annotation(&claim.metadata, SELECTED_NODE).is_none() && !self.is_set_aside(namespace, name) {
                let why = "provisioning failed for";
                return Err(Status::internal(format!("binding volumes: {why} PVC \"{name}\"")));
            }
        }
        Ok(all)
    }

    fn is_set_aside(&self, namespace: &str, name: &str) -> bool {
        let volumes: Informer<PersistentVolume> = self.cache.get();
        let names = |volume: &Arc<PersistentVolume>| {
            claim_of(volume).is_some_and(|claim| claim.namespace == namespace && claim.name == name)
        };
        volumes.list().iter().any(names)
    }
}
