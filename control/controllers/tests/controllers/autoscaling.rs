//! An autoscaler's life: nodes say what pods use, its target grows, its status tells of it, and it rests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::{Api, NodeProxy, NodeProxyError, NodeStream, Target};
use kontiki_plan::pod;
use kontiki_proto::node::Open;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Master, resource};

/// Longer than metrics are not looked at.
const SILENCE: Duration = Duration::from_secs(17);

/// Nodes on which each pod uses 90 MiB.
#[derive(Default)]
struct Busy(Mutex<Option<Api>>);

impl Busy {
    fn summary(&self, node: &str) -> Value {
        let cpu = json!({"time": jiff::Timestamp::now().to_string(), "usageNanoCores": 1, "usageCoreNanoSeconds": 1});
        let memory = json!({"workingSetBytes": 90 << 20});
        let api = self.0.lock().unwrap().clone().unwrap();
        let pods = api.cache().get::<Pod>().list();
        let shown = pods.iter().filter(|pod| pod::node(pod) == Some(node)).map(|pod| {
            let meta = &pod.metadata;
            let reference = json!({"name": meta.name, "namespace": meta.namespace, "uid": meta.uid});
            json!({"podRef": reference, "containers": [{"name": "c", "cpu": cpu, "memory": memory}]})
        });
        json!({"node": {"cpu": cpu, "memory": memory}, "pods": shown.collect::<Vec<Value>>()})
    }
}

impl NodeProxy for Busy {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        Box::pin(async move {
            let ((tx, _), (to_api, rx)) = (mpsc::channel(1), mpsc::channel(1));
            to_api.send(Ok(Bytes::from(self.summary(&open.node).to_string()))).await.unwrap();
            Ok(NodeStream { tx, rx })
        })
    }
}

fn at<'a>(group: &'a str, plural: &'a str, name: &'a str) -> Target<'a> {
    Target { resource: resource(group, plural), namespace: Some("default"), name, subresource: None }
}

/// The status once it says that the target has three pods, and why that is what it should have.
async fn status(master: &Master, reason: &str) -> Value {
    master
        .until(reason, || async {
            let read = |group, plural, name| master.client.get(at(group, plural, name));
            let found = read("autoscaling", "horizontalpodautoscalers", "h").await.map_err(|status| status.message)?;
            let set = read("apps", "replicasets", "web").await.map_err(|status| status.message)?;
            let status = &found["status"];
            let able = &status["conditions"][0];
            let is = status["currentReplicas"] == 3 && able["type"] == "AbleToScale" && able["reason"] == reason;
            if is && set["spec"]["replicas"] == 3 { Ok(status.clone()) } else { Err(found.to_string()) }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_target_grows_to_its_most_and_rests() {
    let busy = Arc::new(Busy::default());
    let master = Master::with(&["n1"], busy.clone()).await;
    *busy.0.lock().unwrap() = Some(master.api.clone());
    let pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": pod}});
    master.create("apps", "replicasets", Some("default"), set).await;
    let target = json!({"type": "AverageValue", "averageValue": "30Mi"});
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": target}});
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"},
        "maxReplicas": 3, "metrics": [memory]}});
    master.create("autoscaling", "horizontalpodautoscalers", Some("default"), autoscaler).await;
    let told = status(&master, "SucceededRescale").await;
    assert!(told["lastScaleTime"].is_string() && told["desiredReplicas"] == 3, "{told}");
    assert_eq!(told["currentMetrics"][0]["resource"]["current"], json!({"averageValue": "90Mi"}));
    // Metrics go on to ask for more than it may have.
    let rests = status(&master, "ReadyForNewScale").await;
    let limited = &rests["conditions"][2];
    assert_eq!(
        (&limited["type"], &limited["reason"]),
        (&json!("ScalingLimited"), &json!("TooManyReplicas")),
        "{rests}"
    );
    assert_eq!(rests["lastScaleTime"], told["lastScaleTime"]);
    master.still(SILENCE).await;
    let events = master.api.cache().get::<k8s_openapi::api::core::v1::Event>().list();
    let rescaled = events.iter().filter(|event| event.reason.as_deref() == Some("SuccessfulRescale"));
    let texts: Vec<&str> = rescaled.filter_map(|event| event.message.as_deref()).collect();
    assert_eq!(texts, ["New size: 3; reason: memory resource above target"]);
}
