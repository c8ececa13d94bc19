//! What nodes and pods use, as nodes say it when somebody asks: `metrics.k8s.io`.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use kontiki_api::clock::System;
use kontiki_api::{Aggregation, NodeProxyError, Outbound};
use kontiki_kinds::{api_services::ApiServices, backends::Services};
use kontiki_machinery::decode::decode_protobuf;
use kontiki_proto::node::open::What;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::common::{Opened, World, admin, ask_of};
use crate::webhooks::serve;
use crate::webhooks::server::{Loopback, Reply, Server};

const API: &str = "/apis/metrics.k8s.io/v1beta1";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Nodes of which `lost` is not connected; the others say what the pod with this uid uses.
async fn nodes(mut opened: mpsc::Receiver<Opened>, uid: String) {
    while let Some(Opened { open, to_api, .. }) = opened.recv().await {
        assert!(matches!(&open.what, Some(What::Stats(stats)) if stats.form.is_empty()), "{open:?}");
        if open.node == "lost" {
            let lost = NodeProxyError { code: 503, message: "no session".into() };
            to_api.send(Err(lost)).await.unwrap();
            continue;
        }
        let cpu =
            |nanos: u64| json!({"time": "2026-01-01T00:00:09.5Z", "usageNanoCores": nanos, "usageCoreNanoSeconds": 1});
        let of = |name: &str, cpu: Value, memory: u64| json!({"name": name, "cpu": cpu, "memory": {"workingSetBytes": memory}});
        let containers = [of("c", cpu(250_000_000), 64 << 20), of("side", cpu(1000), 4096)];
        let pods = json!([{"podRef": {"name": "p", "namespace": "a", "uid": uid}, "containers": containers}]);
        let document = json!({"node": of("", cpu(1_500_000_000), 2 << 30), "pods": pods}).to_string();
        for piece in document.into_bytes().chunks(100) {
            to_api.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
        }
    }
}

