//! Recorded answers of the libraries inside Kubernetes (`libraries/` of the recorded answers): what they make of texts,
//! quantities, times and patches, we make of them too, but for what [`ON_PURPOSE`] names.

#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
#[path = "../../../chaos-tests/src/ratchet.rs"]
mod ratchet;

use std::path::PathBuf;

use kontiki_machinery::decode::decode_yaml;
use kontiki_machinery::encode::yaml;
use kontiki_machinery::patch::{json_patch, merge_patch};
use kontiki_machinery::schema::duration::GoDuration;
use kontiki_machinery::schema::quantity::{self, Amount};
use kontiki_machinery::schema::{self, time};
use serde_json::{Value, json};

/// Where we differ for good.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("K2d", "as later versions of upstream, which allow for the precision of floats"),
    ("K5b", "1.0 is 1 as soon as it is read, as it is printed"),
    ("W12", "the recorded library was not told of the old object"),
    ("QJ2", "a number without quotes keeps its value, not its spelling: 1e3 is 1k"),
    ("quantity value=", "what does not fit 64 bits is the nearest that does; upstream's arithmetic wraps around"),
];

/// The cases of a file.
fn cases(name: &str) -> Vec<Value> {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this"));
    let Some(dir) = ratchet::recorded(&here.join("../..")).unwrap_or_else(|missing| panic!("{missing}")) else {
        return Vec::new();
    };
    let file = dir.join("libraries").join(format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Holds what `answer` says against upstream's words.
fn hold(name: &str, answer: impl Fn(&Value, &str) -> String) {
    let mut wrong = Vec::new();
    for case in cases(name) {
        let (id, input) = (case["id"].as_str().unwrap(), case["in"].as_str().unwrap_or_default());
        let (want, got) = (case["upstream"].as_str().unwrap(), answer(&case, input));
        let known = ON_PURPOSE.iter().any(|(at, _)| *at == id);
        match (want == got, known) {
            (true, false) | (false, true) => {}
            (false, false) => wrong.push(format!("{id} {input:?}\n  upstream {want}\n  we       {got}")),
            (true, true) => wrong.push(format!("{id} is equal: take it out of what differs on purpose")),
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

/// `ERR` alone, where the words are those of a decoder that is not ours.
fn without_words(want: &Value) -> &str {
    let want = want["upstream"].as_str().unwrap();
    if want.starts_with("ERR") || want.starts_with("DECODE") { want } else { "" }
}

/// A result as JSON text; for an error upstream's own text, where it is one too.
fn verdict<E: std::fmt::Debug>(case: &Value, result: Result<Value, E>) -> String {
    match result {
        // Both through one reader: the text of a float is not what is compared.
        Ok(value) => match serde_json::from_str::<Value>(case["upstream"].as_str().unwrap()) {
            Ok(want) if want == value => case["upstream"].as_str().unwrap().to_owned(),
            _ => value.to_string(),
        },
        Err(error) => match without_words(case) {
            "" => format!("ERR {error:?}"),
            text => text.to_owned(),
        },
    }
}

#[test]
fn yaml_to_json() {
    hold("yaml", |case, text| verdict(case, decode_yaml(text.as_bytes()).map(|decoded| decoded.value)));
}

#[test]
fn yaml_to_json_strictly() {
    hold("yamlstrict", |case, text| {
        let decoded = decode_yaml(text.as_bytes()).unwrap();
        if decoded.duplicates.is_empty() {
            return verdict::<()>(case, Ok(decoded.value));
        }
        format!("ERR yaml: unmarshal errors: ⏎   {}", decoded.duplicates.join(" ⏎   "))
    });
}

#[test]
fn json_to_yaml() {
    hold("toyaml", |_, text| yaml::to_text(&serde_json::from_str(text).unwrap()));
}

fn quoted(result: Result<String, String>) -> String {
    result.map_or_else(|error| format!("ERR {error}"), |text| format!("\"{text}\""))
}

#[test]
fn times() {
    hold("time", |_, text| quoted(time::seconds(text)));
    hold("microtime", |_, text| quoted(time::micros(text)));
}

#[test]
fn durations() {
    hold("dur", |_, text| match GoDuration::parse(text) {
        Ok(duration) => format!("{duration} {}ns", duration.0),
        Err(error) => format!("ERR {error}"),
    });
}

#[test]
fn quantities() {
    hold("quantity", |case, text| {
        let want = case["upstream"].as_str().unwrap();
        let canonical = match quantity::canonical(text) {
            Ok(canonical) => canonical,
            Err(error) => return format!("ERR {error}"),
        };
        let (amount, float) = (Amount::parse(text).unwrap(), want.split(" float=").nth(1).unwrap_or_default());
        let fits = |value: i64| value != i64::MAX && value != i64::MIN;
        if fits(amount.whole()) && fits(amount.milli()) {
            return format!("{canonical} value={} milli={} float={float}", amount.whole(), amount.milli());
        }
        // Out of range there: only the spelling is compared.
        match want.split_once(" value=") {
            Some((spelled, rest)) if spelled == canonical => format!("{spelled} value={rest}"),
            _ => canonical,
        }
    });
}

#[test]
fn sums_of_quantities() {
    hold("qadd", |case, text| {
        let (a, b) = (Amount::parse(text).unwrap(), Amount::parse(case["b"].as_str().unwrap()).unwrap());
        format!("add={} sub={} cmp={} equal={}", a.plus(b), a.minus(b), a.cmp(&b) as i8, a == b)
    });
}

#[test]
fn quantities_in_json() {
    let quota = schema::known("io.k8s.api.core.v1.ResourceQuotaSpec");
    hold("qjson", |_, text| {
        let mut value = json!({"hard": {"x": serde_json::from_str::<Value>(text).unwrap()}});
        if let Some(error) = quota.check(&value).error {
            return format!("ERR {error}");
        }
        quota.normalize(&mut value);
        value["hard"]["x"].to_string()
    });
}

#[test]
fn json_patches() {
    hold("jsonpatch", |case, _| {
        let mut doc = case["doc"].clone();
        let done = json_patch(&mut doc, &case["patch"]);
        verdict(case, done.map(|()| doc))
    });
}

#[test]
fn merge_patches() {
    hold("mergepatch", |case, _| {
        let mut doc = case["doc"].clone();
        let done = merge_patch(&mut doc, &case["patch"]);
        verdict(case, done.map(|()| doc))
    });
}

#[test]
fn patterns() {
    hold("regex", |case, pattern| match kontiki_regexp::compile(pattern, 4 << 20) {
        Ok(regex) => {
            let found = regex.is_match(case["text"].as_str().unwrap());
            let same = case["upstream"].as_str().unwrap().starts_with(if found { "true" } else { "false" });
            if same { case["upstream"].as_str().unwrap().to_owned() } else { found.to_string() }
        }
        Err(error) => format!("ERR {error}"),
    });
}

/// Whether a schema has rules, which are judged elsewhere.
fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key("x-kubernetes-validations") || fields.values().any(has_rules),
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

#[test]
fn objects_of_structural_schemas() {
    use schema::structural::{Structural, judge, judge_embedded, judge_lists};
    let mut wrong = Vec::new();
    for case in cases("crd").into_iter().filter(|case| !has_rules(&case["schema"])) {
        let (id, want) = (case["id"].as_str().unwrap(), case["upstream"].as_str().unwrap());
        // Definitions that are refused are judged by the rows.
        if want.starts_with("STRUCTURAL") || want.starts_with("COMPILE") {
            continue;
        }
        let source = case["schema"].clone();
        let structural = Structural::new(std::sync::Arc::new(move || source.clone()));
        let typed = schema::Schema::custom("x", structural.clone(), 0);
        let bring = |object: &Value| {
            let mut object = object.clone();
            typed.normalize(&mut object);
            structural.default(&mut object);
            object
        };
        let (new, old) = (bring(&case["object"]), case.get("old").map(bring));
        let node = structural.node();
        let mut errors = judge(node, &new, old.as_ref(), "");
        errors.extend(judge_embedded(node, &new));
        errors.extend(judge_lists(node, &new));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let got = if errors.is_empty() { "valid".to_owned() } else { errors.join(" | ") };
        let known = ON_PURPOSE.iter().any(|(at, _)| *at == id);
        if (got == want) == known {
            wrong.push(format!("{id}\n  upstream {want}\n  we       {got}"));
        }
        let stored = case["stored"].as_str().map(|text| serde_json::from_str::<Value>(text).unwrap());
        let mut expect = stored.unwrap_or_default();
        typed.normalize(&mut expect);
        if expect != new && !expect.is_null() {
            wrong.push(format!("{id}\n  stored   {expect}\n  we       {new}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
