//! Versions of a kind between which a server outside converts, over real TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use futures::{FutureExt as _, StreamExt as _};
use kontiki_api::clock::System;
use kontiki_api::{Api, Outbound};
use kontiki_kinds::{backends::Services, policies, webhooks};
use kontiki_machinery::outcall::Caller;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use crate::custom::define;
use crate::webhooks::server::{Loopback, Reply, Server, allowed};

const OLD: &str = "/apis/example.com/v1/namespaces/a/frobs";
const NEW: &str = "/apis/example.com/v2/namespaces/a/frobs";

fn api(world: &World) -> Api {
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    let outbound: Arc<dyn Caller> = outbound;
    world.beside(|config| {
        config.admission.push(policies::mutating(&config.registry));
        config.admission.push(policies::member(&config.registry));
        config.admission.extend(webhooks::members(&config.registry, &outbound));
        config.caller = Some(outbound);
    })
}

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_of(api, Some(admin()), (method, path, media), body).await
}

async fn apply(api: &Api, path: &str, manager: &str, body: Value) -> (u16, Value) {
    let path = format!("{path}?fieldManager={manager}");
    ask_of(api, Some(admin()), ("PATCH", &path, "application/apply-patch+yaml"), body.to_string()).await
}

/// A kind whose `v1`, which is stored, has a size, and whose `v2` has a count.
fn definition(client: Value) -> Value {
    let version = |name: &str, field: &str, storage: bool| {
        let spec = json!({"type": "object", "properties": {field: {"type": "integer"}, "note": {"type": "string"}}});
        json!({
            "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": spec, "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}}},
            "selectableFields": [{"jsonPath": format!(".spec.{field}")}],
            "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": format!(".spec.{field}")}],
        })
    };
    let webhook = json!({"clientConfig": client, "conversionReviewVersions": ["v1"]});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "frobs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "frobs", "kind": "Frob"},
                 "versions": [version("v1", "size", true), version("v2", "count", false)],
                 "conversion": {"strategy": "Webhook", "webhook": webhook}},
    })
}

/// What a good server answers.
fn converted(review: &Value) -> Value {
    let request = &review["request"];
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let (from, to) = if desired.ends_with("v2") { ("size", "count") } else { ("count", "size") };
    let convert = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = desired.into();
        if let Some(spec) = object["spec"].as_object_mut()
            && let Some(value) = spec.remove(from)
        {
            spec.insert(to.into(), value);
        }
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response})
}

async fn converter() -> Server {
    Server::new(|_, review| async move { Reply::Review(converted(&review)) }.boxed()).await
}

fn frob(version: &str, name: &str, field: &str, value: i64) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Frob", "metadata": {"name": name, "labels": {"n": name}},
           "spec": {field: value}})
}

