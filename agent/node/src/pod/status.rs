//! Telling the masters how the pod does.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    rules,
    status::{status, sync::UNSEEN},
};

use super::worker::{Worker, spec};
use crate::session::recorder::EventType;

impl Worker {
    /// Sends the status if the API does not have it.
    pub(super) fn publish(&mut self, pod: &Pod, now: Timestamp) {
        if self.status_final || !self.desired.borrow().present {
            return;
        }
        let new = status(&self.view(pod, now), &self.node.host_ips());
        let clock = self.clock();
        if !self.status.is_due(&new, self.api_pod().status.as_ref(), clock) {
            return;
        }
        match serde_json::to_string(&new) {
            Ok(json) => {
                let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
                self.node.outbox.pod_status(namespace.unwrap_or_default(), name.unwrap_or_default(), &self.uid, json);
                self.status.sent(new, clock);
                // Looks again when an answer is overdue.
                self.relist.no_later_than(clock + UNSEEN);
            }
            Err(error) => tracing::error!(uid = %self.uid, %error, "a status cannot be written as JSON"),
        }
    }

    /// A crashed container is held back: says so once per attempt.
    pub(super) fn announce_backoff(&mut self, pod: &Pod, now: Timestamp) {
        for definition in rules::containers(spec(pod)) {
            let name = &definition.name;
            let Some(latest) = self.seen.latest(name) else { continue };
            let held = rules::crash_until(&self.memory, latest, now).is_some();
            if !held || self.ending.is_some() || self.backoff_told.get(name) == Some(&latest.attempt) {
                continue;
            }
            self.backoff_told.insert(name.clone(), latest.attempt);
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let meta = &pod.metadata;
            let place = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
            let message = format!("Back-off restarting failed container {name} in pod {place}");
            self.container_event(pod, name, EventType::Warning, "BackOff", &message);
        }
    }
}
