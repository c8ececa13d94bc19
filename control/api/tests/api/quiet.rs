//! What changes nothing writes nothing: the revision stands still, and the answer is the stored object.

use std::time::Duration;

use crate::common::{World, admin};
use kontiki_api::{DeleteOptions, Effect, PatchKind, Target};
use kontiki_kinds::Verb;
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_store::{EventKind, Op, Txn, WatchItem};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/a/pods";
const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const KEEP: &str = "example.com/keep";

/// A pod that a finalizer holds; bound to `node` if that is not empty.
fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "finalizers": [KEEP]},
           "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "finalizers": [KEEP]}})
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Sends a request that has to be answered 200 and to change nothing.
async fn changes_nothing(world: &World, what: &str, (method, path, media): (&str, &str, &str), body: Value) -> Value {
    let before = world.store.snapshot().revision();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (code, answer) = world.ask_as(Some(admin()), method, path, media, body).await;
    assert_eq!(code, 200, "{what}: {method} {path}: {answer}");
    assert_eq!(world.store.snapshot().revision(), before, "{what}: {method} {path} wrote: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_sent_again_writes_only_what_it_changes() {
    let world = World::new().await;
    let grace = |seconds: i64| json!({ "gracePeriodSeconds": seconds });
    let policy = |policy: &str| json!({ "propagationPolicy": policy });
    let (unbound, bound) = (|name: &str| (PODS, pod(name, "")), |name: &str| (PODS, pod(name, "n1")));
    let plain = |name: &str| (MAPS, map(name));
    type Make<'a> = &'a dyn Fn(&str) -> (&'static str, Value);
    let cases: [(&str, Make, Value, Value, bool); 17] = [
        ("unbound", &unbound, json!({}), json!({}), false),
        ("unbound, forced", &unbound, grace(0), grace(0), false),
        ("unbound, with a grace", &unbound, json!({}), grace(30), false),
        ("unbound, in the foreground too", &unbound, json!({}), policy("Foreground"), true),
        ("bound, the same grace", &bound, json!({}), json!({}), false),
        ("bound, as much grace", &bound, grace(10), grace(10), false),
        ("bound, more grace", &bound, grace(10), grace(20), false),
        ("bound, less grace", &bound, grace(10), grace(5), true),
        ("bound, none any more", &bound, grace(10), grace(0), true),
        ("bound, none again", &bound, grace(0), grace(0), false),
        ("bound, a policy while its grace runs", &bound, json!({}), policy("Foreground"), false),
        ("a map", &plain, json!({}), json!({}), false),
        ("a map, with a grace", &plain, json!({}), grace(30), false),
        ("a map, in the foreground twice", &plain, policy("Foreground"), policy("Foreground"), false),
        ("a map, in the foreground, then as it is", &plain, policy("Foreground"), json!({}), false),
        ("a map, orphaning, then in the background", &plain, policy("Orphan"), policy("Background"), true),
        ("a map, in the background, then orphaning", &plain, policy("Background"), policy("Orphan"), true),
    ];
    for (at, (what, make, first, again, changes)) in cases.into_iter().enumerate() {
        let (collection, object) = make(&format!("case-{at}"));
        let made = world.post(collection, object).await;
        let path = format!("{collection}/{}", made["metadata"]["name"].as_str().unwrap());
        let (code, going) = world.ask("DELETE", &path, first).await;
        assert_eq!(code, 200, "{what}: {going}");
        assert!(going["metadata"]["deletionTimestamp"].is_string(), "{what}: {going}");
        if changes {
            let (code, changed) = world.ask("DELETE", &path, again.clone()).await;
            assert_eq!(code, 200, "{what}: {changed}");
            assert_ne!(version(&changed), version(&going), "{what}: {changed}");
        }
        // Whatever it did, asked for once more it does nothing.
        let (_, stored) = world.get(&path).await;
        for _ in 0..2 {
            let answer = changes_nothing(&world, what, ("DELETE", &path, "application/json"), again.clone()).await;
            assert_eq!(answer, stored, "{what}: the answer is the stored object");
        }
    }
    let everything = [PODS, MAPS];
    for collection in everything {
        changes_nothing(&world, "all of them", ("DELETE", collection, ""), Value::Null).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_on_its_way_out_is_deleted_once() {
    let world = World::new().await;
    for (name, metadata, spec) in [("plain", json!([]), json!([])), ("held", json!([KEEP]), json!([KEEP]))] {
        let object = json!({"metadata": {"name": name, "finalizers": metadata}, "spec": {"finalizers": spec}});
        world.post("/api/v1/namespaces", object).await;
        let path = format!("/api/v1/namespaces/{name}");
        let (code, _) = world.ask("DELETE", &path, Value::Null).await;
        assert_eq!(code, 200);
        for options in [Value::Null, json!({"propagationPolicy": "Background"}), json!({"gracePeriodSeconds": 0})] {
            changes_nothing(&world, name, ("DELETE", &path, "application/json"), options).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_is_no_write_whatever_the_kind() {
    let world = World::new().await;
    for def in world.api.registry().table().rows().iter().filter(|def| def.verbs.contains(Verb::Update)) {
        let collection = crate::common::collection(def);
        let one = format!("{collection}/{}", crate::common::groups::name(def));
        let made = world.post(&collection, crate::common::least(def)).await;
        let (json, merge, strategic) =
            ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json");
        let mut unconditional = made.clone();
        unconditional["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let part = json!({"metadata": {"name": crate::common::groups::name(def), "labels": null}});
        let mut requests = vec![
            ("PUT", one.clone(), "application/json", made.clone()),
            ("PATCH", one.clone(), merge, json!({})),
            ("PATCH", one.clone(), merge, part.clone()),
            ("PATCH", one.clone(), merge, made.clone()),
            ("PATCH", one.clone(), strategic, json!({})),
            ("PATCH", one.clone(), strategic, part),
            ("PATCH", one.clone(), json, json!([])),
            (
                "PATCH",
                one.clone(),
                json,
                json!([{"op": "replace", "path": "/metadata/name", "value": crate::common::groups::name(def)}]),
            ),
        ];
        if def.strategy.allow_unconditional_update() {
            requests.push(("PUT", one.clone(), "application/json", unconditional));
        }
        for sub in def.subresources.iter().filter(|sub| sub.verbs.contains(Verb::Update)) {
            let path = format!("{one}/{}", sub.name);
            let (code, stored) = world.get(&path).await;
            // Others lead to nodes, where nobody answers here.
            if code != 200 {
                continue;
            }
            requests.push(("PUT", path.clone(), "application/json", stored));
            if sub.verbs.contains(Verb::Patch) {
                requests.push(("PATCH", path, merge, json!({})));
            }
        }
        for (method, path, media, body) in requests {
            let answer = changes_nothing(&world, &def.plural, (method, &path, media), body).await;
            assert_eq!(version(&answer), version(&made), "{method} {path}");
        }
        assert_eq!(world.ask("DELETE", &one, Value::Null).await.0, 200, "{one}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_tells_what_came_of_a_write_and_whose_it_was() {
    let world = World::new().await;
    let client = world.api.client(admin());
    world.post(MAPS, map("m")).await;
    let maps = GroupResource { group: "", resource: "configmaps" };
    let target = Target { resource: maps, namespace: Some("a"), name: "m", subresource: None };
    let patch = json!({"data": {"a": "1"}});
    for expect in [Effect::Changed, Effect::Nothing, Effect::Nothing] {
        assert_eq!(client.patch(target, PatchKind::Merge, patch.clone()).await.unwrap().effect, expect);
    }
    let stored = client.get(target).await.unwrap();
    assert_eq!(client.update(target, stored).await.unwrap().effect, Effect::Nothing);
    for expect in [Effect::Changed, Effect::Nothing] {
        assert_eq!(client.delete(target, DeleteOptions::default()).await.unwrap().effect, expect);
    }
    let metrics = |text: Value| text.as_str().unwrap_or_default().to_owned();
    let text = metrics(world.get("/metrics").await.1);
    let counted = |writer: &str, count: u32| {
        let line = format!("kontiki_api_writes_total{{writer=\"{writer}\",kind=\"configmaps\"}} {count}");
        assert!(text.contains(&line), "no {line} in:\n{text}");
    };
    counted("administrators", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_generated_names_are_alike() {
    let world = World::new().await;
    let object = json!({"metadata": {"generateName": "web-"},
                        "spec": {"serviceAccountName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    for _ in 0..2 {
        let (code, refused) = world.ask("POST", PODS, object.clone()).await;
        let text = "pods \"web-\" is forbidden: error looking up service account a/nobody: \
                    serviceaccount \"nobody\" not found";
        assert_eq!((code, refused["message"].as_str()), (403, Some(text)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_expires_is_one_write_and_no_more() {
    let world = World::new().await;
    let key = ObjectKey::new(GroupResource { group: "", resource: "events" }, Some("a"), "old").encode();
    let soon = jiff::Timestamp::now().as_second().unsigned_abs() + 1;
    let put = Op::put_until(key.clone(), &b"{}"[..], Some(soon));
    let made = world.store.txn(Txn::write(vec![put])).await.unwrap().revision;
    let mut watch = world.store.watch(Default::default(), Some(made)).unwrap();
    let mut next = async |limit| match tokio::time::timeout(limit, watch.next()).await {
        Ok(Some(WatchItem::Events(batch))) => batch.iter().map(|event| (event.kind, event.entry.key.clone())).collect(),
        _ => Vec::new(),
    };
    assert_eq!(next(Duration::from_secs(30)).await, [(EventKind::Delete, key)]);
    assert_eq!(next(Duration::from_secs(3)).await, Vec::new(), "nothing follows");
}
