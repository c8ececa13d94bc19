//! Admission webhooks, over real TLS.

pub mod server;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::FutureExt as _;
use kontiki_api::clock::System;
use kontiki_api::{Api, Outbound};
use kontiki_kinds::{backends::Services, webhooks};
use kontiki_machinery::outcall::Caller;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use server::{Loopback, Reply, Server, allowed, patched};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn api(world: &World) -> Api {
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    let outbound: Arc<dyn Caller> = outbound;
    world.beside(|config| config.admission.extend(webhooks::members(&config.registry, &outbound)))
}

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_of(api, Some(admin()), (method, path, media), body).await
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"judged": "yes"}}, "data": {"a": "1"}})
}

/// A webhook for ConfigMaps that say so.
fn hook(name: &str, client: Value, edit: Value) -> Value {
    let mut hook = json!({
        "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5, "objectSelector": {"matchLabels": {"judged": "yes"}},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]
    });
    for (field, value) in edit.as_object().unwrap() {
        hook[field] = value.clone();
    }
    hook
}

/// Makes a configuration and waits until `api` knows of it.
async fn configure(api: &Api, collection: &str, name: &str, hooks: Vec<Value>) {
    let (code, made) = ask(api, "POST", collection, json!({"metadata": {"name": name}, "webhooks": hooks})).await;
    assert_eq!(code, 201, "{made}");
    api.cache().wait_for(api.store().snapshot().revision()).await;
}

/// Makes a service, and a pod that serves it at `port`.
pub async fn serve(world: &World, name: &str, port: Option<u16>) {
    let ports = json!([{"name": "https", "port": 443}]);
    let service = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
    world.post("/api/v1/namespaces/a/services", service).await;
    let Some(port) = port else { return };
    let pod = json!({"addresses": ["10.2.0.7"], "conditions": {"ready": true}, "nodeName": "a1",
        "targetRef": {"kind": "Pod", "name": "p", "namespace": "a"}});
    let labels = json!({"kubernetes.io/service-name": name});
    let slice = json!({"metadata": {"name": name, "labels": labels}, "addressType": "IPv4",
        "ports": [{"name": "https", "port": port}], "endpoints": [pod]});
    world.post("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices", slice).await;
}

