//! Requests that make no sense, many of them: each gets an answer below 500 and nothing breaks.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use common::{World, admin};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

const REQUESTS: usize = 3000;
const SEED: u64 = 20;
const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE", "FROB", "HEAD"];
const PLACES: &[&str] =
    &["/api/v1/namespaces/a/", "/apis/apps/v1/namespaces/a/", "/api/v1/", "/apis/events.k8s.io/v1/namespaces/a/", "/"];
const PLURALS: &[&str] = &[
    "pods",
    "configmaps",
    "services",
    "deployments",
    "nodes",
    "events",
    "secrets",
    "namespaces",
    "bindings",
    "nothings",
    "%2e%2e",
    "é",
];
const NAMES: &[&str] =
    &["", "/x", "/x/status", "/x/scale", "/x/binding", "/x/eviction", "/x/log", "/x/exec", "/x/%ff", "/", "//"];
const QUERIES: &[&str] = &[
    "",
    "?dryRun=All",
    "?watch=1&timeoutSeconds=1&resourceVersion=99999999999999999999",
    "?limit=-1",
    "?continue=AAAA",
    "?labelSelector=a+in+(",
    "?fieldSelector=%3D",
    "?%zz",
    "?gracePeriodSeconds=-9223372036854775808",
    "?fieldValidation=Strict",
];
const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "text/plain",
];
const KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "status",
    "labels",
    "annotations",
    "finalizers",
    "containers",
    "image",
    "ports",
    "port",
    "nodePort",
    "selector",
    "matchLabels",
    "template",
    "replicas",
    "type",
    "clusterIP",
    "data",
    "target",
    "resources",
    "limits",
    "cpu",
    "$patch",
    "$setElementOrder/containers",
    "ownerReferences",
    "deletionTimestamp",
    "resourceVersion",
    "uid",
    "taints",
];

fn leaf(random: &mut StdRng) -> Value {
    let leaves = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("x"),
        json!("A B"),
        json!("v1"),
        json!("Pod"),
        json!("Deployment"),
        json!("10.96.0.3"),
        json!("None"),
        json!("100m"),
        json!("9".repeat(60)),
        json!("\u{0}\u{2603}"),
        json!("NodePort"),
        json!("2001-01-01T00:00:00Z"),
        json!("default"),
    ];
    leaves.choose(random).expect("not empty").clone()
}

fn value(random: &mut StdRng, depth: u32) -> Value {
    match random.random_range(0..10) {
        _ if depth == 0 => leaf(random),
        0..4 => leaf(random),
        4..6 => (0..random.random_range(0..4)).map(|_| value(random, depth - 1)).collect(),
        _ => {
            let fields = random.random_range(0..7);
            let fields =
                (0..fields).map(|_| ((*KEYS.choose(random).expect("not empty")).to_owned(), value(random, depth - 1)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// Often an object that is almost good, so that the later stages see something too.
fn body(random: &mut StdRng) -> String {
    let junk = value(random, 4);
    let key = *KEYS.choose(random).expect("not empty");
    match random.random_range(0..8) {
        0 => ["", "{", "null", "[]", "a: &a [*a]", "- x", "\u{0}", "{\"a\":1}{"].choose(random).expect("not empty").to_string(),
        1 => "[".repeat(2000),
        2 => json!([{"op": "add", "path": format!("/{key}/0"), "value": junk}, {"op": "move", "from": "/spec", "path": ""}]).to_string(),
        3 => json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i", key: junk}], key: leaf(random)}}).to_string(),
        4 => json!({"metadata": {"name": "x"}, "spec": {"type": "NodePort", "ports": [{"port": 80, key: junk}], key: leaf(random)}}).to_string(),
        5 => json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}], key: junk}}}}).to_string(),
        6 => json!({"metadata": {"name": "x", key: junk}}).to_string(),
        _ => junk.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_answered_with_a_server_error() {
    let world = World::new().await;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut codes = std::collections::BTreeMap::new();
    for n in 0..REQUESTS {
        let pick = |random: &mut StdRng, from: &[&str]| (*from.choose(random).expect("not empty")).to_owned();
        let path = [PLACES, PLURALS, NAMES, QUERIES].map(|part| pick(&mut random, part)).concat();
        let Ok(_) = path.parse::<http::Uri>() else { continue };
        let (method, media, body) = (pick(&mut random, METHODS), pick(&mut random, MEDIA), body(&mut random));
        let (code, answer) = world.ask_as(Some(admin()), &method, &path, &media, body.clone()).await;
        assert!(code < 500, "seed {SEED}, request {n}: {method} {path} ({media}) {body}: {code} {answer}");
        *codes.entry(code).or_insert(0) += 1;
    }
    assert!(codes.len() > 5, "the requests were too much alike: {codes:?}");
    assert_eq!(world.get("/livez").await.0, 200);
}
