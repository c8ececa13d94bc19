//! Groups that another server serves, over real TLS.

use std::sync::Arc;

use futures::FutureExt as _;
use kontiki_api::clock::System;
use kontiki_api::{Aggregation, Api, Outbound, User};
use kontiki_kinds::{api_services::ApiServices, backends::Services};
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};
use crate::webhooks::serve;
use crate::webhooks::server::{Loopback, Reply, Server};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const THINGS: &str = "/apis/things.example.com/v1/namespaces/a/things";

async fn get(api: &Api, path: &str) -> (u16, Value) {
    ask_of(api, Some(admin()), ("GET", path, "application/json"), String::new()).await
}

fn api(world: &World) -> Api {
    let outbound = Outbound::new(world.store.clone(), Arc::new(Loopback), Arc::new(Services), Arc::new(System), None);
    world.beside(|config| {
        config.aggregation = Some(Aggregation { delegates: Arc::new(ApiServices::default()), outbound });
    })
}

fn service(server: &Server, group: &str) -> Value {
    json!({"metadata": {"name": format!("v1.{group}")}, "spec": {"group": group, "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 1, "service": {"namespace": "a", "name": "hook"},
        "caBundle": server.ca}})
}

/// Says that the server of a version of a group answers.
async fn make_available(world: &World, api: &Api, name: &str) {
    let condition = json!({"type": "Available", "status": "True", "reason": "Passed", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    let (code, written) = world.merge(&format!("{SERVICES}/{name}/status"), status).await;
    assert_eq!(code, 200, "{written}");
    api.cache().wait_for(api.store().snapshot().revision()).await;
}

fn list() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.example.com/v1", "resources": [
        {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_passed_on_in_the_name_of_who_asks() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|path, _| {
        async move {
            match path.as_str() {
                "/apis/things.example.com/v1" => Reply::Review(list()),
                "/apis/things.example.com/v1/namespaces/a/things?limit=7" => Reply::Review(json!({"items": ["one"]})),
                _ => Reply::Plain(418, "no"),
            }
        }
        .boxed()
    })
    .await;
    world.post(SERVICES, service(&server, "things.example.com")).await;
    let wait = || async { api.cache().wait_for(api.store().snapshot().revision()).await };
    wait().await;
    let looked = api.look_behind().await;
    let missing = ("ServiceNotFound", "service \"hook\" not found".to_owned());
    assert_eq!((looked.len(), &looked[0].outcome), (1, &Err(missing)));
    serve(&world, "hook", Some(server.address.port())).await;
    assert_eq!(api.look_behind().await[0].outcome, Ok(()));
    let (code, answer) = get(&api, THINGS).await;
    assert_eq!((code, answer), (503, json!("service unavailable\n")), "nobody has said that it is available");

    make_available(&world, &api, "v1.things.example.com").await;
    server.take();
    let (code, answer) = get(&api, &format!("{THINGS}?limit=7")).await;
    assert_eq!((code, answer), (200, json!({"items": ["one"]})));
    let asked = server.take();
    let headers = &asked[0].1;
    assert_eq!((&headers["x-remote-user"], &headers["host"]), (&json!("admin"), &json!("hook.a.svc:443")), "{headers}");
    assert_eq!(get(&api, &format!("{THINGS}/x")).await, (418, json!("no")), "its own refusals are its own");
    server.take();

    let nobody = User::new("nobody", &["system:authenticated"]);
    let (code, refused) = ask_of(&api, Some(nobody), ("GET", THINGS, "application/json"), String::new()).await;
    let text = "things.things.example.com is forbidden: User \"nobody\" cannot list resource \"things\" in API group \
                \"things.example.com\" in the namespace \"a\"";
    assert_eq!((code, refused["message"].as_str()), (403, Some(text)));
    assert!(server.take().is_empty(), "it was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_shows_what_servers_behind_serve() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|_, _| async move { Reply::Review(list()) }.boxed()).await;
    serve(&world, "hook", Some(server.address.port())).await;
    world.post(SERVICES, service(&server, "things.example.com")).await;
    // What is served here is nobody else's.
    world.post(SERVICES, service(&server, "apps")).await;
    api.cache().wait_for(api.store().snapshot().revision()).await;
    api.look_behind().await;
    let (_, groups) = get(&api, "/apis").await;
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(names.last(), Some(&"things.example.com"));
    assert_eq!(names.iter().filter(|name| **name == "apps").count(), 1);
    assert_eq!(get(&api, "/apis/apps/v1").await.1["groupVersion"], "apps/v1");
    let (code, group) = get(&api, "/apis/things.example.com").await;
    assert_eq!((code, &group["preferredVersion"]["groupVersion"]), (200, &json!("things.example.com/v1")));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = http::Request::get("/apis").header("accept", accept).body(axum::body::Body::empty()).unwrap();
    let response = api.answer(Some(admin()), request).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    let shown = document["items"].as_array().unwrap().last().unwrap();
    assert_eq!(shown["metadata"]["name"], "things.example.com");
    assert_eq!(shown["versions"][0]["resources"][0]["resource"], "things");
    assert_eq!(shown["versions"][0]["freshness"], "Stale", "it is not known to be available");
}

/// Documents of a server that claims more than is its own.
fn documents(path: &str) -> Reply {
    let path_of =
        |name: &str| json!({"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{name}")}}}}});
    match path {
        "/openapi/v2" => Reply::Review(json!({"swagger": "2.0",
            "paths": {"/apis/things.example.com/v1/things": path_of("Thing"), "/api/v1/pods": path_of("Other")},
            "definitions": {"Thing": {"type": "object"}, "Other": {"type": "object"}}})),
        "/openapi/v3" => Reply::Review(json!({"paths": {
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=FE"},
            "apis/things.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/things.example.com/v1?hash=AB"}}})),
        "/openapi/v3/apis/things.example.com/v1?hash=AB" => Reply::Review(json!({"openapi": "3.0.0", "own": true})),
        "/apis/things.example.com/v1" => Reply::Review(list()),
        _ => Reply::Plain(404, "no"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_shows_what_servers_behind_serve() {
    let world = World::new().await;
    let api = api(&world);
    let server = Server::new(|path, _| async move { documents(&path) }.boxed()).await;
    serve(&world, "hook", Some(server.address.port())).await;
    world.post(SERVICES, service(&server, "things.example.com")).await;
    api.cache().wait_for(api.store().snapshot().revision()).await;
    api.look_behind().await;
    server.take();
    let name = "apis/things.example.com/v1";
    let index = || async { get(&api, "/openapi/v3").await.1 };
    let own = get(&api, "/openapi/v2").await.1;
    api.read_openapi_behind().await;
    assert!(server.take().is_empty(), "nobody has said that it is available");
    assert!(index().await["paths"].get(name).is_none());

    make_available(&world, &api, "v1.things.example.com").await;
    let before = index().await;
    api.read_openapi_behind().await;
    assert_eq!(server.take().len(), 2);
    let after = index().await;
    assert_eq!(after["paths"][name]["serverRelativeURL"], format!("/openapi/v3/{name}?hash=AB"));
    assert_eq!(after["paths"]["api/v1"], before["paths"]["api/v1"], "what is served here is not its own");
    let merged = get(&api, "/openapi/v2").await.1;
    assert!(merged["paths"]["/apis/things.example.com/v1/things"].is_object());
    assert_eq!(merged["paths"]["/api/v1/pods"], own["paths"]["/api/v1/pods"]);
    let names = |document: &Value| document["definitions"].as_object().unwrap().len();
    assert_eq!((names(&merged), merged["info"].clone()), (names(&own) + 1, own["info"].clone()));
    assert!(server.take().is_empty(), "no request waits for it");
    let (code, document) = get(&api, &format!("/openapi/v3/{name}?hash=AB")).await;
    assert_eq!((code, &document["own"], server.take().len()), (200, &json!(true), 1));
    let (code, gone) = world.ask("DELETE", &format!("{SERVICES}/v1.things.example.com"), Value::Null).await;
    assert_eq!(code, 200, "{gone}");
    api.cache().wait_for(api.store().snapshot().revision()).await;
    assert_eq!(get(&api, "/openapi/v2").await.1, own);
    assert_eq!(get(&api, &format!("/openapi/v3/{name}")).await.0, 404);
}
