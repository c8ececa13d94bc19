//! Server-side apply and who owns what, over HTTP and in the process, over a real store.

use crate::common::groups;
use crate::common::{World, admin, ask_of, collection, least};
use kontiki_api::{PatchKind, Target, Writer};
use kontiki_kinds::Verb;
use kontiki_model::GroupResource;
use serde_json::{Value, json};

const APPLY: &str = "application/apply-patch+yaml";
const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/a/deployments";

async fn apply(world: &World, path: &str, body: impl ToString) -> (u16, Value) {
    ask_of(&world.api, Some(admin()), ("PATCH", path, APPLY), body.to_string()).await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data})
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }})
}

/// Who owns what: `name operation subresource fields`, in the order of the answer.
fn owners(object: &Value) -> Vec<String> {
    let show = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let timed = if entry["time"].is_string() { "" } else { " untimed" };
        format!("{} {} {}{}{timed}", text("manager"), text("operation"), text("subresource"), entry["fieldsV1"])
    };
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(show).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_can_be_applied() {
    let world = World::new().await;
    for def in world.api.registry().table().rows().iter().filter(|def| def.verbs.contains(Verb::Patch)) {
        let one = format!("{}/{}?fieldManager=", collection(def), groups::name(def));
        let mut config = least(def);
        config["apiVersion"] = def.api_version().into();
        config["kind"] = def.kind.as_ref().into();
        config["metadata"]["labels"] = json!({"mine": "yes"});
        let (code, made) = apply(&world, &format!("{one}me"), &config).await;
        assert_eq!(code, 201, "{one}: {made}");
        let own = owners(&made);
        assert!(own.len() == 1 && own[0].starts_with("me Apply "), "{one}: {own:?}");
        let (code, again) = apply(&world, &format!("{one}me"), &config).await;
        assert_eq!((code, &again), (200, &made), "{one}: nothing is written twice");
        config["metadata"]["labels"] = json!({"mine": "no"});
        let (code, refused) = apply(&world, &format!("{one}you"), &config).await;
        // What is empty and printed as nothing is another value, and conflicts as well.
        let causes = refused["details"]["causes"].as_array().cloned().unwrap_or_default();
        let expect = json!({"reason": "FieldManagerConflict", "field": ".metadata.labels.mine",
                            "message": "conflict with \"me\""});
        assert!(code == 409 && causes.contains(&expect), "{one}: {refused}");
        let (code, forced) = apply(&world, &format!("{one}you&force=true"), &config).await;
        assert_eq!((code, &forced["metadata"]["labels"]["mine"]), (200, &json!("no")), "{one}: {forced}");
        let (code, read) = world.get(one.split('?').next().unwrap()).await;
        assert_eq!((code, &read), (200, &forced), "{one}");
        assert_eq!(world.ask("DELETE", one.split('?').next().unwrap(), Value::Null).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_applied_are_refused_in_upstreams_words() {
    let world = World::new().await;
    let one = format!("{MAPS}/one");
    let by = |more: &str| format!("{one}?fieldManager=me{more}");
    let with = |pointer: &str, value: Value| {
        let mut config = map(json!({"a": "1"}));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        config.to_string()
    };
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: '1', a: '2'}\n";
    let long = "m".repeat(129);
    let cases = [
        (
            "nobody",
            one.clone(),
            with("/kind", json!("ConfigMap")),
            422,
            "fieldManager: Required value: is required for apply patch",
        ),
        (
            "too long",
            format!("{one}?fieldManager={long}"),
            with("/kind", json!("ConfigMap")),
            422,
            "may not be more than 128 bytes",
        ),
        (
            "unprintable",
            format!("{one}?fieldManager=a%01b"),
            with("/kind", json!("ConfigMap")),
            422,
            "invalid character U+0001 (at position 1)",
        ),
        ("another kind", by(""), with("/kind", json!("Secret")), 400, "invalid object type: /v1, Kind=Secret"),
        ("no kind", by(""), with("/kind", Value::Null), 400, "invalid object type: /v1, Kind="),
        ("nothing", by(""), String::new(), 400, "invalid object type: /, Kind="),
        ("a list", by(""), "- a".into(), 400, "error decoding patch: "),
        ("no YAML", by(""), "{not yaml: [".into(), 400, "error decoding patch: "),
        (
            "another name",
            by(""),
            with("/metadata/name", json!("two")),
            400,
            "the name of the object (two) does not match the name on the URL (one)",
        ),
        (
            "another namespace",
            by(""),
            with("/metadata/namespace", json!("b")),
            400,
            "does not match the namespace sent on the request",
        ),
        ("owners", by(""), with("/metadata/managedFields", json!([])), 400, "metadata.managedFields must be nil"),
        (
            "an unknown field",
            by(""),
            with("/foo", json!(1)),
            422,
            "failed to create typed patch object (/one; /v1, Kind=ConfigMap): .foo: field not declared in schema",
        ),
        (
            "a wrong type",
            by(""),
            with("/data/a", json!(1)),
            422,
            ".data.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            "bad base64",
            by(""),
            with("/binaryData", json!({"a": "*"})),
            422,
            "failed to convert new object (/one; /v1, Kind=ConfigMap) to proper version: illegal base64",
        ),
        (
            "a uid",
            by(""),
            with("/metadata/uid", json!("u")),
            409,
            "uid mismatch: the provided object specified uid u, and no existing object was found",
        ),
        (
            "twice, strictly",
            by("&fieldValidation=Strict"),
            twice.into(),
            400,
            "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:",
        ),
        (
            "a subresource of nothing",
            format!("{DEPLOYMENTS}/none/status?fieldManager=me"),
            deployment(1).to_string(),
            404,
            "not found",
        ),
    ];
    for (what, path, body, code, text) in cases {
        let (got, answer) = apply(&world, &path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(text), "{what}: {code} {text} expected: {got} {answer}");
    }
    assert_eq!(world.get(&one).await.0, 404);
    let (code, answer) = world.merge(&format!("{one}?force=true"), json!({})).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("may not be specified for non-apply patch"));
    let (code, made) = apply(&world, &by(""), twice).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "2"})), "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_uids_in_what_is_applied_are_preconditions() {
    let world = World::new().await;
    let one = format!("{MAPS}/one?fieldManager=me");
    let at = |field: &str, value: &str| {
        let mut config = map(json!({"a": value}));
        config["metadata"][field] = value.into();
        config
    };
    let (code, made) = apply(&world, &one, at("resourceVersion", "1")).await;
    assert_eq!(code, 201, "a version of what is not there binds nobody: {made}");
    let (code, stale) = apply(&world, &one, at("resourceVersion", "1")).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "{stale}");
    let (code, wrong) = apply(&world, &one, at("uid", "u")).await;
    assert_eq!(code, 422, "{wrong}");
    let mut right = map(json!({"a": "2"}));
    right["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    right["metadata"]["uid"] = made["metadata"]["uid"].clone();
    let (code, changed) = apply(&world, &one, right).await;
    assert_eq!((code, owners(&changed)), (200, vec![r#"me Apply {"f:data":{"f:a":{}}}"#.to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let world = World::new().await;
    let one = format!("{MAPS}/one?fieldManager=me");
    let before = world.store.snapshot().revision();
    let (code, made) = apply(&world, &format!("{one}&dryRun=All"), map(json!({"a": "1"}))).await;
    assert_eq!((code, owners(&made).len()), (201, 1));
    assert_eq!(world.store.snapshot().revision(), before);
    apply(&world, &one, map(json!({"a": "1"}))).await;
    let before = world.store.snapshot().revision();
    let (code, changed) = apply(&world, &format!("{one}&dryRun=All"), map(json!({"a": "2"}))).await;
    assert_eq!((code, &changed["data"]["a"]), (200, &json!("2")));
    let other = format!("{MAPS}/one?fieldManager=you&dryRun=All");
    assert_eq!(apply(&world, &other, map(json!({"a": "3"}))).await.0, 409);
    assert_eq!(world.store.snapshot().revision(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_all_sorts_are_tracked() {
    let world = World::new().await;
    let one = format!("{MAPS}/one");
    let made = world.post(&format!("{MAPS}?fieldManager=maker"), map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(owners(&made), [r#"maker Update {"f:data":{".":{},"f:a":{},"f:b":{}}}"#]);
    let (_, put) = world.ask("PUT", &format!("{one}?fieldManager=putter"), map(json!({"a": "2"}))).await;
    assert_eq!(owners(&put), [r#"maker Update {"f:data":{}}"#, r#"putter Update {"f:data":{"f:a":{}}}"#]);
    let (_, shared) = apply(&world, &format!("{one}?fieldManager=me"), map(json!({"a": "2"}))).await;
    assert_eq!(owners(&shared)[0], r#"me Apply {"f:data":{"f:a":{}}} untimed"#, "appliers come first");
    let (code, taken) = world.merge(&format!("{one}?fieldManager=patcher"), json!({"data": {"a": "3"}})).await;
    assert_eq!((code, owners(&taken).len()), (200, 2), "{taken}");
    let before = world.store.snapshot().revision();
    let (code, same) = world.merge(&format!("{one}?fieldManager=nobody"), json!({"data": {"a": "3"}})).await;
    assert_eq!((code, &same), (200, &taken), "who changes nothing owns nothing");
    assert_eq!(world.store.snapshot().revision(), before);
    for entries in [json!([]), json!([{}])] {
        let reset = json!({"data": {"a": "4"}, "metadata": {"managedFields": entries}});
        let (code, forgotten) = world.merge(&format!("{one}?fieldManager=patcher"), reset).await;
        assert_eq!((code, owners(&forgotten)), (200, vec![]), "{forgotten}");
    }
    let (_, untracked) = world.merge(&format!("{one}?fieldManager=patcher"), json!({"data": {"a": "5"}})).await;
    assert_eq!(owners(&untracked), Vec::<String>::new());
    let (code, refused) = apply(&world, &format!("{one}?fieldManager=me"), map(json!({"a": "6"}))).await;
    assert_eq!(code, 409);
    assert!(refused["message"].as_str().unwrap().contains(r#"conflict with "before-first-apply" using v1: .data.a"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_views_have_owners_of_their_own() {
    let world = World::new().await;
    let one = format!("{DEPLOYMENTS}/one");
    let (code, made) = apply(&world, &format!("{one}?fieldManager=me"), deployment(1)).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"}, "spec": {"replicas": 9},
        "status": {"replicas": 5, "conditions": [{"type": "A", "status": "True"}]}});
    let (code, reported) = apply(&world, &format!("{one}/status?fieldManager=ctl"), &status).await;
    assert_eq!((code, &reported["spec"]["replicas"], &reported["status"]["replicas"]), (200, &json!(1), &json!(5)));
    let own = r#"ctl Apply status{"f:status":{"f:conditions":{"k:{\"type\":\"A\"}":{".":{},"f:status":{},"f:type":{}}},"f:replicas":{}}}"#;
    assert!(owners(&reported).contains(&own.to_owned()), "{:?}", owners(&reported));
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "one"}, "spec": {"replicas": replicas}});
    let (code, answer) = apply(&world, &format!("{one}/scale?fieldManager=scaler"), scale(2)).await;
    assert_eq!(code, 409, "{answer}");
    let (code, answer) = world.ask("PUT", &format!("{one}/scale?fieldManager=scaler"), scale(2)).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(2)), "{answer}");
    assert!(answer["metadata"].get("managedFields").is_none(), "{answer}");
    let (_, scaled) = world.get(&one).await;
    assert!(
        owners(&scaled).contains(&r#"scaler Update scale{"f:spec":{"f:replicas":{}}} untimed"#.to_owned()),
        "{scaled}"
    );
    let (code, refused) = apply(&world, &format!("{one}?fieldManager=me"), deployment(1)).await;
    let text = r#"Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas"#;
    assert_eq!((code, refused["message"].as_str().unwrap()), (409, text));
    let (code, answer) = apply(&world, &format!("{one}/scale?fieldManager=you&force=true"), scale(0)).await;
    assert_eq!((code, &answer["spec"]), (200, &json!({})), "{answer}");
    let (_, scaled) = world.get(&one).await;
    assert!(owners(&scaled).contains(&r#"you Apply scale{"f:spec":{"f:replicas":{}}} untimed"#.to_owned()), "{scaled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_this_program_are_managers() {
    let world = World::new().await;
    let client = world.api.client(admin());
    let maps = GroupResource { group: "", resource: "configmaps" };
    let target = Target { resource: maps, namespace: Some("a"), name: "one", subresource: None };
    client.counted_for(Writer::Scheduler).create(maps, Some("a"), map(json!({"a": "1"}))).await.unwrap();
    let patch = json!({"data": {"b": "1"}});
    let patched = client
        .counted_for(Writer::Controller("c"))
        .patch(target, PatchKind::Merge, patch)
        .await
        .unwrap()
        .value()
        .unwrap();
    let mut found: Vec<String> = owners(&patched).iter().map(|own| own.split(' ').next().unwrap().to_owned()).collect();
    found.sort();
    assert_eq!(found, ["kube-controller-manager", "kube-scheduler"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_owners_in_both_its_groups() {
    let world = World::new().await;
    let old = "/api/v1/namespaces/a/events/e?fieldManager=old";
    let new = "/apis/events.k8s.io/v1/namespaces/a/events/e?fieldManager=new";
    let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"namespace": "a", "name": "x"}, "message": "one"});
    let (code, made) = apply(&world, old, core).await;
    assert_eq!(code, 201, "{made}");
    let other = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "two"});
    let (code, refused) = apply(&world, new, &other).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(refused["details"]["causes"][0]["field"], ".message", "{refused}");
}
