//! What workloads ask of the scheduler, from the request to the pod that runs.

use kontiki_api::{PatchKind, Target};
use serde_json::{Value, json};

use super::support::{Master, resource};

async fn start(nodes: &[&str]) -> Master {
    let master = Master::start(nodes).await;
    for name in nodes {
        let target = Target { resource: resource("", "nodes"), namespace: None, name, subresource: None };
        let labels = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}});
        master.client.patch(target, PatchKind::Merge, labels).await.unwrap();
    }
    let accounts = resource("", "serviceaccounts");
    let account = Target { resource: accounts, namespace: Some("default"), name: "default", subresource: None };
    master.until("the account", || async { master.client.get(account).await.map_err(|status| status.message) }).await;
    master
}

fn pod(name: &str) -> Target<'_> {
    Target { resource: resource("", "pods"), namespace: Some("default"), name, subresource: None }
}

async fn create_pod(master: &Master, name: &str, spec: Value) {
    let mut spec = spec;
    let requests = spec["cpu"].take();
    let mut container = json!({"name": "c", "image": "i"});
    if !requests.is_null() {
        container["resources"] = json!({"requests": {"cpu": requests}});
    }
    spec.as_object_mut().unwrap().remove("cpu");
    spec["containers"] = json!([container]);
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": spec});
    master.create("", "pods", Some("default"), object).await;
}

/// Waits until a pod is as `right` says.
async fn until_pod(master: &Master, name: &str, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    master
        .until(what, || async {
            let object = master.client.get(pod(name)).await.map_err(|status| status.message)?;
            if right(&object) {
                Ok(object)
            } else {
                Err(format!("{} on {}", object["status"], object["spec"]["nodeName"]))
            }
        })
        .await
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn says(object: &Value, text: &str) -> bool {
    condition(object, "PodScheduled")
        .is_some_and(|scheduled| scheduled["message"].as_str().unwrap_or_default().contains(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_more_important_pod_gets_room_and_its_victim_is_told_why() {
    let master = start(&["n1"]).await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"},
        "value": 1000});
    master.create("scheduling.k8s.io", "priorityclasses", None, class).await;
    create_pod(&master, "low", json!({"cpu": "3"})).await;
    let hold = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    master.client.patch(pod("low"), PatchKind::Merge, hold(json!(["example.com/hold"]))).await.unwrap();
    until_pod(&master, "low", "it runs", |low| low["status"]["phase"] == "Running").await;

    create_pod(&master, "high", json!({"cpu": "2", "priorityClassName": "high"})).await;
    let low = until_pod(&master, "low", "it is told", |low| condition(low, "DisruptionTarget").is_some()).await;
    let target = condition(&low, "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "PreemptionByScheduler");
    assert_eq!(target["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    until_pod(&master, "low", "it goes", |low| !low["metadata"]["deletionTimestamp"].is_null()).await;
    until_pod(&master, "high", "its node", |high| high["status"]["nominatedNodeName"] == "n1").await;
    create_pod(&master, "other", json!({"cpu": "2"})).await;
    until_pod(&master, "other", "no room", |other| says(other, "0/1 nodes are available: 1 Insufficient cpu.")).await;

    master.client.patch(pod("low"), PatchKind::Merge, hold(json!(null))).await.unwrap();
    until_pod(&master, "high", "it runs", |high| high["spec"]["nodeName"] == "n1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_must_not_meet_do_not() {
    let master = start(&["n1", "n2"]).await;
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
    for name in ["a", "b"] {
        create_pod(&master, name, apart.clone()).await;
    }
    let node = async |name: &str| {
        let placed = until_pod(&master, name, "its node", |pod| pod["spec"]["nodeName"].is_string()).await;
        placed["spec"]["nodeName"].as_str().unwrap().to_owned()
    };
    assert_ne!(node("a").await, node("b").await);
    create_pod(&master, "c", apart).await;
    let text = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    until_pod(&master, "c", "no room", |c| says(c, text)).await;
    let gone = node("a").await;
    master.client.delete(pod("a"), kontiki_api::DeleteOptions::default()).await.unwrap();
    assert_eq!(node("c").await, gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_gets_its_volume_where_the_pod_goes() {
    let master = start(&["n1", "n2"]).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    master.create("storage.k8s.io", "storageclasses", None, class).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late",
        "local": {"path": "/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}},
    }});
    master.create("", "persistentvolumes", None, volume).await;
    // The claim is made for the pod, from its template.
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let volumes = json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}]);
    create_pod(&master, "p", json!({"volumes": volumes})).await;
    until_pod(&master, "p", "it runs", |p| p["spec"]["nodeName"] == "n2" && p["status"]["phase"] == "Running").await;
    let claims = resource("", "persistentvolumeclaims");
    let claim = Target { resource: claims, namespace: Some("default"), name: "p-data", subresource: None };
    let claim = master.client.get(claim).await.unwrap();
    assert_eq!((&claim["spec"]["volumeName"], &claim["status"]["phase"]), (&json!("v"), &json!("Bound")));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "p");
}
