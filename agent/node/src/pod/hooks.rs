//! postStart hooks. (preStop hooks are part of [`super::stopping`].)

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::{
    check::Target,
    worker::{Report, Worker},
};
use crate::session::recorder::EventType;

/// A postStart hook that takes longer holds up its pod for nothing.
const LIMIT: Duration = Duration::from_secs(600);

impl Worker {
    /// Runs the postStart hook, if there is one, beside the loop.
    pub(super) fn post_start(&mut self, definition: &Container, id: &str) {
        let Some(hook) = definition.lifecycle.as_ref().and_then(|l| l.post_start.clone()) else { return };
        self.memory.post_start.insert(id.to_owned());
        let (cri, definition, id) = (self.node.cri.clone(), definition.clone(), id.to_owned());
        let ip = self.pod_ips().first().copied();
        self.jobs.spawn(async move {
            let target = Target { cri: &cri, container: &definition, id: &id, ip };
            let hook = tokio::time::timeout(LIMIT, target.hook(&hook, LIMIT));
            let result = hook.await.unwrap_or_else(|_| Err("timed out".to_owned()));
            Report::PostStart { id, container: definition.name.clone(), result }
        });
    }

    pub(super) fn post_started(&mut self, id: &str, container: &str, result: Result<(), String>) {
        self.memory.post_start.remove(id);
        if let Err(reason) = result {
            let message = format!("PostStartHook failed: {reason}");
            self.container_event(&self.api_pod(), container, EventType::Warning, "FailedPostStartHook", &message);
            self.memory.condemned.insert(id.to_owned(), "FailedPostStartHook".to_owned());
        }
    }
}