fn message(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_change_refuse_and_warn() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|path, review| {
        async move {
            let name = review["request"]["name"].as_str().unwrap_or_default();
            match (path.as_str(), name) {
                ("/mutate?timeout=5s", _) if review["request"]["operation"] != "DELETE" => {
                    patched(&review, json!([{"op": "add", "path": "/data/changed", "value": "yes"}]))
                }
                ("/mutate?timeout=5s", _) => allowed(&review, json!({})),
                ("/validate?timeout=5s", "bad") => {
                    allowed(&review, json!({"allowed": false, "status": {"message": "bad name", "code": 403}}))
                }
                _ => allowed(&review, json!({"warnings": ["mind the gap"], "auditAnnotations": {"k": "v"}})),
            }
        }
        .boxed()
    })
    .await;
    configure(&api, MUTATING, "m", vec![hook("m.example.com", server.by_url("/mutate"), json!({}))]).await;
    configure(&api, VALIDATING, "v", vec![hook("v.example.com", server.by_url("/validate"), json!({}))]).await;
    assert!(server.take().is_empty(), "nobody judges judges");

    let (code, made) = ask(&api, "POST", MAPS, map("good")).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "changed": "yes"})), "{made}");
    let bad = ask(&api, "POST", MAPS, map("bad")).await;
    assert_eq!(message(&bad), (403, "admission webhook \"v.example.com\" denied the request: bad name"));
    let (code, plain) = ask(&api, "POST", MAPS, json!({"metadata": {"name": "plain"}})).await;
    assert_eq!((code, &plain["data"]), (201, &Value::Null), "it has no such label");
    server.take();

    let request = http::Request::delete(format!("{MAPS}/good")).body(Body::empty()).unwrap();
    let response = api.answer(Some(admin()), request).await;
    assert_eq!(response.status().as_u16(), 200);
    let warnings: Vec<_> = response.headers().get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(warnings, ["299 - \"mind the gap\""]);
    let asked = server.take();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/mutate?timeout=5s", "/validate?timeout=5s"]);
    let request = &asked[1].1["request"];
    assert_eq!((&request["object"], &request["oldObject"]["data"]["changed"]), (&Value::Null, &json!("yes")));
    assert_eq!(
        (&request["operation"], &request["name"], &request["namespace"]),
        (&json!("DELETE"), &json!("good"), &json!("a"))
    );
    let connections = server.connections.load(Ordering::Relaxed);
    assert!(connections <= 2, "connections are used again: {connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_through_its_pods_node() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|_, review| async move { allowed(&review, json!({})) }.boxed()).await;
    let other = Server::new(|_, review| async move { allowed(&review, json!({})) }.boxed()).await;
    let client =
        |service: &str, ca: &str| json!({"service": {"namespace": "a", "name": service, "path": "/x"}, "caBundle": ca});
    let failed = |name: &str, why: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"v.example.com\": failed to call webhook: Post \"https://{name}.a.svc:443/x?timeout=5s\": {why}"
        )
    };
    for (name, port) in [("hook", Some(&server)), ("misnamed", Some(&server)), ("empty", None)] {
        serve(&world, name, port.map(|server| server.address.port())).await;
    }
    for (what, client, expect) in [
        ("its pod", client("hook", &server.ca), None),
        (
            "another authority",
            client("hook", &other.ca),
            Some(failed("hook", "tls: failed to verify certificate: x509: certificate signed by unknown authority")),
        ),
        (
            "another name",
            client("misnamed", &server.ca),
            Some(failed(
                "misnamed",
                "tls: failed to verify certificate: x509: certificate is valid for hook.a.svc, not misnamed.a.svc",
            )),
        ),
        ("nobody", client("empty", &server.ca), Some(failed("empty", "no endpoints available for service \"empty\""))),
        ("no service", client("gone", &server.ca), Some(failed("gone", "service \"gone\" not found"))),
    ] {
        configure(&api, VALIDATING, "v", vec![hook("v.example.com", client, json!({}))]).await;
        let answer = ask(&api, "POST", &format!("{MAPS}?dryRun=All"), map("m")).await;
        match expect {
            None => assert_eq!(answer.0, 201, "{what}: {}", answer.1),
            Some(text) => assert_eq!(message(&answer), (500, text.as_str()), "{what}"),
        }
        assert_eq!(ask(&api, "DELETE", &format!("{VALIDATING}/v"), Value::Null).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_answers_end_in_a_status_soon_and_store_nothing() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|path, review| {
        async move {
            match path.split('?').next().unwrap_or_default() {
                "/hang" => Reply::Nothing,
                "/endless" => Reply::Endless,
                "/half" => Reply::Half,
                "/500" => Reply::Plain(500, "oh no"),
                "/404" => Reply::Plain(404, ""),
                "/lies" => allowed(&review, json!({"uid": "somebody else"})),
                "/rename" => patched(&review, json!([{"op": "replace", "path": "/metadata/namespace", "value": "b"}])),
                "/retype" => patched(&review, json!([{"op": "replace", "path": "/data", "value": 7}])),
                _ => patched(&review, json!([{"op": "remove", "path": "/nothing"}])),
            }
        }
        .boxed()
    })
    .await;
    let plain = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nobody = plain.local_addr().unwrap();
    drop(plain);
    let url = |path: &str| server.by_url(path);
    let closed = json!({"url": format!("https://{nobody}/x"), "caBundle": server.ca});
    let post = |path: &str, timeout: u8, why: &str| {
        format!("failed to call webhook: Post \"https://{}{path}?timeout={timeout}s\": {why}", server.address)
    };
    let calling = |why: String| format!("Internal error occurred: failed calling webhook \"m.example.com\": {why}");
    for (what, client, code, expect, ignored) in [
        ("it hangs", url("/hang"), 500, calling(post("/hang", 1, "context deadline exceeded")), 201),
        (
            "it does not end",
            url("/endless"),
            500,
            calling(post("/endless", 10, "the answer is longer than 8388608 bytes")),
            201,
        ),
        ("it breaks off", url("/half"), 500, calling(post("/half", 10, "unexpected EOF")), 201),
        (
            "it fails",
            url("/500"),
            500,
            calling(
                "failed to call webhook: an error on the server (\"oh no\") has prevented the request from succeeding"
                    .into(),
            ),
            201,
        ),
        (
            "it is elsewhere",
            url("/404"),
            500,
            calling("failed to call webhook: the server could not find the requested resource".into()),
            201,
        ),
        (
            "it lies",
            url("/lies"),
            500,
            calling("received invalid webhook response: expected response.uid=".into()),
            201,
        ),
        (
            "nobody is there",
            closed,
            500,
            calling(format!(
                "failed to call webhook: Post \"https://{nobody}/x?timeout=10s\": dial tcp {nobody}: connect: connection refused"
            )),
            201,
        ),
        ("it moves the object", url("/rename"), 400, "the namespace of the provided object does not match".into(), 400),
        ("it breaks the object", url("/retype"), 500, "Internal error occurred: ".into(), 500),
        ("its patch does not fit", url("/patch"), 500, "Internal error occurred: ".into(), 500),
    ] {
        for (policy, code) in [("Fail", code), ("Ignore", ignored)] {
            let edit = json!({"failurePolicy": policy, "timeoutSeconds": if what == "it hangs" { 1 } else { 10 }});
            configure(&api, MUTATING, "m", vec![hook("m.example.com", client.clone(), edit)]).await;
            let started = Instant::now();
            let answer = ask(&api, "POST", &format!("{MAPS}?dryRun=All"), map("m")).await;
            assert_eq!(answer.0, code, "{what}, {policy}: {}", answer.1);
            assert!(code == 201 || message(&answer).1.starts_with(&expect), "{what}, {policy}: {}", answer.1);
            assert!(started.elapsed() < Duration::from_secs(30), "{what}, {policy}");
            assert_eq!(ask(&api, "DELETE", &format!("{MUTATING}/m"), Value::Null).await.0, 200);
        }
    }
    assert_eq!(world.get(&format!("{MAPS}/m")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_asked_in_order_again_if_needed_and_at_once() {
    let world = World::new().await;
    let api = api(&world);
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let server = Server::new(move |path, review| {
        let both = both.clone();
        async move {
            match path.split('?').next().unwrap_or_default() {
                "/judge" => {
                    // Each waits for the other: they have to be asked at once.
                    both.wait().await;
                    allowed(&review, json!({}))
                }
                path => {
                    let key = path.trim_start_matches('/').to_owned();
                    match &review["request"]["object"]["data"][&key] {
                        Value::Null => {
                            patched(&review, json!([{"op": "add", "path": format!("/data/{key}"), "value": "x"}]))
                        }
                        _ => allowed(&review, json!({})),
                    }
                }
            }
        }
        .boxed()
    })
    .await;
    let again = || json!({"reinvocationPolicy": "IfNeeded"});
    configure(&api, MUTATING, "b", vec![hook("three.example.com", server.by_url("/three"), json!({}))]).await;
    let hooks = vec![
        hook("one.example.com", server.by_url("/one"), again()),
        hook("two.example.com", server.by_url("/two"), json!({})),
    ];
    configure(&api, MUTATING, "a", hooks).await;
    let judge = |name: &str| hook(name, server.by_url("/judge"), json!({}));
    configure(&api, VALIDATING, "v", vec![judge("x.example.com"), judge("y.example.com")]).await;
    let (code, made) = ask(&api, "POST", MAPS, map("m")).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "one": "x", "two": "x", "three": "x"})), "{made}");
    let asked: Vec<String> =
        server.take().into_iter().map(|(path, _)| path.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["/one", "/two", "/three", "/one", "/judge", "/judge"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_and_streams_are_judged_as_what_they_are() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|_, review| async move { allowed(&review, json!({})) }.boxed()).await;
    let everything = json!({"objectSelector": {}, "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["pods/*", "deployments/*"]}]});
    configure(&api, VALIDATING, "v", vec![hook("v.example.com", server.by_url("/v"), everything)]).await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a1", "containers": [{"name": "c", "image": "i"}]}});
    world.post("/api/v1/namespaces/a/pods", pod.clone()).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    world.post("/apis/apps/v1/namespaces/a/deployments", json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    for (method, path, body, sub, expect) in [
        (
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            json!({"spec": {"replicas": 3}}),
            "scale",
            kind("autoscaling", "v1", "Scale"),
        ),
        (
            "PATCH",
            "/api/v1/namespaces/a/pods/p/status",
            json!({"status": {"message": "m"}}),
            "status",
            kind("", "v1", "Pod"),
        ),
        // Not as the deletion of the pod, too, though `pods/*` means both.
        (
            "POST",
            "/api/v1/namespaces/a/pods/p/eviction?dryRun=All",
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}),
            "eviction",
            kind("policy", "v1", "Eviction"),
        ),
        (
            "POST",
            "/api/v1/namespaces/a/pods/p/exec?command=ls&stdin=true",
            Value::Null,
            "exec",
            kind("", "v1", "PodExecOptions"),
        ),
    ] {
        let (code, answer) = ask(&api, method, path, body).await;
        // Without an upgrade there is no stream, but admission comes first.
        assert!(code == 200 || code == 201 || (code == 400 && sub == "exec"), "{path}: {answer}");
        let asked = server.take();
        let shown: Vec<_> = asked.iter().map(|(_, review)| &review["request"]).collect();
        assert_eq!(shown.len(), 1, "{path}: {shown:?}");
        assert_eq!((&shown[0]["subResource"], &shown[0]["kind"]), (&json!(sub), &expect), "{path}");
        assert_eq!(shown[0]["object"]["kind"], expect["kind"], "{path}");
        if sub == "exec" {
            let options = json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["ls"], "stdin": true});
            assert_eq!((&shown[0]["operation"], &shown[0]["object"]), (&json!("CONNECT"), &options));
        }
    }
    let (_, scaled) = world.get("/apis/apps/v1/namespaces/a/deployments/d").await;
    assert_eq!(scaled["spec"]["replicas"], 3);
}
