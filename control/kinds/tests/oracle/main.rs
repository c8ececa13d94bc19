//! Replays the oracle's scenarios on the pure part of the API and compares with its golden answers.
//!
//! `equal.json` here is the mark: see [`ratchet`]. `KONTIKI_ORACLE_SHOW=<part of file:scenario:step>` prints the
//! differences of the steps it matches (`all` for all).

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../../../../chaos-tests/src/ratchet.rs"]
mod ratchet;
mod script;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ratchet::Seen;
use script::{Script, lookup, remove, split};
use serde_json::{Value, json};
use server::{Answer, Server, hide_namespace, hide_uid};

/// The files about kinds; the others are about what the API does around them.
const KINDS: &[&str] = &[
    "a-configmap",
    "a-deployment",
    "a-endpoints",
    "a-endpointslice",
    "a-event",
    "a-lease",
    "a-metadata",
    "a-namespace",
    "a-node",
    "a-patch",
    "a-pod",
    "a-replicaset",
    "a-secret",
    "a-service",
    "a-serviceaccount",
    "b-controllerrevision",
    "b-daemonset",
    "b-statefulset",
    "b-csidriver",
    "b-csinode",
    "b-ingress",
    "b-ingressclass",
    "b-networkpolicy",
    "b-pv",
    "b-pvc",
    "b-storageclass",
    "b-volumeattachment",
    "b-admissionpolicy",
    "b-apiservice",
    "b-crd",
    "b-csr",
    "b-flowschema",
    "b-mutatingwebhook",
    "b-prioritylevel",
    "b-validatingwebhook",
    "b-limitrange",
    "b-resourcequota",
    "b-clusterrole",
    "b-clusterrolebinding",
    "b-reviews",
    "b-role",
    "b-rolebinding",
    "b-cronjob",
    "b-hpa",
    "b-job",
    "b-pdb",
    "b-podtemplate",
    "b-priorityclass",
    "b-replicationcontroller",
    "b-runtimeclass",
    "c-custom",
    "c-lists",
    "c-ownership",
];
/// Of these everything is asked, and who owns what is compared, also in the answers to those who may not.
const OWNERS: &[&str] = &["c-custom", "c-lists", "c-ownership"];
const AGAIN: &str = "cargo test --workspace --test oracle";

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn answers_equal_upstreams() {
    // Asked at run time: checkouts may share one target directory.
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this"));
    let Some(dir) = ratchet::recorded(&here.join("../..")).unwrap_or_else(|missing| panic!("{missing}")) else {
        return;
    };
    let mut seen = BTreeMap::new();
    for stem in KINDS {
        let golden = read(&dir.join("golden").join(format!("{stem}.json")));
        let file = dir.join("scenarios").join(format!("{stem}.json"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let script = Script::new(script::read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
        let mut answers = Seen::default();
        for scenario in script.scenarios() {
            play(stem, &scenario, &script, &golden[&scenario], &mut answers);
        }
        println!("{stem:20} {:4} equal, {:2} not", answers.equal, answers.differs.len());
        seen.insert((*stem).to_owned(), answers);
    }
    ratchet::hold(&here.join("tests/oracle/equal.json"), &seen, AGAIN).unwrap_or_else(|differs| panic!("{differs}"));
}

fn play(stem: &str, scenario: &str, script: &Script, golden: &Value, seen: &mut Seen) {
    let mut server = Server::default();
    for request in script.setup() {
        server.handle(&request);
    }
    for request in script.requests(scenario) {
        let owners = OWNERS.contains(&stem);
        let fits = |want: &&Value| if owners { want["status"] != 404 } else { comparable(want) && request.plain };
        let Some(want) = golden.get(&request.name).filter(fits) else { continue };
        let Some(got) = server.handle(&request) else { continue };
        let differences = if owners { compare_owners(want, got, &request) } else { compare(want, &got, &request) };
        if differences.is_empty() {
            seen.equal += 1;
            continue;
        }
        let at = format!("{stem}:{scenario}:{}", request.name);
        seen.differs.insert(format!("{scenario}: {}", request.name));
        if std::env::var("KONTIKI_ORACLE_SHOW").is_ok_and(|part| part == "all" || at.contains(&part)) {
            println!("{at}");
            differences.iter().take(6).for_each(|line| println!("    {line}"));
        }
    }
}

/// Answers that a strategy gives: not those about versions, permissions, or what is not there.
fn comparable(want: &Value) -> bool {
    let decoder = want["body"]["message"].as_str().is_some_and(|message| message.contains("cannot be handled as a"));
    match want["status"].as_u64() {
        Some(200 | 201 | 422) => true,
        Some(400) => decoder,
        _ => false,
    }
}

/// Where upstream answers 500 to a mistake of the client, this answers 422, with the same message.
fn compare_owners(want: &Value, (status, mut body, warnings): Answer, request: &script::Request) -> Vec<String> {
    let mut want = want.clone();
    if want["status"] == 500 && status == 422 {
        want = json!({"status": 422, "body": {"message": want["body"]["message"]}});
        body = json!({"message": body["message"]});
    }
    if want["status"] == 400 && status == 400 {
        let text = |body: &Value| body["message"].as_str().unwrap_or_default().to_owned();
        // A later version says `patch` of what it cannot read, whatever it is written in.
        let expected = text(&want["body"]).replace("decoding YAML", "decoding patch");
        return if fits(&expected, &text(&body)) { Vec::new() } else { vec![format!("{expected} expected, {body}")] };
    }
    sort_owners(&mut want);
    sort_owners(&mut body);
    if status == 409 {
        // The rest is the same for every conflict.
        let message = |body: &Value| body["message"].clone();
        let causes = |body: &Value| body["details"]["causes"].clone();
        want = json!({"status": 409, "body": {"message": message(&want["body"]), "causes": causes(&want["body"])}});
        body = json!({"message": message(&body), "causes": causes(&body)});
    }
    compare(&want, &(status, body, warnings), request)
}

/// The order of entries depends on the clock, that of conflicts on chance: both are recorded in another.
fn sort_owners(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(sort_owners),
        Value::Object(fields) => {
            for (key, value) in fields {
                sort_owners(value);
                if let (true, Some(items)) = (key.ends_with("managedFields") || key == "causes", value.as_array_mut()) {
                    items.sort_by_cached_key(|item| {
                        let mut item = item.clone();
                        if item["time"].is_string() {
                            item["time"] = "<time>".into();
                        }
                        item.to_string()
                    });
                }
            }
        }
        _ => {}
    }
}

fn compare(want: &Value, got: &Answer, request: &script::Request) -> Vec<String> {
    let (status, mut body, warnings) = got.clone();
    let mut out = Vec::new();
    if want["status"].as_u64() != Some(u64::from(status)) {
        out.push(format!("status {} expected, {status} answered: {}", want["status"], body));
        return out;
    }
    if status == 400 {
        return out;
    }
    let mut expected = want.get("body").cloned().unwrap_or_default();
    request.ignore.iter().for_each(|pointer| remove(&mut body, &split(pointer)));
    if request.verb == "TABLE" {
        if let Some(rows) = expected.get("rows").or(expected.get("/rows")) {
            expected = json!({"/rows/*/cells": lookup(rows, &split("/*/cells"))});
        }
        body = json!({"/rows/*/cells": lookup(&body, &split("/rows/*/cells"))});
    } else if let (Some(only), false) = (&request.only, [409, 422].contains(&status)) {
        body = Value::Object(only.iter().filter_map(|p| Some((p.clone(), lookup(&body, &split(p))?))).collect());
    }
    request.ignore.iter().for_each(|pointer| remove(&mut body, &split(pointer)));
    differ(&expected, &body, "", &mut out);
    let shown: Vec<String> = warnings.iter().map(|w| format!("299 - {}", Value::from(w.as_str()))).collect();
    let expected: Vec<&str> = want["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let deprecated = |text: &&str| !text.contains("v1 Endpoints is deprecated");
    let expected: Vec<&str> = expected.into_iter().filter(deprecated).collect();
    if shown.len() != expected.len() || shown.iter().zip(&expected).any(|(a, b)| !fits(b, &hide_namespace(a))) {
        out.push(format!("warnings {expected:?} expected, {shown:?} given"));
    }
    out
}

fn differ(want: &Value, got: &Value, at: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let key_there = hide_namespace(key);
                // Versions and uids are the store's.
                if ["resourceVersion", "uid"].contains(&key.as_str()) {
                    continue;
                }
                let known = |k: &str| k == key || hide_namespace(k) == *key || hide_uid(k) == *key;
                let found = b.iter().find(|(k, _)| known(k)).map(|(_, v)| v);
                if !a.contains_key(key) && a.contains_key(&hide_uid(key)) {
                    continue;
                }
                match (a.get(key).or(a.get(&key_there)), found) {
                    (Some(a), Some(b)) => differ(a, b, &format!("{at}/{key}"), out),
                    (a, b) => out.push(format!("{at}/{key}: {a:?} expected, {b:?} given")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| differ(a, b, &format!("{at}/{i}"), out));
        }
        (Value::String(a), Value::String(b)) if fits(a, &hide_namespace(b)) => {}
        (Value::String(a), Value::Number(_)) if a == "<nodePort>" => {}
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{at}: {a} expected, {b} given")),
    }
}

/// Whether a text fits one with placeholders like `<time>`: those stand for anything.
fn fits(want: &str, got: &str) -> bool {
    const HOLES: &[&str] = &[
        "<time>",
        "<microtime>",
        "<uid>",
        "<clusterIP>",
        "<nodePort>",
        "<age>",
        "<x>",
        "<diff>",
        "<detail>",
        "<rv>",
        "<rv first>",
        "<rv same>",
        "<rv newer>",
    ];
    let mut parts = vec![want.to_owned()];
    for hole in HOLES {
        parts = parts.iter().flat_map(|part| part.split(hole).map(str::to_owned).collect::<Vec<_>>()).collect();
    }
    let mut rest = got;
    for (i, part) in parts.iter().enumerate() {
        let part = if i + 1 < parts.len() { part.trim_end() } else { part.as_str() };
        let found = if i == 0 { rest.starts_with(part).then_some(0) } else { rest.find(part) };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || want.ends_with('>') && parts.last().is_some_and(String::is_empty)
}
