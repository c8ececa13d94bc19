//! Kinds that come while the server runs: a definition is made and established, its kind is discovered, served and goes.

use std::time::{Duration, Instant};

use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::besides::tell;
use crate::common::{World, admin};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FROBS: &str = "/apis/example.com/v1/namespaces/a/frobs";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "color": {"type": "string", "enum": ["red", "green"], "default": "green"},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
            "replicas": {"type": "integer"},
        }},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}, "replicas": {"type": "integer"}}},
    }})
}

fn definition(plural: &str, kind: &str) -> Value {
    let own = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
    });
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let old = json!({"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": any}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": [own, old],
                 "names": {"plural": plural, "kind": kind, "shortNames": [&plural[..2]], "categories": ["all"]}},
    })
}

/// Makes a definition, and does what its controller does.
pub async fn define(world: &World, definition: Value) {
    let made = world.post(DEFINITIONS, definition).await;
    let status = json!({"status": {"acceptedNames": made["spec"]["names"], "conditions": [
        {"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}});
    let path = format!("{DEFINITIONS}/{}/status", made["metadata"]["name"].as_str().unwrap());
    let (code, answer) = world.merge(&path, status).await;
    assert_eq!(code, 200, "{answer}");
}

fn frob(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": name}, "spec": {"size": 3}})
}

async fn with_media(world: &World, path: &str, accept: &str) -> (u16, Value) {
    let request = http::Request::get(path).header("accept", accept).body(axum::body::Body::empty()).unwrap();
    let response = world.api.answer(Some(admin()), request).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_comes_is_served_and_goes() {
    let world = World::new().await;
    assert_eq!(world.get(FROBS).await.0, 404);
    define(&world, definition("frobs", "Frob")).await;
    // Who reads that it is established is served it.
    let (code, list) = world.get(FROBS).await;
    assert_eq!((code, &list["kind"]), (200, &json!("FrobList")), "{list}");
    let (_, group) = world.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let (_, resources) = world.get("/apis/example.com/v1").await;
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["frobs", "frobs/scale", "frobs/status"]);
    let verbs = json!(["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]);
    assert_eq!(resources["resources"][0]["verbs"], verbs);
    assert_eq!(resources["resources"][2]["verbs"], json!(["get", "patch", "update"]));
    let (_, all) =
        with_media(&world, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await;
    assert!(all["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "example.com"));

    let made = world.post(FROBS, frob("one")).await;
    assert_eq!((&made["spec"]["color"], &made["metadata"]["generation"]), (&json!("green"), &json!(1)));
    let (code, refused) = world
        .ask("POST", FROBS, json!({"apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": "x"}}))
        .await;
    assert_eq!(code, 201, "nothing says that a spec has to be there: {refused}");
    let (code, refused) = world.merge(&format!("{FROBS}/one"), json!({"spec": {"size": 0, "color": "blue"}})).await;
    let fields: Vec<_> =
        refused["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].clone()).collect();
    assert_eq!((code, fields), (422, vec![json!("spec.color"), json!("spec.size")]), "{refused}");
    let (_, table) = with_media(&world, FROBS, "application/json;as=Table;g=meta.k8s.io;v=v1").await;
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"], json!(["one", 3]));
    assert_eq!(with_media(&world, FROBS, "application/vnd.kubernetes.protobuf").await.0, 406);

    assert_eq!(world.ask("DELETE", &format!("{DEFINITIONS}/frobs.example.com"), Value::Null).await.0, 200);
    let (code, answer) = world.ask("POST", FROBS, frob("late")).await;
    assert!([404, 405].contains(&code), "nothing is made of a kind that goes: {code} {answer}");
    for name in ["one", "x"] {
        assert_eq!(world.ask("DELETE", &format!("{FROBS}/{name}"), Value::Null).await.0, 200);
    }
    let path = format!("{DEFINITIONS}/frobs.example.com");
    assert_eq!(
        world.get(&path).await.1["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(world.merge(&path, json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(world.get(&path).await.0, 404);
    let began = Instant::now();
    while world.get(FROBS).await.0 != 404 {
        assert!(began.elapsed() < Duration::from_secs(10), "rows go with their definition");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_objects_walk_the_same_road() {
    let world = World::new().await;
    define(&world, definition("frobs", "Frob")).await;
    let one = format!("{FROBS}/one");
    // Watch.
    let (_, list) = world.get(FROBS).await;
    let path = format!("{FROBS}?watch=1&resourceVersion={}", list["metadata"]["resourceVersion"].as_str().unwrap());
    let request = http::Request::get(&path).body(axum::body::Body::empty()).unwrap();
    let mut stream = world.api.answer(Some(admin()), request).await.into_body().into_data_stream();
    world.post(FROBS, frob("one")).await;
    let event: Value = serde_json::from_slice(&stream.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["spec"]["color"]), (&json!("ADDED"), &json!("green")));
    // Unknown fields.
    let mut unknown = frob("two");
    unknown["spec"]["unknown"] = 1.into();
    let strict = world.ask("POST", &format!("{FROBS}?fieldValidation=Strict"), unknown.clone()).await;
    let said =
        "Frob in version \"v1\" cannot be handled as a Frob: strict decoding error: unknown field \"spec.unknown\"";
    assert_eq!((strict.0, strict.1["message"].as_str()), (400, Some(said)));
    assert_eq!(world.post(FROBS, unknown).await["spec"], json!({"size": 3, "color": "green"}));
    // Types.
    let (code, answer) = world
        .ask("POST", FROBS, json!({"apiVersion": "example.com/v1", "kind": "Frobs", "metadata": {"name": "x"}}))
        .await;
    assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("kind")));
    let (code, _) = world
        .ask("POST", FROBS, json!({"apiVersion": "example.com/v2", "kind": "Frob", "metadata": {"name": "x"}}))
        .await;
    assert_eq!(code, 400);
    // Patches.
    let patch = |media: &'static str, body: Value| world.ask_as(Some(admin()), "PATCH", &one, media, body.to_string());
    assert_eq!(patch("application/strategic-merge-patch+json", json!({"spec": {"size": 5}})).await.0, 415);
    let (code, patched) =
        patch("application/json-patch+json", json!([{"op": "replace", "path": "/spec/size", "value": 6}])).await;
    assert_eq!((code, &patched["metadata"]["generation"]), (200, &json!(2)), "{patched}");
    assert_eq!(world.ask("PUT", &one, frob("one")).await.0, 422, "a version has to be said");
    // Parts.
    let (_, after) = world
        .merge(&format!("{one}/status"), json!({"status": {"phase": "P", "replicas": 2}, "spec": {"size": 9}}))
        .await;
    assert_eq!((&after["spec"]["size"], &after["status"]["phase"]), (&json!(6), &json!("P")));
    let (_, scaled) = world.merge(&format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((&scaled["spec"]["replicas"], &scaled["status"]["replicas"]), (&json!(4), &json!(2)));
    let (code, refused) = world.merge(&format!("{one}/scale"), json!({"spec": {"replicas": -1}})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!(".spec.replicas")), "{refused}");
    // Versions: what the stored one does not have is not there.
    let old = "/apis/example.com/v1alpha1/namespaces/a/frobs";
    let three = json!({"apiVersion": "example.com/v1alpha1", "kind": "Frob", "metadata": {"name": "three"}, "spec": {"size": 2, "other": 1}});
    assert_eq!(world.post(old, three).await["spec"], json!({"size": 2, "color": "green"}));
    let (_, shown) = world.get(&format!("{FROBS}/three")).await;
    assert_eq!((&shown["apiVersion"], &shown["spec"]["size"]), (&json!("example.com/v1"), &json!(2)));
    // Selectors.
    let names = |list: Value| list["items"].as_array().map(Vec::len);
    assert_eq!(names(world.get(&format!("{FROBS}?fieldSelector=spec.color=green")).await.1), Some(3));
    assert_eq!(names(world.get(&format!("{FROBS}?fieldSelector=spec.color=red")).await.1), Some(0));
    assert_eq!(world.get(&format!("{FROBS}?fieldSelector=spec.size=2")).await.0, 400);
    // Everything at once.
    assert_eq!(world.ask("DELETE", FROBS, Value::Null).await.0, 200);
    assert_eq!(names(world.get(FROBS).await.1), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_custom_kind_does_not_have_is_told_as_upstream_tells_it() {
    let world = World::new().await;
    let mut old = definition("frobs", "Frob");
    old["spec"]["versions"][1]["deprecated"] = true.into();
    old["spec"]["versions"][1]["deprecationWarning"] = "frobs of v1alpha1 are old".into();
    define(&world, old).await;
    world.get(FROBS).await;
    world.post(FROBS, frob("one")).await;
    let ask = |method: &'static str, path: String, body: Value| {
        let world = &world;
        async move { tell(&world.api, method, &path, body).await }
    };
    // Nobody serves it: no Status.
    for (method, path) in [
        ("GET", "/apis/example.com/v0"),
        ("GET", "/apis/example.com/v0/namespaces/a/frobs"),
        ("GET", "/apis/example.com/v1/namespaces/a/others"),
        ("GET", "/apis/example.com/v1/frobs/one"),
        ("POST", "/apis/example.com/v1/frobs"),
        ("DELETE", "/apis/example.com/v1/frobs"),
    ] {
        let told = ask(method, path.to_owned(), Value::Null).await;
        let expect = (404, "text/plain; charset=utf-8", "404 page not found\n");
        assert_eq!((told.code, &*told.media, &*told.text), expect, "{method} {path}");
    }
    let built_in = ask("GET", "/apis/apps/v9/deployments".into(), Value::Null).await;
    assert_eq!((built_in.code, &built_in.body()["reason"]), (404, &json!("NotFound")));
    // An old version says so whatever it answers.
    let versions = "/apis/example.com/v1alpha1/namespaces/a/frobs";
    for (path, code) in [("", 200), ("/one", 200), ("/nothing", 404), ("/one/status", 404), ("?limit=x", 400)] {
        let told = ask("GET", format!("{versions}{path}"), Value::Null).await;
        assert_eq!(
            (told.code, &told.warnings[..]),
            (code, &["299 - \"frobs of v1alpha1 are old\"".to_owned()][..]),
            "{path}"
        );
    }
    let told = ask("GET", format!("{versions}/one/status"), Value::Null).await;
    assert_eq!(told.body()["message"], "frobs.example.com \"one\" not found");
    // Methods.
    let told = ask("DELETE", format!("{FROBS}/one/status"), Value::Null).await;
    let message = "delete is not supported on resources of kind \"frobs.example.com\"";
    assert_eq!((told.code, &told.body()["message"]), (405, &json!(message)));
    // What an object of another version says is looked at before its version is.
    let mut other = frob("two");
    other["apiVersion"] = "example.com/v2".into();
    let told = ask("POST", FROBS.into(), other.clone()).await;
    assert_eq!((told.code, &told.warnings[..]), (400, &["299 - \"unknown field \\\"spec\\\"\"".to_owned()][..]));
    let told = ask("POST", format!("{FROBS}?fieldValidation=Strict"), other.clone()).await;
    let message = "Frob in version \"v2\" cannot be handled as a Frob: strict decoding error: unknown field \"spec\"";
    assert_eq!((told.code, &told.body()["message"]), (400, &json!(message)));
    other["apiVersion"] = "example.com/v1alpha1".into();
    let told = ask("POST", FROBS.into(), other).await;
    assert_eq!((told.code, told.warnings.len()), (400, 0), "any field is one of that version");
    // A Scale that says no version goes by the object's.
    let scale = |count: i32| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "one"}, "spec": {"replicas": count}});
    let told = ask("PUT", format!("{FROBS}/one/scale"), scale(-1)).await;
    let details = told.body()["details"].clone();
    let cause = json!([{"field": ".spec.replicas", "reason": "FieldValueInvalid",
        "message": "Invalid value: -1: should be a non-negative integer"}]);
    assert_eq!((told.code, &details["kind"], &details["causes"]), (422, &json!("Frob"), &cause), "{}", told.text);
    let told = ask("PUT", format!("{FROBS}/one/scale"), scale(4)).await;
    assert_eq!((told.code, &told.body()["spec"]["replicas"]), (200, &json!(4)), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_share_lists_as_the_schema_says() {
    let world = World::new().await;
    define(&world, definition("frobs", "Frob")).await;
    let apply = |manager: &'static str, spec: Value| {
        let mut object = frob("one");
        object["spec"] = spec;
        let path = format!("{FROBS}/one?fieldManager={manager}");
        let world = &world;
        async move { world.ask_as(Some(admin()), "PATCH", &path, "application/apply-patch+yaml", object.to_string()).await }
    };
    assert_eq!(apply("alice", json!({"size": 1, "set": ["a", "b"], "map": [{"k": "a", "v": "1"}]})).await.0, 201);
    let (code, joined) = apply("bob", json!({"set": ["b", "c"], "map": [{"k": "b"}]})).await;
    assert_eq!((code, &joined["spec"]["set"]), (200, &json!(["a", "b", "c"])), "{joined}");
    assert_eq!(joined["spec"]["map"], json!([{"k": "a", "v": "1"}, {"k": "b"}]));
    assert_eq!(apply("bob", json!({"map": [{"k": "a", "v": "2"}]})).await.0, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_follow_definitions() {
    let world = World::new().await;
    let index = |value: Value| value["paths"]["apis/example.com/v1"]["serverRelativeURL"].clone();
    define(&world, definition("frobs", "Frob")).await;
    world.get(FROBS).await;
    let first = index(world.get("/openapi/v3").await.1);
    let (code, document) = world.get(first.as_str().unwrap()).await;
    let frob = &document["components"]["schemas"]["com.example.v1.Frob"];
    assert_eq!((code, &frob["x-kubernetes-group-version-kind"][0]["kind"]), (200, &json!("Frob")), "{document}");
    assert_eq!(frob["properties"]["spec"]["properties"]["color"]["enum"], json!(["red", "green"]));
    assert!(document["components"]["schemas"]["com.example.v1.FrobList"].is_object());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/frobs/{name}"]["patch"];
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
    let (_, v2) = world.get("/openapi/v2").await;
    assert!(v2["definitions"]["com.example.v1.Frob"]["properties"]["spec"].is_object());
    // Made once for all who ask, as long as the kinds are these.
    let text = || world.api.registry().table().documents().v2("v1").json();
    assert_eq!(text().as_ptr(), text().as_ptr());
    let change = json!({"metadata": {"labels": {"changed": "yes"}}});
    assert_eq!(world.merge(&format!("{DEFINITIONS}/frobs.example.com"), change).await.0, 200);
    let began = Instant::now();
    while index(world.get("/openapi/v3").await.1) == first {
        assert!(began.elapsed() < Duration::from_secs(10), "another definition has another document");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_objects_as_the_definition_says_now() {
    const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
    const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let world = World::new().await;
    define(&world, definition("frobs", "Frob")).await;
    world.get(FROBS).await;
    for name in ["a", "b"] {
        world.post(FROBS, frob(name)).await;
    }
    let path = format!("{DEFINITIONS}/frobs.example.com");
    let mut specs = vec![json!({"size": 3, "color": "green"})];
    // Twice each: the second list shows what is known from the first.
    for round in 0..4 {
        let expect = specs.last().cloned().unwrap();
        let began = Instant::now();
        while world.get(FROBS).await.1["items"][0]["spec"] != expect {
            assert!(began.elapsed() < Duration::from_secs(10), "in round {round} a list is not {expect}");
            tokio::task::yield_now().await;
        }
        let (code, list) = world.get(FROBS).await;
        let items = list["items"].as_array().unwrap();
        assert_eq!((code, list["kind"].as_str(), items.len()), (200, Some("FrobList"), 2));
        for item in items {
            assert_eq!((&item["spec"], item.get("kind"), item.get("apiVersion")), (&expect, None, None));
            let name = item["metadata"]["name"].as_str().unwrap();
            let (_, one) = world.get(&format!("{FROBS}/{name}")).await;
            assert_eq!((&one["spec"], &one["metadata"]), (&expect, &item["metadata"]), "{name}");
        }
        let (_, table) = with_media(&world, &format!("{FROBS}?includeObject=Object"), TABLE).await;
        let row = &table["rows"][1];
        assert_eq!((&row["object"]["spec"], &row["cells"][0]), (&expect, &json!("b")), "{table}");
        let (_, partial) = with_media(&world, FROBS, PARTIAL).await;
        assert_eq!(partial["items"][0]["metadata"], items[0]["metadata"]);
        // In another version than they are stored in.
        let (_, old) = world.get("/apis/example.com/v1alpha1/namespaces/a/frobs").await;
        assert_eq!(
            (&old["apiVersion"], &old["items"][1]["metadata"]["name"]),
            (&json!("example.com/v1alpha1"), &json!("b"))
        );
        if round == 3 {
            return;
        }
        // A field comes with a default, is written into one of the objects, and changes its default.
        if round == 1 {
            let (code, written) = world.merge(&format!("{FROBS}/a"), json!({"metadata": {"labels": {"a": "b"}}})).await;
            assert_eq!(code, 200, "{written}");
        }
        let (_, mut definition) = world.get(&path).await;
        let properties =
            &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let (field, default) = [("age", 7), ("weight", 8), ("height", 9)][round];
        properties[field] = json!({"type": "integer", "default": default});
        let (code, answer) = world.ask("PUT", &path, definition).await;
        assert_eq!(code, 200, "{answer}");
        let mut next = expect;
        next[field] = default.into();
        specs.push(next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_definitions_and_objects_are_answered() {
    let world = World::new().await;
    let of = |schema: Value| {
        let mut definition = definition("frobs", "Frob");
        definition["spec"]["versions"] =
            json!([{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]);
        definition
    };
    let mut deep = json!({"type": "string"});
    for _ in 0..70 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    for (what, schema) in [
        ("deep", deep),
        ("circles", json!({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}})),
        (
            "a pattern that is too large",
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "(a{1001}){1001}"}}}),
        ),
        (
            "repetitions of repetitions",
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "((x{500}){500}){4}"}}}),
        ),
        (
            "a default that does not fit",
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}}),
        ),
    ] {
        let (code, answer) = world.ask("POST", DEFINITIONS, of(schema)).await;
        assert!([400, 422].contains(&code), "{what}: {code} {answer}");
    }
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "evil": {"type": "string", "pattern": "^(a+)+$"}, "huge": {"type": "string", "pattern": "\\pL{1000}"}}});
    define(&world, of(schema)).await;
    let began = Instant::now();
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "Frob", "metadata": {"name": "x"}, "evil": format!("{}!", "a".repeat(50_000))});
    assert_eq!(world.ask("POST", FROBS, object.clone()).await.0, 422);
    object["huge"] = "x".into();
    object["evil"] = "aaa".into();
    let (code, answer) = world.ask("POST", FROBS, object.clone()).await;
    assert_eq!(code, 422, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(20));
    object["huge"].take();
    let mut nested = json!(1);
    for _ in 0..150 {
        nested = json!([nested]);
    }
    object["nested"] = nested;
    assert_eq!(world.ask("POST", FROBS, object).await.0, 400, "what could not be read again is not stored");
}
