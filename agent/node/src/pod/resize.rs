//! Resources of running containers, changed as the pod asks and the node has room.

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    granted::Pending,
    resize::{self, Room},
    rules,
};

use super::worker::{Worker, spec};
use crate::{host::cgroups, runtime::container_config, session::recorder::EventType};

impl Worker {
    /// Decides on the resources that the pod asks for.
    pub(super) fn grant_resources(&mut self) {
        let (pod, node) = (self.api_pod(), self.node.clone());
        let before = self.memory.resizing.pending.clone();
        let room = || Room {
            allocatable: resize::whole(node.host.cpus, node.host.memory),
            used: resize::used(node.objects.pods().iter().map(Arc::as_ref), &self.uid),
        };
        self.memory.resizing.grant(&pod, room, Timestamp::now());
        let pending = self.memory.resizing.pending.clone();
        let said = |p: &Option<Pending>| p.as_ref().map(|p| (p.reason(), p.message.clone()));
        if let Some(pending) = pending.filter(|now| said(&before) != Some((now.reason(), now.message.clone()))) {
            let reason = if pending.infeasible { "ResizeInfeasible" } else { "ResizeDeferred" };
            self.pod_event(&pod, EventType::Warning, reason, &pending.message);
        }
    }

    /// Has the runtime set what a container is granted.
    pub(super) async fn update_resources(&mut self, pod: &Pod, name: &str, id: String) {
        let spec = spec(pod);
        let Some(definition) = rules::definition(spec, name).map(Cow::into_owned) else { return };
        // A share of the whole pod is never in the way of one of its containers.
        cgroups::set_resources(spec, &self.uid);
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(container_config::cgroup(self.node.host.memory, spec, &definition)),
            ..cri::UpdateContainerResourcesRequest::default()
        };
        match self.node.cri.update_container_resources(request).await {
            Ok(_) => {
                self.memory.resizing.applied(&definition, &id);
                if !self.memory.resizing.in_progress(spec, &self.seen) {
                    self.pod_event(pod, EventType::Normal, "ResizeCompleted", "Pod resize completed");
                }
            }
            Err(error) => {
                let message = format!("failed to update container {name}: {}", error.message);
                self.pod_event(pod, EventType::Warning, "ResizeError", &message);
                self.memory.resizing.failed(message, Timestamp::now());
            }
        }
    }
}