async fn made(api: &Api, path: &str, object: Value) -> Value {
    let (code, made) = ask(api, "POST", path, object).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn watch(api: &Api, path: &str) -> BodyDataStream {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    api.answer(Some(admin()), request).await.into_body().into_data_stream()
}

/// The events that come next, at least `count`; fewer if the stream ends.
async fn events(stream: &mut BodyDataStream, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        let Some(piece) = next.unwrap_or_else(|_| panic!("only {events:?}")) else { break };
        let text = String::from_utf8(piece.unwrap().to_vec()).unwrap();
        events.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    events
}

fn shown(events: &[Value]) -> Vec<String> {
    let one = |event: &Value| {
        let object = &event["object"];
        format!("{} {} {}", event["type"].as_str().unwrap(), object["metadata"]["name"], object["spec"]["count"])
    };
    events.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_sees_the_version_that_it_names() {
    let (world, server) = (World::new().await, converter().await);
    let api = api(&world);
    define(&world, definition(server.by_url("/convert"))).await;
    let one = made(&api, NEW, frob("v2", "one", "count", 3)).await;
    assert_eq!((&one["apiVersion"], &one["spec"]), (&json!("example.com/v2"), &json!({"count": 3})), "{one}");
    assert!(one["metadata"]["resourceVersion"].is_string(), "{one}");
    assert_eq!(server.take().len(), 2, "there and back");
    let (_, old) = ask(&api, "GET", &format!("{OLD}/one"), Value::Null).await;
    assert_eq!((&old["apiVersion"], &old["spec"]), (&json!("example.com/v1"), &json!({"size": 3})), "{old}");
    assert_eq!(old["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    made(&api, OLD, frob("v1", "two", "size", 5)).await;
    made(&api, OLD, frob("v1", "three", "size", 5)).await;
    assert!(server.take().is_empty(), "what is stored is nobody's question");

    let (code, list) = ask(&api, "GET", NEW, Value::Null).await;
    let counts: Vec<_> = list["items"].as_array().unwrap().iter().map(|it| it["spec"]["count"].clone()).collect();
    assert_eq!((code, counts), (200, vec![json!(3), json!(5), json!(5)]), "{list}");
    let asked = server.take();
    assert_eq!(asked.len(), 1, "a list is one question");
    assert_eq!(
        (asked[0].0.as_str(), asked[0].1["request"]["objects"].as_array().unwrap().len()),
        ("/convert?timeout=30s", 3)
    );
    let (_, list) =
        ask(&api, "GET", &format!("{NEW}?fieldSelector=spec.count=5&labelSelector=n=two"), Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let (_, page) = ask(&api, "GET", &format!("{NEW}?limit=2"), Value::Null).await;
    assert_eq!(page["items"][0]["spec"], json!({"count": 3}), "{page}");
    let rest = format!("{NEW}?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap());
    let (_, page) = ask(&api, "GET", &rest, Value::Null).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["items"][0]["spec"]["count"]), (1, &json!(5)), "{page}");

    let (code, changed) = ask(&api, "PATCH", &format!("{NEW}/one"), json!({"spec": {"count": 4}})).await;
    assert_eq!(
        (code, &changed["spec"], &changed["metadata"]["generation"]),
        (200, &json!({"count": 4}), &json!(2)),
        "{changed}"
    );
    let (code, same) = ask(&api, "PUT", &format!("{NEW}/one"), changed.clone()).await;
    assert_eq!((code, &same), (200, &changed), "nothing changed, nothing is written");
    let (code, status) = ask(&api, "PATCH", &format!("{NEW}/one/status"), json!({"status": {"phase": "on"}})).await;
    assert_eq!(
        (code, &status["status"], &status["spec"]),
        (200, &json!({"phase": "on"}), &json!({"count": 4})),
        "{status}"
    );
    let (_, old) = ask(&api, "GET", &format!("{OLD}/one"), Value::Null).await;
    assert_eq!((&old["spec"], &old["status"]), (&json!({"size": 4}), &json!({"phase": "on"})), "{old}");
    let (code, dry) = ask(&api, "POST", &format!("{NEW}?dryRun=All"), frob("v2", "dry", "count", 1)).await;
    assert_eq!((code, &dry["spec"]), (201, &json!({"count": 1})));

    let (code, all) = ask(&api, "DELETE", &format!("{NEW}?labelSelector=n=three"), Value::Null).await;
    assert_eq!((code, &all["items"][0]["spec"]["count"]), (200, &json!(5)), "{all}");
    assert_eq!(ask(&api, "DELETE", &format!("{NEW}/one"), Value::Null).await.0, 200);
    assert_eq!(ask(&api, "GET", &format!("{OLD}/one"), Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_owns_what_is_known_in_each_version() {
    let (world, server) = (World::new().await, converter().await);
    let api = api(&world);
    define(&world, definition(server.by_url("/convert"))).await;
    let object = |version: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Frob", "metadata": {"name": "x"}, "spec": spec});
    let (path, old) = (format!("{NEW}/x"), format!("{OLD}/x"));
    let (code, made) = apply(&api, &old, "one", object("v1", json!({"size": 1, "note": "n"}))).await;
    assert_eq!(code, 201, "{made}");
    let (code, conflict) = apply(&api, &path, "two", object("v2", json!({"count": 2}))).await;
    assert_eq!(code, 409, "the size of one is the count of another: {conflict}");
    let (code, same) = apply(&api, &path, "two", object("v2", json!({"count": 1}))).await;
    assert_eq!((code, &same["spec"]), (200, &json!({"count": 1, "note": "n"})), "{same}");
    let (code, less) = apply(&api, &path, "one", object("v2", json!({"count": 1}))).await;
    assert_eq!((code, &less["spec"]), (200, &json!({"count": 1})), "what was applied in the old version goes: {less}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_the_version_that_it_names() {
    let (world, server) = (World::new().await, converter().await);
    let api = api(&world);
    define(&world, definition(server.by_url("/convert"))).await;
    made(&api, OLD, frob("v1", "one", "size", 1)).await;
    let mut all = watch(&api, &format!("{NEW}?watch=true")).await;
    let mut few = watch(&api, &format!("{NEW}?watch=true&fieldSelector=spec.count=7")).await;
    assert_eq!(shown(&events(&mut all, 1).await), ["ADDED \"one\" 1"]);
    for (size, expect) in [(7, "ADDED \"one\" 7"), (7, ""), (8, "DELETED \"one\" 7")] {
        server.take();
        let (code, answer) = ask(&api, "PATCH", &format!("{OLD}/one"), json!({"spec": {"size": size}})).await;
        assert_eq!(code, 200, "{answer}");
        if !expect.is_empty() {
            assert_eq!(shown(&events(&mut all, 1).await), [format!("MODIFIED \"one\" {size}")]);
            assert_eq!(shown(&events(&mut few, 1).await), [expect]);
        }
    }
    assert_eq!(server.take().len(), 1, "who watches the same version asks once");
    assert_eq!(ask(&api, "DELETE", &format!("{OLD}/one"), Value::Null).await.0, 200);
    assert_eq!(shown(&events(&mut all, 1).await), ["DELETED \"one\" 8"]);
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    made(&api, OLD, frob("v1", "two", "size", 2)).await;
    let request = http::Request::get(format!("{NEW}?watch=true")).header("accept", table).body(Body::empty()).unwrap();
    let mut rows = api.answer(Some(admin()), request).await.into_body().into_data_stream();
    let first = events(&mut rows, 1).await;
    assert_eq!(first[0]["object"]["rows"][0]["cells"], json!(["two", 2]), "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers_store_nothing_and_hold_nobody() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|path, review| {
        async move {
            let mut good = converted(&review);
            let objects = &mut good["response"]["convertedObjects"];
            match path.split('?').next().unwrap_or_default() {
                "/hang" => return Reply::Nothing,
                "/endless" => return Reply::Endless,
                "/half" => return Reply::Half,
                "/500" => return Reply::Plain(500, "oh no"),
                "/lies" => good["response"]["uid"] = "somebody else".into(),
                "/fewer" => *objects = json!([]),
                "/rename" => objects[0]["metadata"]["name"] = "other".into(),
                "/uid" => objects[0]["metadata"]["uid"] = "other".into(),
                "/version" => objects[0]["apiVersion"] = "example.com/v3".into(),
                "/bare" => objects[0]["metadata"] = Value::Null,
                "/refuses" => good["response"]["result"] = json!({"status": "Failed", "message": "not today"}),
                _ => {}
            }
            Reply::Review(good)
        }
        .boxed()
    })
    .await;
    define(&world, definition(server.by_url("/good"))).await;
    made(&api, OLD, frob("v1", "one", "size", 1)).await;
    let about = |kind: &str| format!("Internal error occurred: conversion webhook for example.com/{kind}, Kind=Frob ");
    for (path, expect) in [
        ("/hang", format!("failed: Post \"https://{}/hang?timeout=", server.address)),
        ("/endless", format!("failed: Post \"https://{}/endless?timeout=", server.address)),
        ("/half", format!("failed: Post \"https://{}/half?timeout=", server.address)),
        ("/500", "failed: an error on the server (\"oh no\") has prevented the request from succeeding".into()),
        ("/lies", "failed: expected response.uid=".into()),
        ("/fewer", "returned 0 objects, expected 1".into()),
        ("/rename", "returned invalid object: must have the same name: ".into()),
        ("/uid", "returned invalid object: must have the same UID: ".into()),
        ("/version", "returned invalid object at index 0: invalid groupVersion (expected example.com/v".into()),
        ("/bare", "returned invalid ".into()),
        ("/refuses", "failed: not today".into()),
    ] {
        let conversion = json!({"spec": {"conversion": {"webhook": {"clientConfig": server.by_url(path)}}}});
        let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/frobs.example.com";
        assert_eq!(world.merge(crd, conversion).await.0, 200, "{path}");
        settled(&api).await;
        let started = Instant::now();
        for (method, at, body) in [
            ("GET", format!("{NEW}/one?timeout=2s"), Value::Null),
            ("GET", format!("{NEW}?timeout=2s"), Value::Null),
            ("POST", format!("{NEW}?timeout=2s"), frob("v2", "new", "count", 1)),
            ("PATCH", format!("{NEW}/one?timeout=2s"), json!({"spec": {"count": 2}})),
        ] {
            let (code, answer) = ask(&api, method, &at, body).await;
            let message = answer["message"].as_str().unwrap_or_default();
            let known = ["v1", "v2"].iter().any(|version| message.starts_with(&format!("{}{expect}", about(version))));
            assert!(code == 500 && known, "{path} {method} {at}: {code} {answer}");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{path}");
        let (code, one) = ask(&api, "GET", &format!("{OLD}/one"), Value::Null).await;
        assert_eq!((code, &one["spec"]), (200, &json!({"size": 1})), "{path}: what is stored is served");
        assert_eq!(ask(&api, "GET", &format!("{OLD}/new"), Value::Null).await.0, 404, "{path}");
    }
    let (code, changed) = ask(&api, "PATCH", &format!("{OLD}/one"), json!({"spec": {"size": 9}})).await;
    assert_eq!(code, 200, "who needs no conversion goes on: {changed}");
}

/// Waits until an API shows everything that is stored, definitions of kinds included.
async fn settled(api: &Api) {
    api.cache().wait_for(api.store().snapshot().revision()).await;
    let registry = api.registry().clone();
    tokio::task::spawn_blocking(move || registry.settle()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_cannot_be_told_of_a_change_ends() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|_, review| {
        async move {
            let broken = review["request"]["objects"].as_array().unwrap().iter().any(|o| o["spec"]["size"] == 13);
            if broken { Reply::Plain(500, "13") } else { Reply::Review(converted(&review)) }
        }
        .boxed()
    })
    .await;
    define(&world, definition(server.by_url("/convert"))).await;
    made(&api, OLD, frob("v1", "one", "size", 1)).await;
    let mut new = watch(&api, &format!("{NEW}?watch=true")).await;
    let mut old = watch(&api, &format!("{OLD}?watch=true")).await;
    assert_eq!((events(&mut new, 1).await.len(), events(&mut old, 1).await.len()), (1, 1));
    for size in [13, 14] {
        let (code, answer) = ask(&api, "PATCH", &format!("{OLD}/one"), json!({"spec": {"size": size}})).await;
        assert_eq!(code, 200, "{answer}");
    }
    let last = events(&mut new, 2).await;
    assert_eq!(
        (last.len(), &last[0]["type"], &last[0]["object"]["code"]),
        (1, &json!("ERROR"), &json!(500)),
        "{last:?}"
    );
    let mut seen = events(&mut old, 1).await;
    if seen.len() == 1 {
        seen.extend(events(&mut old, 1).await);
    }
    let sizes: Vec<_> = seen.iter().map(|event| event["object"]["spec"]["size"].clone()).collect();
    assert_eq!(sizes, [13, 14], "others are told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_judges_is_asked_in_the_version_that_it_names() {
    let (world, server) = (World::new().await, converter().await);
    let api = api(&world);
    define(&world, definition(server.by_url("/convert"))).await;
    let judge = Server::new(|_, review| async move { allowed(&review, json!({})) }.boxed()).await;
    let rule =
        json!({"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["frobs"]});
    let hook = json!({"name": "v.example.com", "clientConfig": judge.by_url("/v"), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": [rule],
        "matchConditions": [{"name": "sized", "expression": "object.spec.size > 0"}]});
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let hooks = json!({"metadata": {"name": "v"}, "webhooks": [hook]});
    made(&api, &format!("{registration}/validatingwebhookconfigurations"), hooks).await;
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.spec.size < 10", "message": "too large"}]}});
    made(&api, &format!("{registration}/validatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    made(&api, &format!("{registration}/validatingadmissionpolicybindings"), binding).await;
    settled(&api).await;
    made(&api, NEW, frob("v2", "one", "count", 3)).await;
    let asked = judge.take();
    assert_eq!(asked.len(), 1);
    let request = &asked[0].1["request"];
    assert_eq!(
        (&request["object"]["spec"], &request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!({"size": 3}), &json!("v1"), &json!("v2")),
        "{request}"
    );
    made(&api, NEW, frob("v2", "none", "count", 0)).await;
    assert!(judge.take().is_empty(), "its condition is asked in its version, too");
    let (code, refused) = ask(&api, "POST", NEW, frob("v2", "large", "count", 12)).await;
    assert!(code == 422 && refused["message"].as_str().unwrap().ends_with("too large"), "{code} {refused}");
}
