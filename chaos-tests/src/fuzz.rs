//! Random requests: words that mean something to an API server, put together so that most of them
//! are wrong in one place only, and bodies from junk to almost good.

use http::Request;
use kube::client::Body;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

const VERBS: &[&str] = &["GET", "GET", "POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"];
const ROOTS: &[&str] = &[
    "/api/v1",
    "/api/v1",
    "/apis/apps/v1",
    "/apis/apps/v1",
    "/apis/discovery.k8s.io/v1",
    "/apis/coordination.k8s.io/v1",
    "/apis/events.k8s.io/v1",
    "/apis",
    "/api",
    "/openapi/v3",
    "/x",
];
/// `NS` is the namespace to play in; three times, as good words must be frequent.
const SCOPES: &[&str] = &[
    "/namespaces/NS",
    "/namespaces/NS",
    "/namespaces/NS",
    "",
    "/namespaces/none",
    "/namespaces/%00",
    "/namespaces/..",
    "/watch",
];
const KINDS: &[&str] = &[
    "pods",
    "configmaps",
    "secrets",
    "services",
    "deployments",
    "replicasets",
    "nodes",
    "namespaces",
    "leases",
    "endpointslices",
    "events",
    "endpoints",
    "serviceaccounts",
    "bindings",
    "rafts",
    "%2f",
    "%2e%2e",
    "%C3%A9",
    "",
];
const NAMES: &[&str] = &[
    "",
    "",
    "/a",
    "/b",
    "/%ff%fe",
    "/UPPER",
    "/a/status",
    "/a/scale",
    "/a/log",
    "/a/exec",
    "/a/binding",
    "/a/eviction",
    "/a/nothing",
    "/",
    "//",
];
// No version from the future: that is a 504 on purpose, as upstream's, and in the recorded answers.
const QUERIES: &[&str] = &[
    "",
    "",
    "limit=1",
    "limit=-1",
    "limit=x",
    "continue=abc",
    "labelSelector=a%20in%20(b",
    "labelSelector=!a",
    "fieldSelector=x=y",
    "fieldSelector=%3D",
    "resourceVersion=abc",
    "watch=1&timeoutSeconds=1",
    "watch=1&timeoutSeconds=1&resourceVersion=99999999999999999999",
    "dryRun=All",
    "dryRun=x",
    "fieldValidation=Strict",
    "gracePeriodSeconds=-5",
    "gracePeriodSeconds=-9223372036854775808",
    "propagationPolicy=x",
    "pretty=1",
    "resourceVersionMatch=Exact",
    "sendInitialEvents=true",
    "%zz=%",
];
const MEDIA: &[&str] = &[
    "application/json",
    "application/json",
    "application/yaml",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/vnd.kubernetes.protobuf",
    "text/plain",
    "",
];
const TEXTS: &[&str] = &[
    "",
    "{",
    "[]",
    "null",
    "0",
    "\"x\"",
    "- x",
    "a: &a [*a]",
    "a: b: c",
    "\u{0}\u{1}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":1}{",
    "{\"metadata\":null}",
    "{\"metadata\":{\"name\":{}}}",
    "{\"metadata\":{\"name\":\"a\",\"finalizers\":[\"x/y\"],\"ownerReferences\":[{}]}}",
    "{\"spec\":{\"$patch\":\"replace\"}}",
    "{\"spec\":{\"replicas\":1e99}}",
    "{\"kind\":\"DeleteOptions\",\"preconditions\":{\"uid\":5}}",
    "{\"target\":{\"name\":\"a1\"}}",
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

/// One random request against `namespace`; `None` if the words do not even make an HTTP request.
pub fn request(rng: &mut StdRng, namespace: &str) -> Option<Request<Body>> {
    let mut pick = |words: &'static [&'static str]| *words.choose(rng).unwrap_or(&"");
    let (root, scope, kind, name) = (pick(ROOTS), pick(SCOPES), pick(KINDS), pick(NAMES));
    let (verb, query, media) = (pick(VERBS), pick(QUERIES), pick(MEDIA));
    // Deleting the cluster's own nodes or namespaces by chance would test something else.
    let spared = verb == "DELETE" && (matches!(kind, "nodes" | "namespaces") || !scope.contains("NS"));
    let verb = if spared { "GET" } else { verb };
    let mut body = body(rng).into_bytes();
    if rng.random_ratio(1, 10) {
        let at = rng.random_range(0..=body.len());
        body.insert(at, rng.random());
    }
    if rng.random_ratio(1, 200) {
        body = b"[".repeat(100_000);
    }
    let uri = format!("{root}{scope}/{kind}{name}?{query}").replace("NS", namespace);
    Request::builder().method(verb).uri(uri).header("content-type", media).body(Body::from(body)).ok()
}

/// Often an object that is almost good, so that the later stages see something too.
fn body(rng: &mut StdRng) -> String {
    let junk = value(rng, 4);
    let key = *KEYS.choose(rng).unwrap_or(&"");
    let pod = json!({"containers": [{"name": "c", "image": "localhost/none:1", key: junk}], key: leaf(rng)});
    let body = match rng.random_range(0..8) {
        0 | 1 => return (*TEXTS.choose(rng).unwrap_or(&"")).to_owned(),
        2 => {
            json!([{"op": "add", "path": format!("/{key}/0"), "value": junk}, {"op": "move", "from": "/spec", "path": ""}])
        }
        3 => json!({"metadata": {"name": "a"}, "spec": pod}),
        4 => {
            let ports = json!([{"port": 80, key: junk}]);
            json!({"metadata": {"generateName": "a-"}, "spec": {"type": "NodePort", "ports": ports, key: leaf(rng)}})
        }
        5 => {
            let labels = json!({"a": "b"});
            let template = json!({"metadata": {"labels": labels}, "spec": pod});
            json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}})
        }
        6 => json!({"metadata": {"name": "a", key: junk}}),
        _ => junk,
    };
    body.to_string()
}

fn value(rng: &mut StdRng, depth: u32) -> Value {
    match rng.random_range(0..10) {
        _ if depth == 0 => leaf(rng),
        0..4 => leaf(rng),
        4..6 => (0..rng.random_range(0..4)).map(|_| value(rng, depth - 1)).collect(),
        _ => {
            let fields = rng.random_range(0..7);
            let field = |rng: &mut StdRng| ((*KEYS.choose(rng).unwrap_or(&"")).to_owned(), value(rng, depth - 1));
            Value::Object((0..fields).map(|_| field(rng)).collect::<Map<_, _>>())
        }
    }
}

fn leaf(rng: &mut StdRng) -> Value {
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
    leaves.choose(rng).cloned().unwrap_or_default()
}
