//! Kinds whose values are ciphertext in the store, seen from above and from below.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use kontiki_api::{Api, Status, User};
use kontiki_cache::{Backend, Vault};
use kontiki_model::GroupResource;
use serde_json::{Value, json};

use crate::common::{World, admin, ask_of};

const SECRETS: &str = "/api/v1/namespaces/a/secrets";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/a";
const KIND: GroupResource<'static> = GroupResource { group: "", resource: "secrets" };

/// A text that is in nothing else, and that no compression hides.
fn known(number: usize) -> String {
    format!("{:x}", 0x9e37_79b9_7f4a_7c15_u128.pow(2).wrapping_mul(number as u128 + 7))
}

fn secret(number: usize) -> Value {
    json!({"metadata": {"name": format!("s{number}"), "labels": {"number": number.to_string()}},
           "data": {"text": STANDARD.encode(known(number))}})
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The bytes of all files below a directory.
fn files(dir: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![std::fs::read(path).unwrap()] }).collect()
}

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask_of(api, Some(admin()), (method, path, media), body).await
}

fn key_file() -> String {
    Vault::new_key_file().unwrap()
}

fn sealed(world: &World, key_file: &str) -> (Api, Backend) {
    let backend = Backend::sealed(world.store.clone(), Arc::new(Vault::new(key_file, &[KIND]).unwrap()));
    (world.over(backend.clone()), backend)
}

