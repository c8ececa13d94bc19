//! What upstream says of objects of custom kinds (`libraries/crd.jsonl` of the recorded answers): schemas, defaults and
//! rules, asked of the rows that definitions become.

#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
#[path = "../../../chaos-tests/src/ratchet.rs"]
mod ratchet;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use kontiki_kinds::{
    ResourceDef,
    custom::{DEFINITIONS, Definitions},
};
use kontiki_machinery::{Registry, Source};
use kontiki_model::ObjectKey;
use serde_json::{Value, json};

/// Where we differ, and why.
const ON_PURPOSE: &[(&str, &str)] = &[
    ("K2d", "later versions of upstream count multiples as we do"),
    ("K5b", WHOLE),
    ("W9", WHOLE),
    ("F1", WHOLE),
    ("F4", WHOLE),
    ("F5", WHOLE),
    ("F6", WHOLE),
    ("K19", "such a definition is refused"),
    ("K20", "such a definition is refused"),
    ("W12", "what is as it was is not held against an update, which was recorded without that"),
    ("D14", "rules are not asked about an object that is wrong anyway, which was recorded without that"),
    ("RH_in", "after `.in` upstream's parser goes on, and finds more to say"),
];

const WHOLE: &str = "1.0 of an integer is kept as 1";

fn cases() -> Option<Vec<Value>> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this")).join("../..");
    let dir = ratchet::recorded(&root).unwrap_or_else(|missing| panic!("{missing}"))?;
    let text = std::fs::read_to_string(dir.join("libraries/crd.jsonl")).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn row(schema: &Value) -> Option<Arc<ResourceDef>> {
    let names = json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
        "status": {"acceptedNames": names, "conditions": [{"type": "Established", "status": "True"}]},
    });
    let (source, registry) = (Definitions::default(), Registry::new(Vec::new()));
    let key = ObjectKey::new(DEFINITIONS, None, "foos.example.com");
    source.changed(&key, Some(Bytes::from(definition.to_string())));
    source.settle(&registry);
    registry.table().find("example.com", "v1", "foos").cloned()
}

fn verdict(case: &Value) -> String {
    let row = row(&case["schema"]).expect("it is served");
    let settled = |object: &Value| {
        let mut object = object.clone();
        row.schema.normalize(&mut object);
        row.strategy.default(&mut object);
        object
    };
    let object = settled(&case["object"]);
    let found = match &case["old"] {
        Value::Null => row.strategy.validate(&object),
        old => row.strategy.validate_update(&object, &settled(old), None),
    };
    if found.is_empty() {
        return "valid".to_owned();
    }
    found.iter().map(|error| error.to_string().replace('\n', " ⏎ ")).collect::<Vec<_>>().join(" | ")
}

/// Without the number that upstream gives a type, another one each time.
fn unnumbered(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split("selfType").enumerate() {
        let part = if i == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
        out += if i == 0 { "" } else { "selfType" };
        out += part;
    }
    out
}

#[test]
fn objects_of_custom_kinds_are_judged_as_upstream_judges_them() {
    let Some(cases) = cases() else { return };
    let mut wrong = Vec::new();
    for case in &cases {
        let (id, upstream) = (case["id"].as_str().unwrap(), unnumbered(case["upstream"].as_str().unwrap()));
        let (got, known) = (verdict(case), ON_PURPOSE.iter().any(|(known, _)| *known == id));
        if (got == upstream) == known {
            wrong.push(format!("{id} {}\n  upstream {upstream}\n  we       {got}", case["schema"]));
        }
    }
    assert!(cases.len() > 200 && wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
