//! Kinds that keep a number of pods.

use anyhow::Result;
use serde_json::{Value, json};

use super::{is_ready, runs, template, workload};
use crate::cluster::{Cluster, at};

fn image(app: &str, image: &str) -> Value {
    json!({"spec": {"template": template(app, image, json!({}))}})
}

/// Made, scaled, rolled out anew.
pub async fn deployment(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("Deployment", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    let web = at("apps", "deployments", "web");
    cluster.patch(web, json!({"spec": {"replicas": 3}})).await?;
    cluster.settle().await?;
    cluster.patch(web, image("web", "two")).await?;
    cluster.settle().await?;
    cluster.expect("pods", 3, runs("two"))?;
    cluster.expect("pods", 3, |_| true)?;
    cluster.expect("replicasets", 2, |_| true)
}

/// Made one by one, rolled out from the last to the first, scaled down.
pub async fn stateful_set(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("StatefulSet", "db", json!({"replicas": 2, "serviceName": "db"}))).await?;
    cluster.settle().await?;
    let db = at("apps", "statefulsets", "db");
    cluster.patch(db, image("db", "two")).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, runs("two"))?;
    cluster.patch(db, json!({"spec": {"replicas": 1}})).await?;
    cluster.settle().await?;
    cluster.expect("pods", 1, is_ready)?;
    cluster.expect("pods", 1, |_| true)?;
    cluster.expect("controllerrevisions", 2, |_| true)
}

/// A pod on each node, replaced by another.
pub async fn daemon_set(cluster: &Cluster) -> Result<()> {
    cluster.create(workload("DaemonSet", "log", json!({}))).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, runs("one"))?;
    cluster.patch(at("apps", "daemonsets", "log"), image("log", "two")).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, runs("two"))?;
    cluster.expect("pods", 2, |_| true)
}

/// A pod that was there before is taken over; one that does not fit any more is let go, and replaced.
pub async fn adoption(cluster: &Cluster) -> Result<()> {
    let mut pod = template("web", "one", json!({}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "found".into();
    cluster.create(pod).await?;
    cluster.settle().await?;
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, is_ready)?;
    cluster.patch(at("", "pods", "found"), json!({"metadata": {"labels": {"app": "other"}}})).await?;
    cluster.settle().await?;
    cluster.expect("pods", 2, |pod| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet")?;
    cluster.expect("pods", 1, |pod| pod["metadata"]["ownerReferences"].is_null())?;
    let old = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"}, "spec": {
        "replicas": 1, "selector": {"app": "old"}, "template": template("old", "one", json!({}))}});
    cluster.create(old).await?;
    cluster.settle().await?;
    cluster.expect("pods", 4, is_ready)
}
