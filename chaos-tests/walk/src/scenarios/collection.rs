//! What goes with others.

use anyhow::Result;
use kontiki_api::Propagation;
use serde_json::json;

use super::workload;
use crate::cluster::{Cluster, at, on_cluster, within};

/// Three owners go: one after what it owns, one before it, one without it.
pub async fn owners(cluster: &Cluster) -> Result<()> {
    let ways =
        [("after", Propagation::Foreground), ("before", Propagation::Background), ("without", Propagation::Orphan)];
    for (name, _) in ways {
        cluster.create(workload("ReplicaSet", name, json!({"replicas": 2}))).await?;
    }
    cluster.settle().await?;
    cluster.expect("pods", 6, |_| true)?;
    for (name, how) in ways {
        cluster.delete(at("apps", "replicasets", name), Some(how)).await?;
        cluster.settle().await?;
    }
    cluster.expect("replicasets", 0, |_| true)?;
    cluster.expect("pods", 2, |pod| pod["metadata"]["ownerReferences"].is_null())?;
    cluster.expect("pods", 2, |_| true)
}

/// A namespace is set up, loses its account, and goes when what somebody holds in it is let go.
pub async fn namespace(cluster: &Cluster) -> Result<()> {
    cluster.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})).await?;
    cluster.settle().await?;
    cluster.delete(within("shop", "", "serviceaccounts", "default"), None).await?;
    cluster.settle().await?;
    cluster.expect("serviceaccounts", 4, |_| true)?;
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
                      "metadata": {"name": "held", "namespace": "shop", "finalizers": ["example.com/hold"]}});
    cluster.create(held).await?;
    let mut set = workload("ReplicaSet", "web", json!({"replicas": 1}));
    set["metadata"]["namespace"] = "shop".into();
    cluster.create(set).await?;
    cluster.settle().await?;
    let shop = on_cluster("", "namespaces", "shop");
    cluster.delete(shop, None).await?;
    cluster.settle().await?;
    cluster.expect("pods", 0, |_| true)?;
    cluster.expect("namespaces", 1, |namespace| namespace["status"]["phase"] == "Terminating")?;
    cluster.patch(within("shop", "", "configmaps", "held"), json!({"metadata": {"finalizers": null}})).await?;
    cluster.settle().await?;
    cluster.expect("namespaces", 3, |_| true)
}
