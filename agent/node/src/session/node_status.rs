//! The Node object: what this machine has and how it does.
//!
//! Invariants
//! - A status is sent when something but its times changed, on every new session, and when the API holds
//!   another one. Nothing is sent to say that all is as it was: that is what the Lease says.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use k8s_cri::v1::{ListImagesRequest, StatusRequest};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::{host, node::Node};

/// Until the node is ready it looks often.
const EAGER: Duration = Duration::from_millis(300);
const CALM: Duration = Duration::from_secs(10);
/// As many images as kubelet reports.
const MAX_IMAGES: usize = 50;
/// Below these the kernel or containerd are about to suffer.
const MIN_FREE_MEMORY: u64 = 100 << 20;
const MIN_FREE_DISK_PERCENT: u64 = 5;

struct Verdict {
    type_: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

/// Keeps the masters informed until `stop`.
pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut network = node.objects.network_changed();
    let mut snapshots = 0;
    let mut sent: Option<Value> = None;
    loop {
        let (ready, status) = status(&node).await;
        node.ready.store(ready, Ordering::SeqCst);
        let gist = without_times(&status);
        let resynced = std::mem::replace(&mut snapshots, node.objects.snapshots()) != snapshots;
        let stale = sent.as_ref() != Some(&gist);
        if node.is_online() && (stale || resynced || overruled(&node, ready)) {
            node.outbox.node_status(status.to_string());
            sent = Some(gist);
        }
        let pause = if ready { CALM } else { EAGER };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Cancel-safe: the receiver keeps the unseen version.
            _ = network.changed() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Whether the API says something else about our readiness (a leader had given us up).
fn overruled(node: &Node, ready: bool) -> bool {
    let Some(known) = node.objects.node(&node.config.name) else { return false };
    let conditions = known.status.as_ref().and_then(|s| s.conditions.as_ref());
    let status = conditions.into_iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.as_str());
    status != Some(if ready { "True" } else { "False" })
}

fn without_times(status: &Value) -> Value {
    let mut out = status.clone();
    for condition in out["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
            condition.remove("lastTransitionTime");
        }
    }
    out
}

/// The Node to register with.
pub async fn registration(node: &Node) -> Value {
    let name = &node.config.name;
    let mut labels = Map::new();
    for (key, value) in [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", host::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", host::architecture()),
    ] {
        labels.insert(key.to_owned(), json!(value));
    }
    for (key, value) in &node.config.node_labels {
        labels.insert(key.clone(), json!(value));
    }
    let taints: Vec<Value> =
        node.config.register_taints.iter().filter_map(|t| crate::config::parse_taint(t)).map(taint).collect();
    let mut spec = Map::new();
    if !taints.is_empty() {
        spec.insert("taints".to_owned(), json!(taints));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": status(node).await.1,
    })
}

fn taint((key, value, effect): (&str, &str, &str)) -> Value {
    let mut out = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        out["value"] = json!(value);
    }
    out
}

async fn status(node: &Node) -> (bool, Value) {
    let verdicts = verdicts(node).await;
    let ready = verdicts.iter().any(|v| v.type_ == "Ready" && v.status);
    let disk = host::disk(&node.config.data_dir).unwrap_or_default();
    let resources = json!({
        "cpu": node.host.cpus.to_string(),
        "memory": format!("{}Ki", node.host.memory / 1024),
        "ephemeral-storage": format!("{}Ki", disk.size / 1024),
        "pods": node.config.max_pods.to_string(),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    });
    let mut allocatable = resources.clone();
    allocatable["ephemeral-storage"] = json!((disk.size / 10 * 9).to_string());
    let version = format!("v1.37.0+kontiki.{}", env!("CARGO_PKG_VERSION"));
    let status = json!({
        "addresses": [
            {"type": "InternalIP", "address": node.config.node_ip.to_string()},
            {"type": "Hostname", "address": node.config.name},
        ],
        "capacity": resources,
        "allocatable": allocatable,
        "conditions": conditions(node, &verdicts),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {
            "architecture": host::architecture(),
            "bootID": node.host.boot_id,
            "containerRuntimeVersion": node.host.runtime,
            "kernelVersion": node.host.kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": version,
            "machineID": node.host.machine_id,
            "operatingSystem": "linux",
            "osImage": node.host.os_image,
            "systemUUID": node.host.machine_id,
        },
        "images": images(node).await,
    });
    (ready, status)
}