fn text_of(secret: &Value) -> String {
    String::from_utf8(STANDARD.decode(secret["data"]["text"].as_str().unwrap_or_default()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_found_in_no_file_and_no_backup() {
    let world = World::new().await;
    let (api, _) = sealed(&world, &key_file());
    // What is not sealed is found, or the search would prove nothing.
    let plain = format!("plain{}", known(1000));
    world.post("/api/v1/namespaces/a/configmaps", json!({"metadata": {"name": "m"}, "data": {"a": plain}})).await;
    for number in 0..100 {
        let (code, made) = ask(&api, "POST", SECRETS, secret(number)).await;
        assert_eq!((code, text_of(&made)), (201, known(number)));
    }
    let mut backup = world.store.backup().await.unwrap();
    let mut saved = Vec::new();
    while let Some(piece) = backup.next().await {
        saved.extend_from_slice(&piece.unwrap());
    }
    world.store.shutdown().await;
    let mut found = files(world.dir());
    found.push(saved);
    assert!(found.last().is_some_and(|backup| holds(backup, &plain)), "the backup has what is not sealed");
    assert!(found[..found.len() - 1].iter().any(|file| holds(file, &plain)), "and so has the directory");
    for number in 0..100 {
        for text in [known(number), STANDARD.encode(known(number))] {
            assert!(!found.iter().any(|file| holds(file, &text)), "secret {number} lies open");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_above_the_store_sees_that_values_are_sealed() {
    let world = World::new().await;
    let (api, _) = sealed(&world, &key_file());
    let watch = http::Request::get(format!("{SECRETS}?watch=true&labelSelector=number%3D1"));
    let watch = api.answer(Some(admin()), watch.body(axum::body::Body::empty()).unwrap()).await;
    let mut events = watch.into_body().into_data_stream();
    for number in 0..3 {
        assert_eq!(ask(&api, "POST", SECRETS, secret(number)).await.0, 201);
    }
    let event: Value = serde_json::from_slice(&events.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], text_of(&event["object"])), (&json!("ADDED"), known(1)));
    let (_, made) = ask(&api, "GET", &format!("{SECRETS}/s1"), Value::Null).await;
    let (code, again) = ask(&api, "POST", SECRETS, secret(1)).await;
    assert_eq!((code, again["reason"].as_str()), (409, Some("AlreadyExists")));
    let (code, same) = ask(&api, "PUT", &format!("{SECRETS}/s1"), made.clone()).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!((code, version(&same)), (200, version(&made)), "a write that changes nothing is none");
    let patch = json!({"data": {"text": STANDARD.encode(known(50))}});
    let (code, changed) = ask(&api, "PATCH", &format!("{SECRETS}/s1"), patch).await;
    assert_eq!((code, text_of(&changed)), (200, known(50)));
    assert_eq!(ask(&api, "PUT", &format!("{SECRETS}/s1"), made.clone()).await.0, 409, "of an older version");
    let event: Value = serde_json::from_slice(&events.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], text_of(&event["object"])), (&json!("MODIFIED"), known(50)));
    // The past, by a page that begins there, and the present.
    let (_, list) = ask(&api, "GET", &format!("{SECRETS}?limit=1"), Value::Null).await;
    let next = list["metadata"]["continue"].as_str().unwrap().to_owned();
    let (_, rest) = ask(&api, "GET", &format!("{SECRETS}?limit=5&continue={next}"), Value::Null).await;
    let texts: Vec<String> = rest["items"].as_array().unwrap().iter().map(text_of).collect();
    assert_eq!(texts, [known(50), known(2)]);
    let exact = version(&made);
    let then = format!("{SECRETS}?resourceVersion={}&resourceVersionMatch=Exact", exact.as_str().unwrap());
    let (code, then) = ask(&api, "GET", &then, Value::Null).await;
    let texts: Vec<String> = then["items"].as_array().into_iter().flatten().map(text_of).collect();
    assert_eq!((code, texts), (200, vec![known(0), known(1)]), "as it was then");
    assert_eq!(ask(&api, "DELETE", &format!("{SECRETS}/s1"), Value::Null).await.0, 200);
    let event: Value = serde_json::from_slice(&events.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], text_of(&event["object"])), (&json!("DELETED"), known(50)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_everything_and_the_old_one_still_opens() {
    let world = World::new().await;
    let file = key_file();
    for number in 0..70 {
        world.post(SECRETS, secret(number)).await;
    }
    let (api, backend) = sealed(&world, &file);
    let get = |api: Api, number: usize| async move {
        let (code, found) = ask(&api, "GET", &format!("{SECRETS}/s{number}"), Value::Null).await;
        if code == 200 { Ok(text_of(&found)) } else { Err(serde_json::from_value::<Status>(found).unwrap().code) }
    };
    assert_eq!(get(api.clone(), 5).await, Ok(known(5)), "what is not sealed yet is readable");
    let term = world.store.status().borrow().term;
    let reseal = || async {
        let mut all = 0;
        loop {
            match backend.reseal(term).await.unwrap() {
                0 => break all,
                some => all += some,
            }
        }
    };
    assert_eq!((reseal().await, backend.forms()), (70, HashMap::from([(1, 70)])));
    let at_rest = world.store.snapshot().revision();
    assert_eq!((reseal().await, world.store.snapshot().revision()), (0, at_rest), "nothing is written at rest");
    assert_eq!(backend.rotate().await.unwrap(), Some(2));
    assert_eq!(ask(&api, "POST", SECRETS, secret(70)).await.0, 201);
    assert_eq!(backend.forms(), HashMap::from([(1, 70), (2, 1)]), "new values are under the new key");
    assert_eq!(reseal().await, 70);
    assert_eq!(backend.forms(), HashMap::from([(2, 71)]));
    for number in [0, 69, 70] {
        assert_eq!(get(api.clone(), number).await, Ok(known(number)));
    }
    // A master with another key has nothing of it, and says so when it starts.
    let (stranger, other) = sealed(&world, &key_file());
    assert!(other.check().is_err_and(|why| why.contains("needs the master key")));
    assert!(Backend::from(world.store.clone()).check().is_err_and(|why| why.contains("no key file")));
    assert_eq!(get(stranger, 0).await, Err(500));
    // One that has been given a newer key first reads all, and wraps under it.
    let (both, newer) = sealed(&world, &format!("{}{file}", key_file()));
    assert_eq!((newer.check(), get(both, 0).await), (Ok(()), Ok(known(0))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_an_error_until_it_is_deleted_as_such() {
    let world = World::new().await;
    let (owner, _) = sealed(&world, &key_file());
    for number in 0..2 {
        assert_eq!(ask(&owner, "POST", SECRETS, secret(number)).await.0, 201);
    }
    let (stranger, _) = sealed(&world, &key_file());
    let plain = json!({"metadata": {"name": "plain", "labels": {"number": "0"}}});
    world.post(SECRETS, plain).await;
    let one = format!("{SECRETS}/s0");
    let keys = ["/registry/core/secrets/a/s0", "/registry/core/secrets/a/s1"];
    let (code, said) = ask(&stranger, "GET", &one, Value::Null).await;
    assert_eq!((code, said["reason"].as_str()), (500, Some("InternalError")));
    let said = said["message"].as_str().unwrap();
    assert!(said.contains(keys[0]) && said.contains("sealed under data key 1"), "{said}");
    for (method, path) in [("PUT", &one), ("PATCH", &one), ("DELETE", &one)] {
        let (code, said) = ask(&stranger, method, path, if method == "DELETE" { Value::Null } else { secret(0) }).await;
        assert!(code == 500 && said["message"].as_str().unwrap().contains(keys[0]), "{method}: {said}");
    }
    // A list is whole or none: read from the store, by an index, by name, in pages, as the begin of a watch.
    for query in ["", "?labelSelector=number%3D0", "?fieldSelector=metadata.name%3Ds1", "?limit=2", "?watch=true"] {
        let (code, said) = ask(&stranger, "GET", &format!("{SECRETS}{query}"), Value::Null).await;
        assert_eq!((code, said["reason"].as_str()), (500, Some("StoreReadError")), "{query}: {said}");
        let named: Vec<_> = said["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| cause["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, if query.contains("fieldSelector") { &keys[1..] } else { &keys[..] }, "{query}");
    }
    assert_eq!(ask(&stranger, "GET", &format!("{SECRETS}/plain"), Value::Null).await.0, 200);
    // What comes to a watch that cannot be read ends it.
    let revision = world.store.snapshot().revision();
    let watch = http::Request::get(format!("{SECRETS}?watch=true&resourceVersion={revision}"));
    let watch = stranger.answer(Some(admin()), watch.body(axum::body::Body::empty()).unwrap()).await;
    let mut events = watch.into_body().into_data_stream();
    assert_eq!(ask(&owner, "POST", SECRETS, secret(2)).await.0, 201);
    let event: Value = serde_json::from_slice(&events.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(500)), "{event}");
    assert!(events.next().await.is_none());

    let delete = |name: &str, more: Value| {
        let mut options = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true});
        options.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        (format!("{SECRETS}{name}"), options)
    };
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["secrets"]}]});
    world.post(&format!("{RBAC}/roles"), role).await;
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "ann"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    world.post(&format!("{RBAC}/rolebindings"), binding).await;
    let ann = || User::new("ann", &["system:authenticated"]);
    for (name, more, user, expect) in [
        ("/s0", json!({}), ann(), (403, "not permitted to do \"unsafe-delete-ignore-read-errors\"")),
        ("/s0", json!({"gracePeriodSeconds": 0}), admin(), (422, "cannot be set together with .gracePeriodSeconds")),
        ("", json!({}), admin(), (422, "is not allowed with DELETECOLLECTION")),
        ("/plain", json!({}), admin(), (409, "the object is decodable from storage")),
        ("/none", json!({}), admin(), (404, "not found")),
        ("/s0", json!({"dryRun": ["All"]}), admin(), (200, "")),
        ("/s0", json!({}), admin(), (200, "")),
        ("/s0", json!({}), admin(), (404, "not found")),
    ] {
        let (path, options) = delete(name, more);
        let media = "application/json";
        let (code, said) = ask_of(&stranger, Some(user), ("DELETE", &path, media), options.to_string()).await;
        let text = said["message"].as_str().unwrap_or_default();
        assert!(code == expect.0 && text.contains(expect.1), "{path} {options}: {said}");
    }
    for name in ["s1", "s2"] {
        let path = format!("{SECRETS}/{name}?ignoreStoreReadErrorWithClusterBreakingPotential=true");
        let (code, said) = ask(&stranger, "DELETE", &path, Value::Null).await;
        assert_eq!((code, &said["status"]), (200, &json!("Success")), "{said}");
    }
    let (code, list) = ask(&stranger, "GET", SECRETS, Value::Null).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)));
}
