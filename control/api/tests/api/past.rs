//! The past of an object, for whoever asks for it by a parameter of ours; everybody else sees what they saw before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kontiki_cache::{Backend, Vault};
use kontiki_model::GroupResource;
use kontiki_store::{Past, Tuning};
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const KEPT: Past = Past { time: Duration::from_secs(3600), bytes: 1 << 30 };
const LOOK: Duration = Duration::from_millis(20);

/// A world in which all is compacted at once.
async fn forgetful(past: Past) -> World {
    World::keeping(Tuning { history: Duration::ZERO, compact_every: LOOK, ..Tuning::default() }, past).await
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
}

/// Waits until the API's own past begins at a revision or later.
async fn compacted(world: &World, revision: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.store.compacted().0 < revision {
        assert!(Instant::now() < deadline, "compacted up to {:?} only", world.store.compacted());
        tokio::time::sleep(LOOK).await;
    }
}

fn as_of(name: &str, when: impl std::fmt::Display) -> String {
    format!("{MAPS}/{name}?kontiki.dev/as-of={when}")
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_shown_as_it_was_though_the_apis_own_past_is_over() {
    let world = forgetful(KEPT).await;
    let before = world.store.snapshot().revision().0;
    let made = world.post(MAPS, json!({"metadata": {"name": "x"}, "data": {"a": "1"}})).await;
    world.post(MAPS, json!({"metadata": {"name": "y"}})).await;
    let (_, page) = world.get(&format!("{MAPS}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().expect("a token").to_owned();
    let first = now();
    // Seconds are the measure of times.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (_, changed) = world.merge(&format!("{MAPS}/x"), json!({"data": {"a": "2"}})).await;
    let second = now();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (code, _) = world.ask("DELETE", &format!("{MAPS}/x"), Value::Null).await;
    assert_eq!(code, 200);
    let last = world.post(MAPS, json!({"metadata": {"name": "z"}})).await;
    compacted(&world, version(&last)).await;

    for (name, when, expect) in [
        ("when it was made", version(&made).to_string(), Some(&made)),
        ("just before the change", (version(&changed) - 1).to_string(), Some(&made)),
        ("from the change on", version(&changed).to_string(), Some(&changed)),
        ("a time before the change", first.to_string(), Some(&made)),
        ("a time after it", second.to_string(), Some(&changed)),
        ("now", now().to_string(), None),
        ("no time ago", "0s".to_owned(), None),
        ("a revision of after its end", version(&last).to_string(), None),
        ("a revision of before its beginning", before.to_string(), None),
    ] {
        let (code, then) = world.get(&as_of("x", &when)).await;
        match expect {
            Some(expect) => assert_eq!((code, &then), (200, expect), "{name}"),
            None => assert_eq!((code, then["reason"].as_str()), (404, Some("NotFound")), "{name}: {then}"),
        }
    }
    for (when, expect) in [
        ("1h", (410, "Expired")),
        ("1990-01-01T00:00:00Z", (410, "Expired")),
        ("999999999", (504, "Timeout")),
        ("soon", (400, "BadRequest")),
        ("", (400, "BadRequest")),
        ("5&resourceVersion=5", (400, "BadRequest")),
    ] {
        let (code, status) = world.get(&as_of("x", when)).await;
        assert_eq!((code, status["reason"].as_str().unwrap_or_default()), expect, "{when}: {status}");
    }
    let (_, status) = world.get(&as_of("x", "1h")).await;
    let said = status["message"].as_str().unwrap_or_default();
    assert!(said.contains("configmaps \"x\" is not kept that far back: it begins at revision"), "{said}");

    // Who may not get the object may not get its past.
    for path in [as_of("x", version(&made)), format!("{MAPS}/x?kontiki.dev/changes=1")] {
        assert_eq!(world.ask_by("bob", "GET", &path, Value::Null).await.0, 403, "{path}");
    }

    // What the API itself shows of the past ends where it did.
    let exact = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", version(&made));
    assert_eq!(world.get(&exact).await.0, 410);
    let event = world.first_event(&format!("{MAPS}?watch=1&resourceVersion={}", version(&made))).await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    for change in 0..20 {
        world.merge(&format!("{MAPS}/y"), json!({"data": {"a": change.to_string()}})).await;
        world.get(&format!("{MAPS}?limit=1")).await;
    }
    let (code, status) = world.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, status["metadata"]["continue"].is_string()), (410, true), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_an_object_are_told_in_pages() {
    let world = forgetful(KEPT).await;
    let path = format!("{MAPS}/x");
    let mut revisions = Vec::new();
    for life in 0..2 {
        revisions.push(version(&world.post(MAPS, json!({"metadata": {"name": "x"}})).await));
        for change in 0..3 {
            let data = json!({"data": {"a": format!("{life} {change}")}});
            revisions.push(version(&world.merge(&path, data).await.1));
        }
        world.ask("DELETE", &path, Value::Null).await;
        revisions.push(world.store.snapshot().revision().0);
    }
    compacted(&world, world.store.snapshot().revision().0).await;
    let list = format!("{path}?kontiki.dev/changes=true");
    let (code, all) = world.get(&list).await;
    assert_eq!((code, &all["kind"], &all["metadata"]["continue"]), (200, &json!("ChangeList"), &json!("")), "{all}");
    let items = all["items"].as_array().expect("items").clone();
    let told: Vec<u64> = items.iter().map(|item| item["revision"].as_str().unwrap().parse().unwrap()).collect();
    revisions.reverse();
    assert_eq!(told, revisions);
    for (at, item) in items.iter().enumerate() {
        let is_end = at % 5 == 0;
        assert_eq!(item["deleted"], if is_end { json!(true) } else { Value::Null }, "{item}");
        assert_eq!(item["created"], if at % 5 == 4 { json!(true) } else { Value::Null }, "{item}");
        assert_eq!(item["object"].is_null(), is_end, "{item}");
        if !is_end {
            assert_eq!(version(&item["object"]), told[at]);
            let age = now().duration_since(item["time"].as_str().unwrap().parse().unwrap());
            assert!((-1..120).contains(&age.as_secs()), "{item}");
        }
    }
    let mut pages = Vec::new();
    let mut next = String::new();
    loop {
        let (code, page) = world.get(&format!("{list}&limit=3{next}")).await;
        assert_eq!(code, 200, "{page}");
        pages.extend(page["items"].as_array().expect("items").clone());
        match page["metadata"]["continue"].as_str() {
            Some("") => break,
            token => next = format!("&continue={}", token.expect("a token")),
        }
    }
    assert_eq!(pages, items);
    let (code, none) = world.get(&format!("{MAPS}/never?kontiki.dev/changes=1")).await;
    assert_eq!((code, &none["items"]), (200, &json!([])));
    let (code, _) = world.get("/api/v1/namespaces/a/status?kontiki.dev/changes=1").await;
    assert_ne!(code, 200, "of a part");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_kept_is_said_to_be() {
    let world = forgetful(Past { time: Duration::from_secs(2), bytes: 1 << 30 }).await;
    let made = world.post(MAPS, json!({"metadata": {"name": "x"}, "data": {"a": "1"}})).await;
    let path = format!("{MAPS}/x");
    world.merge(&path, json!({"data": {"a": "2"}})).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.merge(&path, json!({"data": {"a": now().to_string()}})).await;
        match world.get(&as_of("x", version(&made))).await {
            (410, status) => break status,
            (code, then) => assert_eq!((code, &then), (200, &made)),
        }
        assert!(Instant::now() < deadline, "it is kept for ever");
    };
    let said = status["message"].as_str().unwrap_or_default();
    assert!(said.contains("it begins at revision") && said.contains("Z"), "{said}");
    let (code, list) = world.get(&format!("{path}?kontiki.dev/changes=1")).await;
    assert_eq!(code, 200);
    let since: u64 = list["since"]["revision"].as_str().unwrap().parse().unwrap();
    assert!(since > version(&made) && list["since"]["time"].is_string(), "{list}");
    assert!(list["items"].as_array().is_some_and(|items| !items.is_empty()), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secrets_past_is_opened_for_who_may_read_it() {
    const SECRET: &str = "/api/v1/namespaces/a/secrets/s";
    let world = forgetful(KEPT).await;
    let kind = GroupResource { group: "", resource: "secrets" };
    let vault = Arc::new(Vault::new(&Vault::new_key_file().unwrap(), &[kind]).unwrap());
    let api = world.over(Backend::sealed(world.store.clone(), vault));
    let ask = async |method: &str, path: &str, body: Value| {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask_of(&api, Some(admin()), (method, path, media), body).await
    };
    let data = |text: &str| json!({"metadata": {"name": "s"}, "data": {"text": STANDARD.encode(text)}});
    let (code, made) = ask("POST", "/api/v1/namespaces/a/secrets", data("old")).await;
    assert_eq!(code, 201, "{made}");
    ask("PATCH", SECRET, data("new")).await;
    let (_, last) = ask("DELETE", SECRET, Value::Null).await;
    compacted(&world, version(&made) + 2).await;
    let (code, then) = ask("GET", &format!("{SECRET}?kontiki.dev/as-of={}", version(&made)), Value::Null).await;
    assert_eq!((code, &then), (200, &made), "{last}");
    let (_, list) = ask("GET", &format!("{SECRET}?kontiki.dev/changes=1"), Value::Null).await;
    assert_eq!(list["items"][1]["object"]["data"], data("new")["data"], "{list}");
    // Without the keys nothing of it is shown.
    let (code, _) = world.get(&format!("{SECRET}?kontiki.dev/as-of={}", version(&made))).await;
    assert_eq!(code, 500);
    let (_, list) = world.get(&format!("{SECRET}?kontiki.dev/changes=1")).await;
    assert!(list["items"][1]["unreadable"].is_string() && list["items"][1]["object"].is_null(), "{list}");
}
