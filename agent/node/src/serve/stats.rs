//! Usage of the node and its pods, in the shape of kubelet's stats/summary.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_cri::v1::ContainerStats;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    host::facts,
    node::Node,
    runtime::{
        cri::CriError,
        labels::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID},
        usage::Seen,
    },
};

/// The summary now.
///
/// # Errors
/// If the runtime does not answer.
pub(crate) async fn summary(node: &Node) -> Result<Value, CriError> {
    let seen = node.usage.look(&node.cri).await?;
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for stat in &seen.latest.containers {
        let Some(labels) = stat.attributes.as_ref().map(|a| &a.labels) else { continue };
        let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let uid = label(POD_UID);
        if uid.is_empty() {
            continue; // not a pod's
        }
        let reference = json!({"name": label(POD_NAME), "namespace": label(POD_NAMESPACE), "uid": uid});
        let known = node.objects.pod(&label(POD_NAMESPACE), &label(POD_NAME));
        let mut shown = container(stat, &label(CONTAINER_NAME), &seen);
        if let Some(started) = known.and_then(|pod| started(&pod, &label(CONTAINER_NAME))) {
            shown["startTime"] = json!(started);
        }
        pods.entry(uid).or_insert_with(|| (reference, Vec::new())).1.push(shown);
    }
    let pods: Vec<Value> = pods.into_values().map(|(reference, containers)| pod(reference, containers)).collect();
    Ok(json!({"node": whole(node, &seen), "pods": pods}))
}

/// When a container's present run began, as its pod's status has it.
fn started(pod: &Pod, container: &str) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let known = lists.into_iter().flatten().flatten().find(|known| known.name == container)?;
    Some(known.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

fn container(stat: &ContainerStats, name: &str, seen: &Seen) -> Value {
    let time = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).map(|t| t.to_string()).unwrap_or_default();
    let value = |v: &Option<k8s_cri::v1::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
    let mut out = json!({"name": name});
    if let Some(cpu) = &stat.cpu {
        out["cpu"] = json!({"time": time(cpu.timestamp), "usageNanoCores": seen.rate(stat),
            "usageCoreNanoSeconds": value(&cpu.usage_core_nano_seconds)});
    }
    if let Some(memory) = &stat.memory {
        out["memory"] = json!({"time": time(memory.timestamp), "workingSetBytes": value(&memory.working_set_bytes),
            "usageBytes": value(&memory.usage_bytes), "rssBytes": value(&memory.rss_bytes)});
    }
    if let Some(layer) = &stat.writable_layer {
        out["rootfs"] = json!({"time": time(layer.timestamp), "usedBytes": value(&layer.used_bytes),
            "inodesUsed": value(&layer.inodes_used)});
    }
    out
}

fn pod(reference: Value, containers: Vec<Value>) -> Value {
    let time = containers.iter().find_map(|c| c.pointer("/cpu/time")).cloned().unwrap_or_default();
    let sum = |path: &str| -> u64 { containers.iter().filter_map(|c| c.pointer(path)?.as_u64()).sum() };
    json!({
        "podRef": reference,
        "cpu": {"time": time, "usageNanoCores": sum("/cpu/usageNanoCores"), "usageCoreNanoSeconds": sum("/cpu/usageCoreNanoSeconds")},
        "memory": {"time": time, "workingSetBytes": sum("/memory/workingSetBytes"), "usageBytes": sum("/memory/usageBytes"),
            "rssBytes": sum("/memory/rssBytes")},
        "containers": containers,
    })
}

fn whole(node: &Node, seen: &Seen) -> Value {
    let now = seen.latest.at.to_string();
    let available = facts::meminfo("MemAvailable").unwrap_or(0);
    let used = node.host.memory.saturating_sub(available);
    let disk = facts::disk(&node.config.data_dir).unwrap_or_default();
    json!({
        "nodeName": node.config.name,
        "cpu": {"time": now, "usageNanoCores": seen.node_rate(), "usageCoreNanoSeconds": seen.latest.node_cpu},
        "memory": {"time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used},
        "fs": {"time": now, "availableBytes": disk.free, "capacityBytes": disk.size,
            "usedBytes": disk.size.saturating_sub(disk.free), "inodes": disk.inodes, "inodesFree": disk.inodes_free},
    })
}
