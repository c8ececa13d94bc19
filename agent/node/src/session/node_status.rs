//! The Node object: what this machine has and how it does.
//!
//! Not here: what its conditions are and when it is sent (kontiki-agent-plan).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use k8s_cri::v1::{ListImagesRequest, StatusRequest};
use kontiki_agent_plan::node_status::{self as plan, NodeStatusSync};
use kontiki_ingress::State;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{objects::Objects, outbox::Outbox};
use crate::{
    config::{Config, parse_taint},
    host::facts::{self, Host},
    runtime::cri::Cri,
};

/// Changes of the cluster's network come in bursts.
const GATHER: Duration = Duration::from_millis(100);
/// As many images as kubelet reports.
const MAX_IMAGES: usize = 50;
/// What the Node object is made from.
#[derive(Clone, Copy)]
pub(crate) struct NodeStatus<'a> {
    pub(crate) config: &'a Config,
    pub(crate) host: &'a Host,
    pub(crate) cri: &'a Cri,
    pub(crate) objects: &'a Objects,
    /// How it goes with serving Ingresses.
    pub(crate) ingress: &'a watch::Sender<State>,
}

impl NodeStatus<'_> {
    /// The Node to register with.
    pub(crate) async fn registration(self) -> Value {
        let name = &self.config.name;
        let mut labels = Map::new();
        for (key, value) in [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", facts::architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", facts::architecture()),
        ] {
            labels.insert(key.to_owned(), json!(value));
        }
        for (key, value) in &self.config.node_labels {
            labels.insert(key.clone(), json!(value));
        }
        let taints: Vec<Value> = self.config.register_taints.iter().filter_map(|t| parse_taint(t)).map(taint).collect();
        let mut spec = Map::new();
        if !taints.is_empty() {
            spec.insert("taints".to_owned(), json!(taints));
        }
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
            "status": self.status().await.1,
        })
    }

    /// Whether the node is ready, and its status.
    async fn status(self) -> (bool, Value) {
        let known = self.objects.node(&self.config.name);
        let before = known.as_ref().and_then(|n| n.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
        let conditions = plan::conditions(&observe(self).await, before, Timestamp::now());
        let ready = plan::is_ready(&conditions);
        let disk = facts::disk(&self.config.data_dir).unwrap_or_default();
        let resources = json!({
            "cpu": self.host.cpus.to_string(),
            "memory": format!("{}Ki", self.host.memory / 1024),
            "ephemeral-storage": format!("{}Ki", disk.size / 1024),
            "pods": self.config.max_pods.to_string(),
            "hugepages-1Gi": "0",
            "hugepages-2Mi": "0",
        });
        let mut allocatable = resources.clone();
        allocatable["ephemeral-storage"] = json!((disk.size / 10 * 9).to_string());
        let version = format!("v1.37.0+kontiki.{}", env!("CARGO_PKG_VERSION"));
        let status = json!({
            "addresses": [
                {"type": "InternalIP", "address": self.config.node_ip.to_string()},
                {"type": "Hostname", "address": self.config.name},
            ],
            "capacity": resources,
            "allocatable": allocatable,
            "conditions": conditions,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": {
                "architecture": facts::architecture(),
                "bootID": self.host.boot_id,
                "containerRuntimeVersion": self.host.runtime,
                "kernelVersion": self.host.kernel,
                "kubeProxyVersion": "",
                "kubeletVersion": version,
                "machineID": self.host.machine_id,
                "operatingSystem": "linux",
                "osImage": self.host.os_image,
                "systemUUID": self.host.machine_id,
            },
            "images": images(self.cri).await,
        });
        (ready, status)
    }
}

/// Keeps the masters informed until `stop`. `ready` is told whether the runtime and its network answer.
pub(crate) async fn run(
    node: NodeStatus<'_>,
    outbox: &Outbox,
    online: &AtomicBool,
    ready: &AtomicBool,
    stop: CancellationToken,
) {
    let (mut network, mut ingress) = (node.objects.network_changed(), node.ingress.subscribe());
    let mut sync = NodeStatusSync::default();
    loop {
        ingress.borrow_and_update();
        let (is_ready, status) = node.status().await;
        ready.store(is_ready, Ordering::SeqCst);
        let api = node.objects.node(&node.config.name);
        let snapshots = node.objects.snapshots();
        if online.load(Ordering::SeqCst) && sync.is_due(&status, is_ready, snapshots, api.as_deref()) {
            outbox.node_status(status.to_string());
            sync.sent(&status);
        }
        tokio::select! {
            () = tokio::time::sleep(plan::period(is_ready)) => {}
            // Cancel-safe: receivers keep the unseen version.
            _ = network.changed() => tokio::time::sleep(GATHER).await,
            _ = ingress.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn taint((key, value, effect): (&str, &str, &str)) -> Value {
    let mut out = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        out["value"] = json!(value);
    }
    out
}

async fn observe(node: NodeStatus<'_>) -> plan::Facts {
    let runtime = match node.cri.status(StatusRequest { verbose: false }).await {
        Ok(answer) => Ok(answer.status.unwrap_or_default().conditions.into_iter().map(runtime_condition).collect()),
        Err(error) => Err(error.to_string()),
    };
    plan::Facts {
        available_memory: facts::meminfo("MemAvailable"),
        disk: facts::disk(&node.config.data_dir).map(|disk| (disk.size, disk.free)),
        runtime,
        ingress: match &*node.ingress.borrow() {
            State::Idle => None,
            State::Serving => Some(Ok(())),
            State::Failed(reason) => Some(Err(reason.clone())),
        },
    }
}

fn runtime_condition(condition: k8s_cri::v1::RuntimeCondition) -> plan::RuntimeCondition {
    let k8s_cri::v1::RuntimeCondition { r#type, status, reason, message } = condition;
    plan::RuntimeCondition { name: r#type, status, reason, message }
}

async fn images(cri: &Cri) -> Vec<Value> {
    let Ok(answer) = cri.list_images(ListImagesRequest::default()).await else { return Vec::new() };
    let mut images = answer.images;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |image: &k8s_cri::v1::Image| {
        image.repo_digests.iter().chain(&image.repo_tags).cloned().collect::<Vec<String>>()
    };
    images.iter().take(MAX_IMAGES).map(|image| json!({"names": names(image), "sizeBytes": image.size})).collect()
}
