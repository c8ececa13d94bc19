//! Nodes that only pretend: they start what is bound to them, end what is to end, and let go of what is deleted. They live
//! as long as the run: nobody kills them.
//!
//! What a pod does is said by annotations of its template:
//! - `walk/seconds`: it ends after so long; without, it runs on
//! - `walk/fails`: so many of its Job's pods fail, the first ones; of an Indexed Job, so many of each index that
//!   `walk/failing` names (by commas)

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kontiki_api::{Api, Client, DeleteOptions, PatchKind, Target};
use kontiki_model::resource::PODS;
use kontiki_plan::object::{annotation, controller, deleting, name, namespace, uid};
use kontiki_plan::pod;
use serde_json::{Value, json};

/// Which one of an Indexed Job a pod is, and how often it failed before.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

fn target<'a>(pod: &'a Pod, subresource: Option<&'static str>) -> Target<'a> {
    let (space, name) = (namespace(&pod.metadata), name(&pod.metadata));
    Target { resource: PODS, namespace: Some(space), name, subresource }
}

fn number(pod: &Pod, key: &str) -> Option<u64> {
    annotation(&pod.metadata, key)?.parse().ok()
}

/// All nodes.
pub struct Nodes {
    client: Client,
    /// Pods that ran so far, for their addresses.
    started: usize,
    /// Pods that failed, by their manager.
    failed: HashMap<String, u64>,
    /// How a pod that runs will end, by its uid.
    ends: HashMap<String, bool>,
}

impl Nodes {
    pub fn new(client: Client) -> Self {
        Self { client, started: 0, failed: HashMap::new(), ends: HashMap::new() }
    }

    /// Follows the pods until the run ends.
    pub async fn run(mut self, api: Api) {
        let pods = api.cache().get::<Pod>();
        let mut changes = pods.subscribe();
        loop {
            for key in changes.next().await {
                if let Some(pod) = pods.get_key(&key).filter(|pod| pod::node(pod).is_some()) {
                    self.look(&pod).await;
                }
            }
        }
    }

    async fn look(&mut self, pod: &Pod) {
        if deleting(&pod.metadata) {
            let at_once = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            let own = DeleteOptions { precondition_uid: pod.metadata.uid.clone(), ..at_once };
            // It may be gone, or held by a finalizer and asked for already.
            let _ = self.client.delete(target(pod, None), own).await;
        } else if !pod::ready(pod) && !pod::finished(pod) && !self.ends.contains_key(uid(&pod.metadata)) {
            self.start(pod).await;
        }
    }

    async fn start(&mut self, pod: &Pod) {
        self.started += 1;
        let ip = format!("10.244.{}.{}", self.started / 250, self.started % 250 + 1);
        let ready = condition("Ready", "True");
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.0.0.1",
            "conditions": [ready, condition("PodScheduled", "True")],
        }});
        let started = self.client.patch(target(pod, Some("status")), PatchKind::Merge, status).await;
        let Some(seconds) = number(pod, "walk/seconds").filter(|_| started.is_ok()) else { return };
        let fails = self.fails(pod);
        self.ends.insert(uid(&pod.metadata).to_owned(), fails);
        tokio::spawn(end(self.client.clone(), pod.clone(), Duration::from_secs(seconds), fails));
    }

    fn fails(&mut self, pod: &Pod) -> bool {
        let most = number(pod, "walk/fails").unwrap_or(0);
        if let Some(index) = annotation(&pod.metadata, INDEX) {
            let failing = annotation(&pod.metadata, "walk/failing").unwrap_or_default();
            return failing.split(',').any(|one| one == index) && number(pod, FAILURES).unwrap_or(0) < most;
        }
        let manager = controller(&pod.metadata).map(|owner| owner.uid.clone()).unwrap_or_default();
        let failed = self.failed.entry(manager).or_default();
        let fails = *failed < most;
        *failed += u64::from(fails);
        fails
    }
}

fn condition(kind: &str, status: &str) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"type": kind, "status": status, "lastTransitionTime": now})
}

async fn end(client: Client, pod: Pod, after: Duration, fails: bool) {
    tokio::time::sleep(after).await;
    let (phase, code) = if fails { ("Failed", 1) } else { ("Succeeded", 0) };
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ended = |name: &str| {
        let state = json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now}});
        json!({"name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state})
    };
    let containers: Vec<Value> = containers.iter().map(|container| ended(&container.name)).collect();
    let status = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"phase": phase, "containerStatuses": containers,
                   "conditions": [condition("Ready", "False"), condition("PodScheduled", "True")]},
    });
    // Whoever deleted it in the meantime was faster.
    let _ = client.patch(target(&pod, Some("status")), PatchKind::Merge, status).await;
}
