//! Makes pods go for a more important one.
//!
//! A victim is told why in its status before it is deleted, with the time that it has to end. What cannot be made to
//! go is reported, so that the decision is made anew.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::{DeleteOptions, PatchKind, Status, Target};
use kontiki_plan::action::{Action, reference};
use kontiki_plan::object::uid;
use kontiki_plan::pod::disrupt;
use kontiki_plan::scheduler::{PREEMPTED, Preemption, Victim};
use tracing::{info, instrument, warn};

use crate::bind::{Binder, PODS};
use crate::state::NAME;

/// Reads of a victim that changes while its status is written.
const ATTEMPTS: usize = 5;

impl Binder {
    /// Those that are still there and not on their way are returned.
    #[instrument(level = "debug", skip_all, fields(node = %preemption.node, victims = preemption.victims.len()))]
    pub(crate) async fn preempt(&self, preemptor: &Pod, preemption: Preemption) -> Vec<Victim> {
        let message = format!("Preempted by pod {} on node {}", uid(&preemptor.metadata), preemption.node);
        let mut spared = Vec::new();
        for victim in preemption.victims {
            match self.evict(&victim, &message).await {
                Ok(()) => info!(victim = victim.name, namespace = victim.namespace, "preempted"),
                Err(status) if status.is_not_found() => {}
                Err(status) => {
                    warn!(victim = victim.name, namespace = victim.namespace, status = status.message, "not preempted");
                    spared.push(victim);
                }
            }
        }
        spared
    }

    async fn evict(&self, victim: &Victim, message: &str) -> Result<(), Status> {
        let target = |subresource| Target {
            resource: PODS,
            namespace: Some(&victim.namespace),
            name: &victim.name,
            subresource,
        };
        for attempt in 1.. {
            let object = self.client.get(target(None)).await?;
            let pod: Pod = serde_json::from_value(object).map_err(Status::internal)?;
            if uid(&pod.metadata) != victim.uid {
                return Ok(());
            }
            let why = format!("{NAME}: preempting to accommodate a higher priority pod");
            let Some(Action::Patch(patch)) = disrupt(&pod, PREEMPTED, &why, Timestamp::now()) else { break };
            match self.client.patch(target(Some("status")), PatchKind::Merge, patch.body).await {
                Ok(_) => break,
                Err(status) if status.code == 409 && attempt < ATTEMPTS => {}
                Err(status) => return Err(status),
            }
        }
        let options = DeleteOptions { precondition_uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
        let object = self.client.delete(target(None), options).await?.value()?;
        if let Ok(pod) = serde_json::from_value::<Pod>(object) {
            self.recorder.record(&reference(&pod), NAME, false, "Preempted", message);
        }
        Ok(())
    }
}
