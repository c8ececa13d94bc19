//! What the cluster itself keeps in order: quotas, roles, tokens, certificates.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use super::{is_ready, workload};
use crate::cluster::{Cluster, at, on_cluster, within};

/// Longer than a controller waits before it asks again for what was refused.
const RETRIES: Duration = Duration::from_secs(90);

/// A quota holds a set back, is widened, and is given back what goes.
pub async fn quota(cluster: &Cluster) -> Result<()> {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                       "spec": {"hard": {"pods": "1", "configmaps": "3"}}});
    cluster.create(quota).await?;
    cluster.settle().await?;
    cluster.create(workload("ReplicaSet", "web", json!({"replicas": 2}))).await?;
    cluster.settle().await?;
    let used = |pods: &'static str| move |quota: &Value| quota["status"]["used"]["pods"] == pods;
    cluster.expect("resourcequotas", 1, used("1"))?;
    cluster.patch(at("", "resourcequotas", "q"), json!({"spec": {"hard": {"pods": "4"}}})).await?;
    cluster.rest(RETRIES).await?;
    cluster.expect("pods", 2, is_ready)?;
    cluster.expect("resourcequotas", 1, used("2"))?;
    cluster.patch(at("apps", "replicasets", "web"), json!({"spec": {"replicas": 0}})).await?;
    cluster.settle().await?;
    cluster.expect("resourcequotas", 1, used("0"))
}

/// A request of a node's, made once: making it is slow, and it is the same in all runs then.
fn request() -> &'static str {
    static REQUEST: OnceLock<String> = OnceLock::new();
    REQUEST.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let pem = KeyPair::generate().and_then(|key| params.serialize_request(&key)?.pem());
        STANDARD.encode(pem.unwrap_or_default())
    })
}

/// A node's certificate is approved and signed, a join token expires, and a role gathers others.
pub async fn odds(cluster: &Cluster) -> Result<()> {
    let csr = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "node"},
        "spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                 "usages": ["digital signature", "client auth"], "request": request()},
    });
    cluster.create(csr).await?;
    cluster.settle().await?;
    cluster.expect("certificatesigningrequests", 1, |csr| csr["status"]["certificate"].is_string())?;

    let soon = jiff::Timestamp::now() + Duration::from_secs(30);
    let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": soon.to_string()}});
    cluster.create(token).await?;
    let gathers = json!({"matchLabels": {"part": "yes"}});
    let role = |name: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    let mut whole = role("whole");
    whole["aggregationRule"] = json!({"clusterRoleSelectors": [gathers]});
    cluster.create(whole).await?;
    for (name, verb) in [("one", "get"), ("two", "list")] {
        let mut part = role(name);
        part["metadata"]["labels"] = json!({"part": "yes"});
        part["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
        cluster.create(part).await?;
    }
    cluster.rest(Duration::from_secs(45)).await?;
    cluster.expect("clusterroles", 1, |role| role["rules"].as_array().is_some_and(|rules| rules.len() == 2))?;
    let gone = cluster.client.get(within("kube-system", "", "secrets", "bootstrap-token-abcdef")).await;
    ensure!(gone.is_err(), "the token is still there");
    cluster.delete(on_cluster("rbac.authorization.k8s.io", "clusterroles", "one"), None).await?;
    cluster.settle().await?;
    cluster.expect("clusterroles", 2, |role| role["rules"].as_array().is_some_and(|rules| rules.len() == 1))
}
