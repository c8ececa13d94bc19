//! Services, and how many pods may go at once.

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{is_ready, workload};
use crate::cluster::{Cluster, at};

/// A Service's endpoints follow its pods, until it goes.
pub async fn service(cluster: &Cluster) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create(service).await?;
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    let listed = |count: usize| move |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len) == count;
    cluster.expect("endpointslices", 1, listed(2))?;
    cluster.patch(at("apps", "replicasets", "web"), json!({"spec": {"replicas": 1}})).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 1, listed(1))?;
    cluster.delete(at("", "services", "web"), None).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 0, |_| true)?;
    cluster.expect("endpoints", 0, |_| true)
}

/// What people list as a Service's endpoints is shown as slices, until they take it away.
pub async fn mirrored(cluster: &Cluster) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"},
                         "spec": {"ports": [{"port": 80}]}});
    cluster.create(service).await?;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    let endpoints =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "far"}, "subsets": subsets("192.0.2.1")});
    cluster.create(endpoints).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 1, |slice| slice["endpoints"][0]["addresses"][0] == "192.0.2.1")?;
    let far = at("", "endpoints", "far");
    cluster.patch(far, json!({"subsets": subsets("192.0.2.2")})).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 1, |slice| slice["endpoints"][0]["addresses"][0] == "192.0.2.2")?;
    let two = json!({"addresses": [{"ip": "2001:db8::1"}], "ports": [{"port": 81}]});
    let both = json!([{"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 80}]}, two]);
    cluster.patch(far, json!({"subsets": both})).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 2, |_| true)?;
    cluster.delete(far, None).await?;
    cluster.settle().await?;
    cluster.expect("endpointslices", 0, |_| true)
}

/// A budget lets one pod be evicted, and another when the first is replaced.
pub async fn budget(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 3}))).await?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
                        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create(budget).await?;
    cluster.settle().await?;
    for _ in 0..2 {
        cluster.expect("poddisruptionbudgets", 1, |budget| budget["status"]["disruptionsAllowed"] == 1)?;
        let pods = cluster.objects("pods");
        let (key, _) = pods.iter().find(|(_, pod)| is_ready(pod)).ok_or_else(|| anyhow!("no pod is ready"))?;
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": key.name}});
        let target = kontiki_api::Target { subresource: Some("eviction"), ..at("", "pods", &key.name) };
        let evicted = cluster.client.create_sub(target, eviction).await;
        ensure!(evicted.is_ok(), "not evicted: {evicted:?}");
        cluster.settle().await?;
    }
    cluster.expect("pods", 3, is_ready)
}
