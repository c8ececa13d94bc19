//! Usage of the node and its pods, in the shape of kubelet's stats/summary.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_cri::v1::{ContainerStats, ListContainerStatsRequest};
use serde_json::{Value, json};

use crate::{
    host::facts,
    node::Node,
    runtime::{
        cri::CriError,
        labels::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID},
    },
};

/// The summary now.
///
/// # Errors
/// If the runtime does not answer.
pub(crate) async fn summary(node: &Node) -> Result<Value, CriError> {
    let stats = node.cri.list_container_stats(ListContainerStatsRequest::default()).await?.stats;
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for stat in &stats {
        let Some(labels) = stat.attributes.as_ref().map(|a| &a.labels) else { continue };
        let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let uid = label(POD_UID);
        if uid.is_empty() {
            continue; // not a pod's
        }
        let reference = json!({"name": label(POD_NAME), "namespace": label(POD_NAMESPACE), "uid": uid});
        pods.entry(uid).or_insert_with(|| (reference, Vec::new())).1.push(container(stat, &label(CONTAINER_NAME)));
    }
    let pods: Vec<Value> = pods.into_values().map(|(reference, containers)| pod(reference, containers)).collect();
    Ok(json!({"node": whole(node), "pods": pods}))
}

fn container(stat: &ContainerStats, name: &str) -> Value {
    let time = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).map(|t| t.to_string()).unwrap_or_default();
    let value = |v: &Option<k8s_cri::v1::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
    let mut out = json!({"name": name});
    if let Some(cpu) = &stat.cpu {
        out["cpu"] = json!({"time": time(cpu.timestamp), "usageNanoCores": value(&cpu.usage_nano_cores),
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
    let sum = |path: &str| -> u64 { containers.iter().filter_map(|c| c.pointer(path)?.as_u64()).sum() };
    json!({
        "podRef": reference,
        "cpu": {"usageNanoCores": sum("/cpu/usageNanoCores"), "usageCoreNanoSeconds": sum("/cpu/usageCoreNanoSeconds")},
        "memory": {"workingSetBytes": sum("/memory/workingSetBytes"), "usageBytes": sum("/memory/usageBytes"),
            "rssBytes": sum("/memory/rssBytes")},
        "containers": containers,
    })
}

fn whole(node: &Node) -> Value {
    let now = Timestamp::now().to_string();
    let available = facts::meminfo("MemAvailable").unwrap_or(0);
    let used = node.host.memory.saturating_sub(available);
    let disk = facts::disk(&node.config.data_dir).unwrap_or_default();
    json!({
        "nodeName": node.config.name,
        "cpu": {"time": now, "usageCoreNanoSeconds": cpu_nanoseconds()},
        "memory": {"time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used},
        "fs": {"time": now, "availableBytes": disk.free, "capacityBytes": disk.size,
            "usedBytes": disk.size.saturating_sub(disk.free), "inodes": disk.inodes, "inodesFree": disk.inodes_free},
    })
}

/// CPU time of the machine since its start, idle time left out.
fn cpu_nanoseconds() -> u64 {
    const TICK: u64 = 10_000_000; // USER_HZ is 100 wherever Linux shows it to programs
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let busy = ticks.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, t)| t).sum::<u64>();
    busy * TICK
}