/// A node that tells and one that is lost, with pods: `p` runs on the first, `gone` on the other, `new` nowhere.
async fn world() -> World {
    let mut world = World::new().await;
    for (name, zone) in [("lost", "b"), ("n1", "a")] {
        world.post("/api/v1/nodes", json!({"metadata": {"name": name, "labels": {"zone": zone}}})).await;
    }
    let mut uid = String::new();
    for (name, node) in [("gone", "lost"), ("p", "n1")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        let made = world.post("/api/v1/namespaces/a/pods", pod).await;
        made["metadata"]["uid"].as_str().unwrap().clone_into(&mut uid);
        let running = json!({"status": {"phase": "Running"}});
        let (code, pod) = world.merge(&format!("/api/v1/namespaces/a/pods/{name}/status"), running).await;
        assert_eq!(code, 200, "{pod}");
    }
    let new = json!({"metadata": {"name": "new"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    world.post("/api/v1/namespaces/a/pods", new).await;
    let opened = std::mem::replace(&mut world.nodes, mpsc::channel(1).1);
    tokio::spawn(nodes(opened, uid));
    world
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_say_is_shown_and_what_they_do_not_say_is_missing() {
    let world = world().await;
    let before = world.store.snapshot().revision();
    let (code, list) = world.get(&format!("{API}/nodes")).await;
    assert_eq!((code, &list["kind"], &list["metadata"]), (200, &json!("NodeMetricsList"), &json!({})), "{list}");
    assert_eq!(names(&list), ["n1"]);
    let node = &list["items"][0];
    assert_eq!(node["usage"], json!({"cpu": "1500m", "memory": "2Gi"}));
    assert_eq!((&node["timestamp"], &node["window"]), (&json!("2026-01-01T00:00:09Z"), &json!("1s")));
    assert_eq!((&node["metadata"]["labels"], node.get("kind")), (&json!({"zone": "a"}), None));
    let (code, one) = world.get(&format!("{API}/nodes/n1")).await;
    assert_eq!((code, &one["kind"], &one["usage"]), (200, &json!("NodeMetrics"), &node["usage"]));

    let (_, pods) = world.get(&format!("{API}/pods")).await;
    assert_eq!(names(&pods), ["p"], "{pods}");
    let containers = json!([{"name": "c", "usage": {"cpu": "250m", "memory": "64Mi"}},
        {"name": "side", "usage": {"cpu": "1u", "memory": "4Ki"}}]);
    assert_eq!(pods["items"][0]["containers"], containers);
    let (code, pod) = world.get(&format!("{API}/namespaces/a/pods/p")).await;
    assert_eq!((code, &pod["containers"], &pod["metadata"]["namespace"]), (200, &containers, &json!("a")));
    for (query, expect) in [
        ("labelSelector=app%3Dp", &["p"][..]),
        ("labelSelector=app%3Dgone", &[]),
        ("fieldSelector=metadata.name%3Dp", &["p"]),
        ("fieldSelector=metadata.name%21%3Dp", &[]),
    ] {
        let (code, list) = world.get(&format!("{API}/namespaces/a/pods?{query}")).await;
        assert_eq!((code, names(&list).as_slice()), (200, expect), "{query}");
    }
    for (path, message) in [
        ("nodes/absent", "nodes \"absent\" not found"),
        ("nodes/lost", "nodemetrics.metrics.k8s.io \"lost\" not found"),
        ("namespaces/a/pods/absent", "pods \"absent\" not found"),
        ("namespaces/a/pods/new", "podmetrics.metrics.k8s.io \"a/new\" not found"),
    ] {
        let (code, status) = world.get(&format!("{API}/{path}")).await;
        assert_eq!((code, status["message"].as_str()), (404, Some(message)), "{path}");
    }
    for method in ["POST", "DELETE"] {
        let (code, _) = world.ask(method, &format!("{API}/nodes"), json!({})).await;
        assert_eq!(code, 405, "{method}");
    }
    assert_eq!(world.store.snapshot().revision(), before, "nothing is stored");
}

async fn as_table(world: &World, path: &str) -> Value {
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = http::Request::get(format!("{API}/{path}")).header("accept", accept).body(Body::empty()).unwrap();
    let body = world.api.answer(Some(admin()), request).await.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_discovery_and_documents_know_what_is_measured() {
    let world = world().await;
    for path in ["namespaces/a/pods", "namespaces/a/pods/p"] {
        let table = as_table(&world, path).await;
        let columns: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
        assert_eq!(table["rows"][0]["cells"], json!(["p", "250001u", "65540Ki", "1s"]), "{path}");
    }
    let (_, list) = world.get(API).await;
    let expect = json!([
        {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get", "list"]},
        {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]},
    ]);
    assert_eq!(list["resources"], expect);
    let (code, document) = world.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await;
    let schemas = &document["components"]["schemas"];
    assert_eq!(code, 200);
    assert!(schemas["io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"]["properties"]["containers"].is_object());
}

const PARTS: &str = "/api/v1/componentstatuses";

/// One request with an `Accept` header: code, warnings, body.
async fn accepting(world: &World, path: &str, accept: &str) -> (u16, Vec<String>, Bytes) {
    let request = http::Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let response = world.api.answer(Some(admin()), request).await;
    let warnings = response.headers().get_all("warning").iter().map(|text| text.to_str().unwrap().to_owned()).collect();
    (response.status().as_u16(), warnings, response.into_body().collect().await.unwrap().to_bytes())
}

fn part(name: &str) -> Value {
    let condition = json!({"type": "Healthy", "status": "True", "message": "ok"});
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_control_plane_fare_as_this_server_sees_it() {
    let world = World::new().await;
    let before = world.store.snapshot().revision();
    let (code, warnings, bytes) = accepting(&world, PARTS, "application/json").await;
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((code, &list["kind"], &list["metadata"]), (200, &json!("ComponentStatusList"), &json!({})), "{list}");
    assert_eq!(warnings, ["299 - \"v1 ComponentStatus is deprecated in v1.19+\""]);
    assert_eq!(names(&list), ["controller-manager", "etcd-0", "scheduler"]);
    assert_eq!((&list["items"][1]["conditions"], list["items"][1].get("kind")), (&part("")["conditions"], None));
    assert_eq!(world.get(&format!("{PARTS}/scheduler")).await, (200, part("scheduler")));
    for (query, expect) in [
        ("fieldSelector=metadata.name%3Detcd-0", &["etcd-0"][..]),
        ("fieldSelector=metadata.name%21%3Detcd-0", &["controller-manager", "scheduler"]),
        ("labelSelector=a", &[]),
        ("labelSelector=%21a", &["controller-manager", "etcd-0", "scheduler"]),
    ] {
        let (code, list) = world.get(&format!("{PARTS}?{query}")).await;
        assert_eq!((code, names(&list).as_slice()), (200, expect), "{query}");
    }
    let (code, status) = world.get(&format!("{PARTS}/absent")).await;
    assert_eq!((code, &status["message"]), (404, &json!("componentstatus \"absent\" not found")));

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (path, rows) in [(PARTS.to_owned(), 3), (format!("{PARTS}/scheduler"), 1)] {
        let (_, _, bytes) = accepting(&world, &path, table).await;
        let table: Value = serde_json::from_slice(&bytes).unwrap();
        let columns: Vec<&Value> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!(columns, ["Name", "Status", "Message", "Error"]);
        let shown = table["rows"].as_array().unwrap();
        let last = shown.last().map(|row| &row["cells"]);
        assert_eq!((shown.len(), last), (rows, Some(&json!(["scheduler", "Healthy", "ok", ""]))), "{path}");
    }
    let protobuf = "application/vnd.kubernetes.protobuf";
    let (code, _, bytes) = accepting(&world, &format!("{PARTS}/etcd-0"), protobuf).await;
    assert_eq!((code, decode_protobuf(&bytes).unwrap().value), (200, part("etcd-0")));
    let (code, _, bytes) = accepting(&world, PARTS, protobuf).await;
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(code == 200 && holds("ComponentStatusList") && holds("scheduler") && holds("Healthy"), "{bytes:?}");
    assert_eq!(world.store.snapshot().revision(), before, "nothing is stored");

    world.store.shutdown().await;
    let (code, list) = world.get(PARTS).await;
    assert_eq!(code, 200, "whoever asks how things are is told: {list}");
    for item in list["items"].as_array().unwrap() {
        let condition = &item["conditions"][0];
        assert_eq!((&condition["status"], condition.get("message")), (&json!("False"), None), "{item}");
        assert_ne!(condition["error"].as_str().unwrap_or_default(), "", "{item}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_who_registers_serves_instead() {
    let world = world().await;
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    let api = world.beside(|config| {
        config.aggregation = Some(Aggregation { delegates: Arc::new(ApiServices::default()), outbound });
    });
    let get = |path: String| {
        let api = api.clone();
        async move { ask_of(&api, Some(admin()), ("GET", &path, "application/json"), String::new()).await }
    };
    let server = Server::new(|path, _| {
        let list = json!({"kind": "APIResourceList", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [
            {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get"]}]});
        async move { Reply::Review(if path == API { list } else { json!({"items": ["other"]}) }) }.boxed()
    })
    .await;
    serve(&world, "hook", Some(server.address.port())).await;
    let service = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {
        "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "service": {"namespace": "a", "name": "hook"}, "caBundle": server.ca}});
    let made = world.post(SERVICES, service).await;
    let condition = json!({"type": "Available", "status": "True", "reason": "Passed", "message": "",
        "lastTransitionTime": made["metadata"]["creationTimestamp"]});
    let path = format!("{SERVICES}/v1beta1.metrics.k8s.io");
    let (code, _) = world.merge(&format!("{path}/status"), json!({"status": {"conditions": [condition]}})).await;
    assert_eq!(code, 200);
    api.cache().wait_for(api.store().snapshot().revision()).await;
    assert_eq!(api.look_behind().await[0].outcome, Ok(()));
    assert_eq!(get(format!("{API}/nodes")).await, (200, json!({"items": ["other"]})));
    assert_eq!(api.client(admin()).read(&format!("{API}/pods")).await.unwrap(), json!({"items": ["other"]}));
    let (_, group) = get("/apis/metrics.k8s.io".into()).await;
    assert_eq!(group["versions"].as_array().map(Vec::len), Some(1), "{group}");

    let (code, _) = world.ask("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    api.cache().wait_for(api.store().snapshot().revision()).await;
    let (code, list) = get(format!("{API}/nodes")).await;
    assert_eq!((code, &list["kind"]), (200, &json!("NodeMetricsList")), "it is served here again");
}
