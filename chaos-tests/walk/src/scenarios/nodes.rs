//! Pods that have to leave their nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{is_ready, workload};
use crate::cluster::{Cluster, on_cluster};

/// A node is tainted, its pods go to the other one, and it is used again.
pub async fn taints(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    let node = on_cluster("", "nodes", "n1");
    cluster.patch(node, json!({"spec": {"taints": [{"key": "own", "effect": "NoExecute"}]}})).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, |pod| is_ready(pod) && pod["spec"]["nodeName"] == "n2")?;
    cluster.patch(node, json!({"spec": {"taints": null}})).await?;
    cluster.patch(on_cluster("", "nodes", "n2"), json!({"spec": {"unschedulable": true}})).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, |_| true)
}

/// A node comes, gets addresses for its pods, and a pod of each set that wants one.
pub async fn new(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("DaemonSet", "log", json!({}))).await?;
    cluster.settle().await?;
    cluster.add_node("n3").await?;
    cluster.settle().await?;
    cluster.expect("pods", 3, is_ready)?;
    let ranges: std::collections::BTreeSet<String> =
        cluster.objects("nodes").iter().map(|(_, node)| node["spec"]["podCIDR"].to_string()).collect();
    ensure!(ranges.len() == 3, "{ranges:?}");
    cluster.delete(on_cluster("", "nodes", "n3"), None).await?;
    cluster.rest(Duration::from_secs(90)).await?;
    cluster.expect("pods", 2, |_| true)
}

/// A node is taken out of the cluster, and its pods are replaced.
pub async fn lost(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("DaemonSet", "log", json!({}))).await?;
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    cluster.delete(on_cluster("", "nodes", "n1"), None).await?;
    cluster.rest(Duration::from_secs(90)).await?;
    cluster.expect("pods", 3, |pod| is_ready(pod) && pod["spec"]["nodeName"] == "n2")?;
    cluster.expect("pods", 3, |_| true)
}
