//! What cannot go is left alone: once odd objects have come to where they will stay, nobody writes.

use std::time::Duration;

use crate::support::{Master, resource};
use kontiki_api::{DeleteOptions, PatchKind, Propagation, Target};
use serde_json::{Value, json};

const KEEP: &str = "example.com/keep";
/// A controller that asks again and again does so many times in this long.
const SILENCE: Duration = Duration::from_secs(3);

fn at<'a>(plural: &'static str, space: &'a str, name: &'a str) -> Target<'a> {
    let group = if plural == "replicasets" { "apps" } else { "" };
    Target { resource: resource(group, plural), namespace: Some(space), name, subresource: None }
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "finalizers": [KEEP]},
           "spec": {"nodeName": node, "nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "i"}]}})
}

fn set(name: &str, finalizers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}, "finalizers": finalizers},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

async fn namespace(master: &Master, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    master.create("", "namespaces", None, object).await;
    account(master, name).await;
}

async fn account(master: &Master, space: &str) {
    let read = || async { master.client.get(at("serviceaccounts", space, "default")).await.map_err(|s| s.message) };
    master.until("the account", read).await;
}

async fn delete(master: &Master, target: Target<'_>, propagation: Option<Propagation>) {
    master.client.delete(target, DeleteOptions { propagation, ..DeleteOptions::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_finalizers_hold_is_deleted_once() {
    let master = Master::start(&[]).await;
    account(&master, "default").await;
    for (name, node) in [("unbound", ""), ("lost", "never-was")] {
        master.create("", "pods", Some("default"), pod(name, node)).await;
        delete(&master, at("pods", "default", name), None).await;
        master
            .until("the pod to be given up", || async {
                let found = master.client.get(at("pods", "default", name)).await.map_err(|s| s.message)?;
                let metadata = &found["metadata"];
                if metadata["deletionGracePeriodSeconds"] == 0 { Ok(()) } else { Err(metadata.to_string()) }
            })
            .await;
    }
    master.still(SILENCE).await;
    for name in ["unbound", "lost"] {
        let free = json!({"metadata": {"finalizers": null}});
        master.client.patch(at("pods", "default", name), PatchKind::Merge, free).await.unwrap();
        let gone = master.client.get(at("pods", "default", name)).await;
        assert!(gone.is_err_and(|status| status.is_not_found()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_in_a_namespace_on_its_way_out() {
    let master = Master::start(&["n1"]).await;
    namespace(&master, "shop").await;
    master.create("apps", "replicasets", Some("shop"), set("web", json!([KEEP]))).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                         "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    master.create("", "services", Some("shop"), service).await;
    let endpoints = at("endpoints", "shop", "web");
    master
        .until("two addresses", || async {
            let found = master.client.get(endpoints).await.map_err(|status| status.message)?;
            let count = found["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
            if count == 2 { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    let shop = Target { resource: resource("", "namespaces"), namespace: None, name: "shop", subresource: None };
    delete(&master, shop, None).await;
    delete(&master, endpoints, None).await;
    master
        .until("the pods to be held by their finalizers alone", || async {
            let set = master.client.get(at("replicasets", "shop", "web")).await.map_err(|status| status.message)?;
            let status = &set["status"];
            if status["replicas"] == 0 && status["terminatingReplicas"] == 2 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    master.still(SILENCE).await;
    let missing = master.client.get(endpoints).await;
    assert!(missing.is_err_and(|status| status.is_not_found()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_and_dependents_that_wait_for_each_other_rest() {
    let master = Master::start(&["n1"]).await;
    account(&master, "default").await;
    let map = |name: &str, owner: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "finalizers": [KEEP],
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner,
                                 "blockOwnerDeletion": true}]}})
    };
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}});
    let owner = master.create("", "configmaps", Some("default"), owner).await;
    let uid = owner["metadata"]["uid"].as_str().unwrap();
    master.create("", "configmaps", Some("default"), map("dependent", uid)).await;
    master.create("", "configmaps", Some("default"), map("orphan", "11111111-1111-1111-1111-111111111111")).await;
    delete(&master, at("configmaps", "default", "owner"), Some(Propagation::Foreground)).await;
    for name in ["owner", "dependent", "orphan"] {
        master
            .until("the deletion", || async {
                let found = master.client.get(at("configmaps", "default", name)).await.map_err(|s| s.message)?;
                let metadata = &found["metadata"];
                if metadata["deletionTimestamp"].is_string() { Ok(()) } else { Err(metadata.to_string()) }
            })
            .await;
    }
    master.still(SILENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_gather_others_and_rest() {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let master = Master::start(&[]).await;
    let role = |name: &str, label: &str, gathers: Option<&str>, verb: &str| {
        let selectors = gathers.map(|label| json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}));
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
               "metadata": {"name": name, "labels": {label: "true"}}, "aggregationRule": selectors,
               "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    };
    for object in [
        role("view", "to-edit", Some("to-view"), "none"),
        role("edit", "to-admin", Some("to-edit"), "none"),
        role("basic", "to-view", None, "get"),
        role("more", "to-edit", None, "update"),
    ] {
        master.create(GROUP, "clusterroles", None, object).await;
    }
    let of = |name: &'static str| Target {
        resource: resource(GROUP, "clusterroles"),
        namespace: None,
        name,
        subresource: None,
    };
    let gathered = |expect: Value| {
        let master = &master;
        async move {
            master
                .until("the rules to be gathered", || async {
                    let found = master.client.get(of("edit")).await.map_err(|status| status.message)?;
                    let rules = found["rules"].as_array().into_iter().flatten();
                    let verbs: Vec<Value> = rules.map(|rule| rule["verbs"][0].clone()).collect();
                    if json!(verbs) == expect { Ok(()) } else { Err(found.to_string()) }
                })
                .await;
        }
    };
    gathered(json!(["update", "get"])).await;
    master.still(SILENCE).await;
    delete(&master, of("more"), None).await;
    gathered(json!(["get"])).await;
    master.still(SILENCE).await;
}
