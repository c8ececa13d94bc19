//! Telling the masters how the pod does.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kontiki_agent_plan::status::status;
use tokio::time::Instant;

use super::Worker;

/// A status that the API does not show after this long is sent again.
const UNSEEN: Duration = Duration::from_secs(5);
/// Conditions that are ours to set.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Puts our own part of a status over the API's, which may be behind.
pub(super) fn overlay(api: &mut PodStatus, own: &PodStatus) {
    let foreign: Vec<_> =
        api.conditions.iter().flatten().filter(|c| !OWN.contains(&c.type_.as_str())).cloned().collect();
    let mut conditions: Vec<_> =
        own.conditions.iter().flatten().filter(|c| OWN.contains(&c.type_.as_str())).cloned().collect();
    conditions.extend(foreign);
    api.conditions = Some(conditions);
    api.start_time.clone_from(&own.start_time);
    api.init_container_statuses.clone_from(&own.init_container_statuses);
    api.container_statuses.clone_from(&own.container_statuses);
    api.pod_ips.clone_from(&own.pod_ips);
    let ended = |phase: &Option<String>| matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    if !ended(&api.phase) {
        api.phase.clone_from(&own.phase);
        api.reason.clone_from(&own.reason);
        api.message.clone_from(&own.message);
    }
}

impl Worker {
    /// Sends the status if the API does not have it.
    pub(super) fn publish(&mut self, pod: &Pod, now: Timestamp) {
        if self.frozen || !self.desired.borrow().present {
            return;
        }
        let new = status(&self.view(pod, now), &self.node.host_ips());
        self.last = Some(new.clone());
        if self.desired.borrow().pod.status.as_ref() == Some(&new) {
            self.sent = None;
            return;
        }
        if self.sent.as_ref().is_some_and(|(old, at)| *old == new && at.elapsed() < UNSEEN) {
            return;
        }
        match serde_json::to_string(&new) {
            Ok(json) => {
                let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
                self.node.outbox.pod_status(namespace.unwrap_or_default(), name.unwrap_or_default(), &self.uid, json);
                self.sent = Some((new, Instant::now()));
                // Looks again when an answer is overdue.
                let again = Instant::now() + UNSEEN;
                self.look_due = Some(self.look_due.map_or(again, |due| due.min(again)));
            }
            Err(error) => tracing::error!(uid = %self.uid, %error, "a status cannot be written as JSON"),
        }
    }
}
