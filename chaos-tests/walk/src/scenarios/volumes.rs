//! Volumes and claims.

use anyhow::Result;
use serde_json::{Value, json};

use super::template;
use crate::cluster::{Cluster, at};

fn phase(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |object| object["status"]["phase"] == phase
}

fn disk(modes: &Value, size: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": {
        "capacity": size, "accessModes": modes, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
        "hostPath": {"path": "/srv"}}})
}

fn pod(volume: Value) -> Value {
    let mut pod = template("db", "one", json!({}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "db".into();
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

/// A pod brings a claim of its own, which goes with it.
pub async fn ephemeral(cluster: &Cluster) -> Result<()> {
    let (modes, size) = (json!(["ReadWriteOnce"]), json!({"storage": "1Gi"}));
    cluster.create(disk(&modes, &size)).await?;
    cluster.settle().await?;
    let spec = json!({"accessModes": modes, "storageClassName": "", "resources": {"requests": size}});
    cluster.create(pod(json!({"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}))).await?;
    cluster.settle().await?;
    cluster.expect("persistentvolumeclaims", 1, phase("Bound"))?;
    cluster.expect("pods", 1, phase("Running"))?;
    cluster.delete(at("", "pods", "db"), None).await?;
    cluster.settle().await?;
    cluster.expect("persistentvolumeclaims", 0, |_| true)?;
    cluster.expect("persistentvolumes", 1, phase("Released"))
}

/// A claim gets its volume, is used, outlives its deletion until nobody uses it, and leaves a volume that was used.
pub async fn claimed(cluster: &Cluster) -> Result<()> {
    let (modes, size) = (json!(["ReadWriteOnce"]), json!({"storage": "1Gi"}));
    cluster.create(disk(&modes, &size)).await?;
    cluster.settle().await?;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {
        "accessModes": modes, "storageClassName": "", "resources": {"requests": size}}});
    cluster.create(claim).await?;
    cluster.create(pod(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}))).await?;
    cluster.settle().await?;
    cluster.expect("persistentvolumeclaims", 1, phase("Bound"))?;
    cluster.expect("pods", 1, phase("Running"))?;
    cluster.delete(at("", "persistentvolumeclaims", "data"), None).await?;
    cluster.settle().await?;
    cluster.expect("persistentvolumeclaims", 1, |claim| !claim["metadata"]["deletionTimestamp"].is_null())?;
    cluster.delete(at("", "pods", "db"), None).await?;
    cluster.settle().await?;
    cluster.expect("persistentvolumeclaims", 0, |_| true)?;
    cluster.expect("persistentvolumes", 1, phase("Released"))
}
