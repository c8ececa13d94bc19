//! Requests that go on to pods, to pods behind Services, and to agents.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use kontiki_api::{NodeProxyError, User};
use kontiki_proto::node::open::What;
use serde_json::json;
use tokio::sync::mpsc;

use crate::common::{Opened, World, admin};

const POD: &str = "/api/v1/namespaces/a/pods/p";

/// A node whose servers answer with the place, the method and the path that they were asked for, and `with` as a header.
async fn node(mut opened: mpsc::Receiver<Opened>, with: &'static str) {
    while let Some(Opened { open, mut from_api, to_api }) = opened.recv().await {
        let place = match open.what {
            Some(What::Dial(dial)) if dial.port == 9 => {
                let refused =
                    NodeProxyError { code: 502, message: "dial tcp 10.1.0.2:9: connect: connection refused".into() };
                let _ = to_api.send(Err(refused)).await;
                continue;
            }
            Some(What::Dial(dial)) => {
                to_api.send(Ok(Bytes::from_static(&[1]))).await.unwrap();
                format!("{}:{}", dial.address, dial.port)
            }
            Some(What::Serve(_)) => "agent".to_owned(),
            other => panic!("not proxied: {other:?}"),
        };
        let mut head = String::new();
        while !head.contains("\r\n\r\n") {
            head.push_str(std::str::from_utf8(&from_api.recv().await.unwrap()).unwrap());
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let link = if with.contains("text/html") { "<a href='/y'>" } else { "" };
        let body = format!("{} {place} {method} {path}{link}", open.node);
        let length = body.len();
        let body = if method == "HEAD" { "" } else { &body };
        let text = format!("HTTP/1.1 200 OK\r\n{with}Content-Length: {length}\r\n\r\n{body}");
        to_api.send(Ok(text.into())).await.unwrap();
    }
}

async fn world(with: &'static str) -> World {
    let mut world = World::new().await;
    let nodes = std::mem::replace(&mut world.nodes, mpsc::channel(1).1);
    tokio::spawn(node(nodes, with));
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]});
    world.post("/api/v1/namespaces/a/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let (code, pod) = world.merge(&format!("{POD}/status"), json!({"status": {"podIP": "10.1.0.2"}})).await;
    assert_eq!(code, 200, "{pod}");
    world
        .post("/api/v1/namespaces/a/services", json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}))
        .await;
    let target = json!({"kind": "Pod", "namespace": "a", "name": "p"});
    let subset = json!({"addresses": [{"ip": "10.1.0.2", "targetRef": target}], "ports": [{"port": 8080}]});
    world.post("/api/v1/namespaces/a/endpoints", json!({"metadata": {"name": "s"}, "subsets": [subset]})).await;
    world.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_goes_on_with_and_without_a_path() {
    let world = world("").await;
    for method in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT"] {
        for (path, expect) in [
            (format!("{POD}/proxy"), format!("n1 10.1.0.2:80 {method} /")),
            (format!("{POD}:81/proxy/some/path?a=b"), format!("n1 10.1.0.2:81 {method} /some/path?a=b")),
            ("/api/v1/namespaces/a/services/s/proxy/x/".into(), format!("n1 10.1.0.2:8080 {method} /x/")),
        ] {
            let (code, answer) = world.ask(method, &path, json!({"a": 1})).await;
            assert_eq!((code, answer.as_str()), (200, Some(expect.as_str())), "{method} {path}");
        }
    }
    for (path, expect) in [
        (format!("{POD}/proxy/"), "n1 10.1.0.2:80 GET /"),
        ("/api/v1/namespaces/a/services/http:s:80/proxy/a%2Fb".into(), "n1 10.1.0.2:8080 GET /a%2Fb"),
        ("/api/v1/nodes/n1/proxy/stats/summary".into(), "n1 agent GET /stats/summary"),
    ] {
        let (code, answer) = world.get(&path).await;
        assert_eq!((code, answer.as_str()), (200, Some(expect)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_redirected_and_refusals_told() {
    let world = world("Location: /login\r\n").await;
    for (method, path, expect) in [
        ("GET", format!("{POD}/proxy"), format!("301 {POD}/proxy/")),
        ("HEAD", format!("{POD}/proxy?a=b"), format!("301 {POD}/proxy/?a=b")),
        ("GET", format!("{POD}/proxy/x"), format!("200 {POD}/proxy/login")),
    ] {
        let request = http::Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
        let response = world.api.answer(Some(admin()), request).await;
        let to = response.headers().get("location").unwrap().to_str().unwrap().to_owned();
        assert_eq!(format!("{} {to}", response.status().as_u16()), expect, "{method} {path}");
        let _ = response.into_body().collect().await.unwrap();
    }
    for (path, code, message) in [
        (
            format!("{POD}:9/proxy/"),
            503,
            "error trying to reach service: dial tcp 10.1.0.2:9: connect: connection refused",
        ),
        ("/api/v1/namespaces/a/pods/absent/proxy/".into(), 404, "pods \"absent\" not found"),
        ("/api/v1/namespaces/a/services/s:web/proxy/".into(), 503, "no endpoints available for service \"s:web\""),
    ] {
        let (found, status) = world.get(&path).await;
        assert_eq!((found, status["message"].as_str()), (code, Some(message)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_pages_lead_through_the_proxy() {
    let world = world("Content-Type: text/html\r\nAccess-Control-Allow-Origin: *\r\n").await;
    for (proxy, place) in [
        (format!("{POD}:81/proxy"), "10.1.0.2:81"),
        ("/api/v1/namespaces/a/services/s/proxy".into(), "10.1.0.2:8080"),
        ("/api/v1/nodes/n1/proxy".into(), "agent"),
    ] {
        let request = http::Request::get(format!("{proxy}/x")).body(Body::empty()).unwrap();
        let response = world.api.answer(Some(admin()), request).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{proxy}");
        assert!(!response.headers().contains_key("content-length"), "{proxy}");
        let page = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(page, format!("n1 {place} GET /x<a href='{proxy}/y'>"), "{proxy}");
    }
    // A HEAD tells the length of the page as it is behind.
    let request = http::Request::head(format!("{POD}/proxy/x")).body(Body::empty()).unwrap();
    let response = world.api.answer(Some(admin()), request).await;
    assert!(response.headers().contains_key("content-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_method_is_the_verb_that_is_allowed() {
    let world = world("").await;
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get", "create"]}]});
    world.post("/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", role).await;
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
        "name": "r"}, "subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}]});
    world.post("/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings", binding).await;
    let user = || Some(User::new("u", &["system:authenticated"]));
    for (method, expect) in [("GET", 200), ("POST", 200), ("PUT", 403), ("DELETE", 403), ("OPTIONS", 403)] {
        let path = format!("{POD}/proxy/x");
        let (code, answer) = world.ask_as(user(), method, &path, "text/plain", String::new()).await;
        assert_eq!(code, expect, "{method}: {answer}");
    }
    let (code, _) = world.ask_as(user(), "GET", "/api/v1/namespaces/a/services/s/proxy/", "", String::new()).await;
    assert_eq!(code, 403);
}
