//! Stories over the whole pipeline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::served::serve;
use crate::common::{World, admin};
use futures::StreamExt;
use http_body_util::BodyExt;
use kontiki_api::{DeleteOptions, PatchKind, Target, Written};
use kontiki_gate::Gate;
use kontiki_model::{GroupResource, Term};
use kontiki_store::Tuning;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forgotten_past_is_answered_with_410() {
    let (history, compact_every) = (Duration::ZERO, Duration::from_millis(20));
    let world = World::with(Tuning { history, compact_every, ..Tuning::default() }).await;
    let maps = "/api/v1/namespaces/a/configmaps";
    for name in ["one", "two"] {
        world.post(maps, json!({"metadata": {"name": name}})).await;
    }
    let (_, page) = world.get(&format!("{maps}?limit=1")).await;
    let (version, token) = (&page["metadata"]["resourceVersion"], &page["metadata"]["continue"]);
    let (version, token) = (version.as_str().expect("a version"), token.as_str().expect("a token"));
    let (_, last) = world.merge(&format!("{maps}/one"), json!({"data": {"a": "1"}})).await;
    let last: u64 = last["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version");
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.store.compacted().0 < last {
        assert!(Instant::now() < deadline, "compacted up to {:?} only", world.store.compacted());
        tokio::time::sleep(compact_every).await;
    }
    let gone =
        |status: &Value| assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{status}");
    let event = world.first_event(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    assert_eq!(event["type"], "ERROR");
    gone(&event["object"]);
    let (code, status) = world.get(&format!("{maps}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(code, 410);
    gone(&status);
    // A list that was begun can still be finished, until many others were begun since.
    let next = format!("{maps}?limit=1&continue={token}");
    let (code, page) = world.get(&next).await;
    assert_eq!((code, &page["items"][0]["metadata"]["name"]), (200, &json!("two")), "{page}");
    for change in 0..20 {
        world.merge(&format!("{maps}/one"), json!({"data": {"a": change.to_string()}})).await;
        world.get(&format!("{maps}?limit=1")).await;
    }
    let (code, status) = world.get(&next).await;
    assert_eq!(code, 410);
    gone(&status);
    let again = status["metadata"]["continue"].as_str().expect("a token that goes on in the present");
    let (code, page) = world.get(&format!("{maps}?limit=1&continue={again}")).await;
    assert_eq!((code, &page["items"][0]["metadata"]["name"]), (200, &json!("two")), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_an_object_enter_and_leave_its_selector() {
    let world = World::new().await;
    let cms = "/api/v1/namespaces/a/configmaps";
    let request = http::Request::get(format!("{cms}?watch=1&labelSelector=on=yes"))
        .body(axum::body::Body::empty())
        .expect("request");
    let mut stream = world.api.answer(Some(admin()), request).await.into_body().into_data_stream();
    world.post(cms, json!({"metadata": {"name": "x"}})).await;
    let mut seen = Vec::new();
    for label in ["yes", "yes", "no", "yes"] {
        world
            .merge(
                &format!("{cms}/x"),
                json!({"metadata": {"labels": {"on": label}}, "data": {"n": seen.len().to_string()}}),
            )
            .await;
        let line = stream.next().await.expect("the stream goes on").expect("no error");
        let event: Value = serde_json::from_slice(&line).expect("one event");
        seen.push(event["type"].as_str().expect("a type").to_owned());
    }
    assert_eq!(seen, ["ADDED", "MODIFIED", "DELETED", "ADDED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_object_lose_nothing() {
    let world = Arc::new(World::new().await);
    let path = "/api/v1/namespaces/a/configmaps";
    world.post(path, json!({"metadata": {"name": "shared"}})).await;
    let writers = (0..20).map(|n| {
        let world = world.clone();
        async move { world.merge(&format!("{path}/shared"), json!({"data": {format!("k{n}"): "1"}})).await.0 }
    });
    assert!(futures::future::join_all(writers).await.iter().all(|code| *code == 200));
    let (_, object) = world.get(&format!("{path}/shared")).await;
    assert_eq!(object["data"].as_object().map(serde_json::Map::len), Some(20));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "x"}});
    assert_eq!(world.merge(&format!("{path}/shared"), stale).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_never_share_an_address_or_a_port_and_give_them_back() {
    let world = Arc::new(World::new().await);
    let path = "/api/v1/namespaces/a/services";
    let service =
        |name: String| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let made = (0..4).map(|n| {
        let (world, service) = (world.clone(), service(format!("s{n}")));
        async move { world.post(path, service).await }
    });
    let made = futures::future::join_all(made).await;
    let distinct = |pointer: &str| {
        made.iter().map(|s| s.pointer(pointer).map(Value::to_string)).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((distinct("/spec/clusterIP"), distinct("/spec/ports/0/nodePort")), (4, 4));
    assert_ne!(world.ask("POST", path, service("full".into())).await.0, 201, "there are four ports");
    assert_eq!(world.ask("DELETE", &format!("{path}/s1"), Value::Null).await.0, 200);
    world.post(path, service("next".into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_on_its_way_out_takes_nothing_new() {
    let world = World::new().await;
    let (code, going) = world.ask("DELETE", "/api/v1/namespaces/a", Value::Null).await;
    assert_eq!((code, &going["status"]["phase"]), (200, &json!("Terminating")));
    let (code, refused) =
        world.ask("POST", "/api/v1/namespaces/a/configmaps", json!({"metadata": {"name": "x"}})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let (code, _) = world
        .ask("PUT", "/api/v1/namespaces/a/finalize", json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}}))
        .await;
    assert_eq!(code, 200);
    assert_eq!(world.get("/api/v1/namespaces/a").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_binds_evicts_and_is_fenced() {
    let world = World::new().await;
    let client = world.api.client(admin());
    client.create(PODS, Some("a"), pod("p")).await.expect("created");
    let on = |subresource| Target { resource: PODS, namespace: Some("a"), name: "p", subresource };
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    client.create_sub(on(Some("binding")), binding.clone()).await.expect("bound");
    assert_eq!(client.create_sub(on(Some("binding")), binding).await.map_err(|s| s.code), Err(409));
    let bound = client.get(on(None)).await.expect("read");
    assert_eq!(bound["spec"]["nodeName"], "n1");
    client.patch(on(Some("status")), PatchKind::Merge, json!({"status": {"phase": "Running"}})).await.expect("status");
    let deleted = client.delete(on(None), DeleteOptions::default()).await.and_then(Written::value).expect("deleted");
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30, "a bound pod is given its time");
    let late = client.fenced(Term(1_000_000));
    let late = late.patch(on(None), PatchKind::Merge, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(late.map(|_| ()).map_err(|s| s.code), Err(409));
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    client.delete(on(None), now).await.expect("gone");
    assert_eq!(client.get(on(None)).await.map_err(|s| s.code), Err(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_as_long_as_what_it_is_bound_to() {
    let world = World::with_permissions().await;
    let made = world.post("/api/v1/namespaces/a/pods", pod("p")).await;
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let (token, _) = world.api.issue_token("a", "default", Some(("p", uid)), &[], 3600).await.expect("issued");
    let who = || async {
        let request = http::Request::get("/api").header("authorization", format!("Bearer {token}"));
        world.api.answer(None, request.body(axum::body::Body::empty()).expect("request")).await.status().as_u16()
    };
    assert_eq!(who().await, 200);
    let review = json!({"spec": {"token": token}});
    let answer = world.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:a:default");
    world.ask("DELETE", "/api/v1/namespaces/a/pods/p", Value::Null).await;
    assert_eq!(who().await, 401);
    let request = http::Request::get("/livez")
        .header("authorization", "Bearer x")
        .body(axum::body::Body::empty())
        .expect("request");
    assert_eq!(world.api.answer(None, request).await.status(), 401, "a bad token is refused even on open paths");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_exec_are_tunnelled_to_the_node() {
    let mut world = World::new().await;
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    world.post("/api/v1/namespaces/a/pods", bound).await;

    let api = world.api.clone();
    let asked = tokio::spawn(async move {
        let request = http::Request::get("/api/v1/namespaces/a/pods/p/log?tailLines=3")
            .body(axum::body::Body::empty())
            .expect("request");
        api.answer(Some(admin()), request).await.into_body().collect().await.expect("body").to_bytes()
    });
    let opened = world.nodes.recv().await.expect("a stream to the node");
    assert_eq!(opened.open.node, "n1");
    for piece in ["one\n", "two\n"] {
        opened.to_api.send(Ok(piece.into())).await.expect("the API listens");
    }
    drop(opened.to_api);
    assert_eq!(asked.await.expect("no panic"), "one\ntwo\n");

    let served = serve(&world, &world.api, Gate::default()).await;
    let administrator = world.authority.issue("admin", "system:masters");
    let mut client = served.connect(&administrator).await.expect("TLS");
    let head = "POST /api/v1/namespaces/a/pods/p/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\nHost: x\r\n\
                Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut opened = world.nodes.recv().await.expect("a stream to the node");
    let sent = opened.from_api.recv().await.expect("the request head");
    let sent = String::from_utf8_lossy(&sent).to_lowercase();
    assert!(sent.starts_with("post /api/v1/namespaces/a/pods/p/exec") && sent.contains("upgrade: spdy/3.1"), "{sent}");
    opened
        .to_api
        .send(Ok("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhel".into()))
        .await
        .expect("head");
    opened.to_api.send(Ok("lo".into())).await.expect("data");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let n = client.read_buf(&mut answer).await.expect("readable");
        assert!(n > 0, "ended early: {}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    client.write_all(b"to the node").await.expect("sent");
    assert_eq!(opened.from_api.recv().await.expect("bytes"), "to the node");
    drop(opened.to_api);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("a clean end");
    assert!(rest.is_empty());
}
