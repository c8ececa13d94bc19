//! Carries decisions out: bindings, and the account given of pods that fit nowhere.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition};
use kontiki_api::recorder::Recorder;
use kontiki_api::{Client, PatchKind, Status, Target};
use kontiki_cache::Cache;
use kontiki_model::GroupResource;
use kontiki_plan::action::{reference, to_value};
use kontiki_plan::object::{name, namespace, time};
use kontiki_plan::pod;
use kontiki_plan::scheduler::{Assignment, Diagnosis};
use kontiki_store::Store;
use serde_json::json;
use tracing::{debug, instrument, warn};

use crate::queue::Candidate;
use crate::state::{BindOutcome, Decision, NAME};

pub(crate) const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };

/// Writes for the scheduler.
#[derive(Clone)]
pub(crate) struct Binder {
    pub client: Client,
    pub store: Store,
    pub cache: Cache,
    pub recorder: Recorder,
    /// Pods that wait for their volumes.
    pub waiting: Arc<AtomicUsize>,
}

fn target<'a>(pod: &'a Pod, subresource: &'static str) -> Target<'a> {
    let (namespace, name) = (namespace(&pod.metadata), name(&pod.metadata));
    Target { resource: PODS, namespace: Some(namespace), name, subresource: Some(subresource) }
}

impl Binder {
    pub async fn carry_out(self, decision: Decision) -> BindOutcome {
        match decision {
            Decision::Bind(candidate, assignment) => match self.bind(&candidate.pod, assignment).await {
                Ok(()) => BindOutcome::Bound,
                Err(status) => self.not_bound(candidate, &status).await,
            },
            Decision::Explain(candidate, why) => {
                self.explain(&candidate.pod, &why).await;
                let spared = match why.preemption {
                    Some(preemption) => self.preempt(&candidate.pod, preemption).await,
                    None => Vec::new(),
                };
                BindOutcome::Explained(spared)
            }
        }
    }

    #[instrument(level = "debug", skip_all, fields(namespace = pod.metadata.namespace, name = pod.metadata.name))]
    async fn bind(&self, pod: &Pod, Assignment { node, patches, awaited }: Assignment) -> Result<(), Status> {
        for patch in patches {
            let (key, subresource) = (&patch.key, patch.subresource);
            let (resource, namespace) = (key.group_resource(), key.namespace.as_deref());
            let target = Target { resource, namespace, name: &key.name, subresource };
            self.client.patch(target, PatchKind::Merge, patch.body).await?;
        }
        self.await_claims(&awaited).await?;
        let meta = &pod.metadata;
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": &*node},
        });
        self.client.create_sub(target(pod, "binding"), body).await?;
        let message = format!("Successfully assigned {}/{} to {node}", namespace(meta), name(meta));
        self.record(pod, false, "Scheduled", &message);
        Ok(())
    }

    /// Waits until the caches show whatever the failed binding left behind, even if its outcome is
    /// not known.
    async fn not_bound(&self, candidate: Candidate, status: &Status) -> BindOutcome {
        match status.code {
            404 | 409 => debug!(pod = name(&candidate.pod.metadata), status = status.message, "not bound"),
            _ => {
                warn!(pod = name(&candidate.pod.metadata), status = status.message, "not bound");
                // It is tried again, later each time; a person who wonders why finds it here.
                let message = format!("binding rejected: {}", status.message);
                self.record(&candidate.pod, true, "FailedScheduling", &message);
            }
        }
        self.catch_up().await;
        BindOutcome::NotBound(candidate)
    }

    /// Until the caches show all that was written before.
    pub(crate) async fn catch_up(&self) {
        if self.store.barrier().await.is_ok() {
            self.cache.wait_for(self.store.snapshot().revision()).await;
        }
    }

    async fn explain(&self, pod: &Pod, why: &Diagnosis) {
        let message = why.to_string();
        self.record(pod, true, "FailedScheduling", &message);
        let old = pod::condition(pod, "PodScheduled");
        let told = old.is_some_and(|old| {
            old.status == "False"
                && old.reason.as_deref() == Some("Unschedulable")
                && old.message.as_deref() == Some(&message)
        });
        let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        if told && nominated.filter(|node| !node.is_empty()) == why.nominated.as_deref() {
            return;
        }
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message),
            last_transition_time: since.or_else(|| Some(time(Timestamp::now()))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        let conditions = to_value(&pod::with_condition(pod, condition));
        let meta = &pod.metadata;
        let body = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"conditions": conditions, "nominatedNodeName": why.nominated.as_deref()},
        });
        if let Err(status) = self.client.patch(target(pod, "status"), PatchKind::Merge, body).await {
            // The next attempt says it again, on the newer pod.
            debug!(pod = name(meta), status = status.message, "the pod's status was not updated");
        }
    }

    fn record(&self, pod: &Pod, warning: bool, reason: &str, message: &str) {
        let regarding: ObjectReference = reference(pod);
        self.recorder.record(&regarding, NAME, warning, reason, message);
    }
}
