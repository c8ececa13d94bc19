//! A kind's life: its definition is given names, objects are made, owned and collected, and go before their definition.

use std::time::Duration;

use crate::support::{Master, resource};
use kontiki_api::{DeleteOptions, Target};
use serde_json::{Value, json};

const SILENCE: Duration = Duration::from_secs(2);

fn definition(plural: &str, kind: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
                 "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    })
}

fn at<'a>(name: &'a str) -> Target<'a> {
    let definitions = resource("apiextensions.k8s.io", "customresourcedefinitions");
    Target { resource: definitions, namespace: None, name, subresource: None }
}

/// Waits until a condition of a definition has a status and reason.
async fn until(master: &Master, name: &str, condition: &str, status: &str, reason: &str) {
    master
        .until(condition, || async {
            let found = master.client.get(at(name)).await.map_err(|status| status.message)?;
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is = |c: &Value| c["type"] == condition && c["status"] == status && c["reason"] == reason;
            if conditions.iter().any(is) { Ok(()) } else { Err(json!(conditions).to_string()) }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_comes_and_goes_with_its_objects() {
    let master = Master::start(&[]).await;
    let (group, plural) = ("apiextensions.k8s.io", "customresourcedefinitions");
    master.create(group, plural, None, definition("frobs", "Frob")).await;
    until(&master, "frobs.example.com", "Established", "True", "InitialNamesAccepted").await;
    master.create(group, plural, None, definition("others", "Frob")).await;
    until(&master, "others.example.com", "NamesAccepted", "False", "ListKindConflict").await;

    let frobs = resource("example.com", "frobs");
    let frob = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": name}});
    let made = master
        .until("the kind to be served", || async {
            master.client.create(frobs, Some("default"), frob("one")).await.map_err(|status| status.message)
        })
        .await;
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Frob", "name": "one", "uid": made["metadata"]["uid"]});
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [owner]}});
    master.create("", "configmaps", Some("default"), map).await;
    let mut held = frob("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let held = master.client.create(frobs, Some("default"), held).await.unwrap();
    master.still(SILENCE).await;

    master.client.delete(at("frobs.example.com"), DeleteOptions::default()).await.unwrap();
    until(&master, "frobs.example.com", "Terminating", "True", "InstanceDeletionInProgress").await;
    let late = master.client.create(frobs, Some("default"), frob("late")).await.map_err(|status| status.code);
    assert!(matches!(late, Err(404 | 405)), "{late:?}");
    let gone = |name: &'static str| {
        let master = &master;
        async move {
            let map =
                Target { resource: resource("", "configmaps"), namespace: Some("default"), name, subresource: None };
            if master.client.get(map).await.is_err() { Ok(()) } else { Err(format!("{name} is there")) }
        }
    };
    master.until("what it owned to go", || gone("owned")).await;
    master.still(SILENCE).await;
    let mut free = held.clone();
    free["metadata"] = json!({"finalizers": null});
    let target = Target { resource: frobs, namespace: Some("default"), name: "held", subresource: None };
    master.client.patch(target, kontiki_api::PatchKind::Merge, free).await.unwrap();
    master
        .until("the definition to go", || async {
            if master.client.get(at("frobs.example.com")).await.is_err() {
                Ok(())
            } else {
                Err("it is there".to_owned())
            }
        })
        .await;
    // Who waited for its names gets them.
    until(&master, "others.example.com", "Established", "True", "InitialNamesAccepted").await;
    master.still(SILENCE).await;
}
