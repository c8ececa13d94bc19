//! Whether the node takes the pod at all.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    admission::{self, Capacity},
    resize,
    step::Ending,
};

use super::worker::Worker;
use crate::session::recorder::EventType;

impl Worker {
    /// Refuses a pod of which nothing exists yet, if it cannot be beside the others.
    pub(super) fn admit(&mut self) {
        let (pod, node) = (self.api_pod(), &self.node);
        let begun = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if begun || !self.seen.sandboxes.is_empty() || !self.desired.borrow().present {
            return;
        }
        let all = node.objects.pods();
        let all: Vec<&Pod> = all.iter().map(Arc::as_ref).collect();
        let amounts = resize::whole(node.host.cpus, node.host.memory);
        let pods = usize::try_from(node.config.max_pods).unwrap_or(usize::MAX);
        let Some(why) = admission::refusal(&pod, &all, Capacity { amounts, pods }) else { return };
        self.pod_event(&pod, EventType::Warning, why.reason, &why.message);
        self.memory.ended_by_node = Some(why);
        self.ending = Some(Ending { deadline: Timestamp::now(), remove: false });
    }
}
