//! A quota's life: it is counted, holds a ReplicaSet back, is given back what goes, and rests.

use std::time::Duration;

use crate::support::{Master, resource};
use kontiki_api::{DeleteOptions, PatchKind, Target};
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);

fn at<'a>(group: &'a str, plural: &'a str, name: &'a str) -> Target<'a> {
    Target { resource: resource(group, plural), namespace: Some("default"), name, subresource: None }
}

async fn status(master: &Master, expect: Value) {
    master
        .until("the quota's status", || async {
            let quota = master.client.get(at("", "resourcequotas", "q")).await.map_err(|status| status.message)?;
            if quota["status"] == expect { Ok(()) } else { Err(quota["status"].to_string()) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_follows_what_comes_and_goes() {
    let master = Master::start(&["n1"]).await;
    let account = || async { master.client.get(at("", "serviceaccounts", "default")).await.map_err(|s| s.message) };
    master.until("the account", account).await;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    master.create("", "configmaps", Some("default"), map("before")).await;
    let root = || async { master.client.get(at("", "configmaps", "kube-root-ca.crt")).await.map_err(|s| s.message) };
    master.until("the CA", root).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "configmaps": "3", "requests.cpu": "1"}}});
    master.create("", "resourcequotas", Some("default"), quota).await;
    let hard = json!({"pods": "2", "configmaps": "3", "requests.cpu": "1"});
    let taken = |pods: &str, maps: &str, cpu: &str| json!({"hard": hard, "used": {"pods": pods, "configmaps": maps, "requests.cpu": cpu}});
    status(&master, taken("0", "2", "0")).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": {
        "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}}}});
    master.create("apps", "replicasets", Some("default"), set).await;
    status(&master, taken("2", "2", "200m")).await;
    master
        .until("the failure to be told", || async {
            let set = master.client.get(at("apps", "replicasets", "web")).await.map_err(|status| status.message)?;
            let conditions = set["status"]["conditions"].to_string();
            if conditions.contains("exceeded quota: q") { Ok(()) } else { Err(conditions) }
        })
        .await;
    let smaller = json!({"spec": {"replicas": 1}});
    master.client.patch(at("apps", "replicasets", "web"), PatchKind::Merge, smaller).await.unwrap();
    master.client.delete(at("", "configmaps", "before"), DeleteOptions::default()).await.unwrap();
    status(&master, taken("1", "1", "100m")).await;
    let larger = json!({"spec": {"hard": {"pods": "5"}}});
    master.client.patch(at("", "resourcequotas", "q"), PatchKind::Merge, larger).await.unwrap();
    let mut expect = taken("1", "1", "100m");
    expect["hard"]["pods"] = "5".into();
    status(&master, expect).await;
    master.still(SILENCE).await;
}