async fn verdicts(node: &Node) -> [Verdict; 4] {
    let memory = host::meminfo("MemAvailable").unwrap_or(u64::MAX) < MIN_FREE_MEMORY;
    let disk = host::disk(&node.config.data_dir).is_some_and(|d| d.free < d.size / 100 * MIN_FREE_DISK_PERCENT);
    let text = |bad: bool, no: &str, yes: &str| if bad { yes.to_owned() } else { no.to_owned() };
    [
        Verdict {
            type_: "MemoryPressure",
            status: memory,
            reason: if memory { "KubeletHasInsufficientMemory" } else { "KubeletHasSufficientMemory" },
            message: text(
                memory,
                "kubelet has sufficient memory available",
                "kubelet has insufficient memory available",
            ),
        },
        Verdict {
            type_: "DiskPressure",
            status: disk,
            reason: if disk { "KubeletHasDiskPressure" } else { "KubeletHasNoDiskPressure" },
            message: text(disk, "kubelet has no disk pressure", "kubelet has disk pressure"),
        },
        Verdict {
            type_: "PIDPressure",
            status: false,
            reason: "KubeletHasSufficientPID",
            message: "kubelet has sufficient PID available".to_owned(),
        },
        readiness(node).await,
    ]
}

async fn readiness(node: &Node) -> Verdict {
    let not = |message: String| Verdict { type_: "Ready", status: false, reason: "KubeletNotReady", message };
    let answer = match node.cri.status(StatusRequest { verbose: false }).await {
        Ok(answer) => answer,
        Err(error) => return not(format!("container runtime is down: {error}")),
    };
    for condition in answer.status.unwrap_or_default().conditions {
        if condition.status {
            continue;
        }
        let (name, reason, message) = (&condition.r#type, &condition.reason, &condition.message);
        match name.as_str() {
            "RuntimeReady" => {
                return not(format!("container runtime not ready: {name}=false reason:{reason} message:{message}"));
            }
            "NetworkReady" => {
                return not(format!(
                    "container runtime network not ready: {name}=false reason:{reason} message:{message}"
                ));
            }
            _ => {}
        }
    }
    let message = "kubelet is posting ready status".to_owned();
    Verdict { type_: "Ready", status: true, reason: "KubeletReady", message }
}

fn conditions(node: &Node, verdicts: &[Verdict]) -> Vec<Value> {
    let now = Timestamp::now();
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let known = node.objects.node(&node.config.name);
    let before = known.as_ref().and_then(|n| n.status.as_ref()?.conditions.as_ref());
    let condition = |verdict: &Verdict| {
        let status = if verdict.status { "True" } else { "False" };
        let old = before.into_iter().flatten().find(|c| c.type_ == verdict.type_ && c.status == status);
        let since = old.and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
        json!({
            "type": verdict.type_, "status": status, "reason": verdict.reason, "message": verdict.message,
            "lastHeartbeatTime": now.to_string(), "lastTransitionTime": since.to_string(),
        })
    };
    verdicts.iter().map(condition).collect()
}

async fn images(node: &Node) -> Vec<Value> {
    let Ok(answer) = node.cri.list_images(ListImagesRequest::default()).await else { return Vec::new() };
    let mut images = answer.images;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |image: &k8s_cri::v1::Image| {
        image.repo_digests.iter().chain(&image.repo_tags).cloned().collect::<Vec<String>>()
    };
    images.iter().take(MAX_IMAGES).map(|image| json!({"names": names(image), "sizeBytes": image.size})).collect()
}
