//! Version 2 documents of several servers as one (kube-openapi, `pkg/aggregator`).
//!
//! Invariants
//! - What is there stays as it is: a path that another server has as well is left out, a definition of the same name that
//!   says something else gets another name (`_v2`, …), and so do references to it.
//! - Nothing is believed of what is merged: what is no document adds nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde_json::{Map, Value, json};

/// Kinds that a definition is of: those of a definition that is the same elsewhere are joined.
const KINDS: &str = "x-kubernetes-group-version-kind";
/// Parts of a document that others refer to.
const SECTIONS: [&str; 2] = ["definitions", "parameters"];

/// Narrows a document to the paths that `keep` says, and takes out the definitions that others alone used.
pub fn narrow(document: &mut Value, keep: impl Fn(&str) -> bool) {
    let before = used(document);
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        paths.retain(|path, _| keep(path));
    }
    let after = used(document);
    if let Some(definitions) = document.get_mut("definitions").and_then(Value::as_object_mut) {
        definitions.retain(|name, _| after.contains(name) || !before.contains(name));
    }
}

/// Adds a document to another.
pub fn merge(into: &mut Value, mut document: Value) {
    let known: BTreeSet<String> = section(into, "paths").keys().cloned().collect();
    if section(&document, "paths").keys().any(|path| known.contains(path)) {
        narrow(&mut document, |path| !known.contains(path));
    }
    if section(&document, "paths").is_empty() {
        return;
    }
    for name in SECTIONS {
        let renames = renames(section(into, name), section(&document, name));
        rename(&mut document, name, &renames);
        let added = std::mem::take(&mut document[name]);
        add(into, name, added);
    }
    let paths = std::mem::take(&mut document["paths"]);
    add(into, "paths", paths);
}

/// A part of a document; empty if there is none.
fn section<'a>(document: &'a Value, name: &str) -> &'a Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    document.get(name).and_then(Value::as_object).unwrap_or(&NONE)
}

fn add(into: &mut Value, name: &str, added: Value) {
    let (Some(fields), Value::Object(added)) = (into.as_object_mut(), added) else { return };
    let slot = fields.entry(name).or_insert_with(|| json!({}));
    let Some(known) = slot.as_object_mut() else { return };
    for (key, value) in added {
        match known.get_mut(&key) {
            Some(same) => join_kinds(same, &value),
            None => drop(known.insert(key, value)),
        }
    }
}

/// Adds the kinds of a definition to those of another that says the same.
fn join_kinds(known: &mut Value, other: &Value) {
    let Some(added) = other.get(KINDS).and_then(Value::as_array) else { return };
    let mut kinds = known.get(KINDS).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = kinds.len();
    for kind in added {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
    if let Some(fields) = known.as_object_mut().filter(|_| kinds.len() > before) {
        kinds.sort_by_key(|kind| ["group", "version", "kind"].map(|part| kind[part].as_str().map(str::to_owned)));
        fields.insert(KINDS.to_owned(), kinds.into());
    }
}

/// Whether two definitions say the same, but for the kinds that they are of.
fn same(a: &Value, b: &Value) -> bool {
    let fields = |value: &Value| -> Option<Vec<(String, Value)>> {
        let fields = value.as_object()?.iter().filter(|(name, _)| *name != KINDS);
        Some(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    a == b || fields(a).is_some_and(|a| Some(a) == fields(b))
}

/// New names of what is called as something else already.
fn renames(known: &Map<String, Value>, added: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (name, value) in added {
        if known.get(name).is_none_or(|existing| same(existing, value)) {
            continue;
        }
        let mut names = (2..).map(|number| format!("{name}_v{number}"));
        let free = names.find(|other| match known.get(other) {
            Some(existing) => same(existing, value),
            None => !added.contains_key(other) && !taken.contains(other),
        });
        let free = free.expect("there are more numbers than names");
        taken.insert(free.clone());
        found.insert(name.clone(), free);
    }
    found
}

fn rename(document: &mut Value, name: &str, renames: &BTreeMap<String, String>) {
    if renames.is_empty() {
        return;
    }
    let prefix = format!("#/{name}/");
    refer(document, &mut |reference| {
        let new = reference.strip_prefix(&prefix).and_then(|old| renames.get(old));
        if let Some(new) = new {
            *reference = format!("{prefix}{new}");
        }
    });
    if let Some(Value::Object(fields)) = document.get_mut(name).map(std::mem::take) {
        let renamed = |name: String| renames.get(&name).cloned().unwrap_or(name);
        document[name] = fields.into_iter().map(|(name, value)| (renamed(name), value)).collect::<Map<_, _>>().into();
    }
}

/// Shows each reference in a value.
fn refer(value: &mut Value, see: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(reference) if name == "$ref" => see(reference),
                    other => refer(other, see),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, see)),
        _ => {}
    }
}

/// Names of the definitions that are used, directly or by others.
fn used(document: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<&Value> =
        ["paths", "parameters", "responses"].iter().filter_map(|part| document.get(part)).collect();
    let definitions = section(document, "definitions");
    while let Some(value) = todo.pop() {
        match value {
            Value::Object(fields) => {
                let name =
                    fields.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/definitions/"));
                if let Some(name) = name.filter(|name| !found.contains(*name)) {
                    found.insert(name.to_owned());
                    todo.extend(definitions.get(name));
                }
                todo.extend(fields.values());
            }
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(name: &str) -> Value {
        json!({"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{name}")}}}}})
    }

    fn kind(kind: &str) -> Value {
        json!({"group": "g", "version": "v", "kind": kind})
    }

    #[test]
    fn a_document_is_narrowed_to_paths_and_what_they_use() {
        let mut document = json!({
        "paths": {"/apis/g/v/a": uses("A"), "/apis/g/v2/b": uses("B"), "/version": uses("C")},
        "definitions": {
            "A": {"properties": {"d": {"items": {"$ref": "#/definitions/D"}}}},
            "B": {"properties": {"d": {"$ref": "#/definitions/D"}, "self": {"$ref": "#/definitions/B"}}},
            "C": {}, "D": {}, "Free": {},
        }});
        narrow(&mut document, |path| path.starts_with("/apis/g/v/"));
        let names = |part: &str| section(&document, part).keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!((&*names("paths"), &*names("definitions")), ("/apis/g/v/a", "A D Free"));
    }

    #[test]
    fn what_is_there_stays_and_what_comes_fits_in() {
        let mut into = json!({"swagger": "2.0", "paths": {"/a": uses("A")}, "definitions": {
            "A": {"type": "string"},
            "B": {"type": "object", KINDS: [kind("B")]},
            "C": {"type": "integer"},
            "C_v2": {"type": "number"},
            "D": {},
        }});
        let document = json!({"swagger": "2.0", "info": {"title": "other"},
            "paths": {"/a": uses("Lost"), "/b": uses("B"), "/c": uses("C"), "/d": uses("D"), "/n": uses("New")},
            "definitions": {
                "Lost": {},
                "B": {"type": "object", KINDS: [kind("A"), kind("B")]},
                "C": {"type": "boolean", "properties": {"self": {"$ref": "#/definitions/C"}}},
                "D": {"type": "boolean"},
                "New": {"allOf": [{"$ref": "#/definitions/C"}]},
            },
            "parameters": {"p": {"name": "p"}}});
        merge(&mut into, document);
        let expect = json!({"swagger": "2.0",
            "paths": {"/a": uses("A"), "/b": uses("B"), "/c": uses("C_v3"), "/d": uses("D_v2"), "/n": uses("New")},
            "definitions": {
                "A": {"type": "string"},
                "B": {"type": "object", KINDS: [kind("A"), kind("B")]},
                "C": {"type": "integer"},
                "C_v2": {"type": "number"},
                "C_v3": {"type": "boolean", "properties": {"self": {"$ref": "#/definitions/C_v3"}}},
                "D": {},
                "D_v2": {"type": "boolean"},
                "New": {"allOf": [{"$ref": "#/definitions/C_v3"}]},
            },
            "parameters": {"p": {"name": "p"}}});
        assert_eq!(into, expect);
        // Once more under other paths: what got a name goes by it.
        let again = json!({"paths": {"/e": uses("D")}, "definitions": {"D": {"type": "boolean"}}});
        merge(&mut into, again);
        assert_eq!((&into["paths"]["/e"], into["definitions"].get("D_v3")), (&uses("D_v2"), None));
    }

    #[test]
    fn what_is_no_document_adds_nothing() {
        for document in [
            json!(null),
            json!([]),
            json!("x"),
            json!({}),
            json!({"paths": {}}),
            json!({"paths": 5, "definitions": {"A": {}}}),
            json!({"definitions": {"A": {}}}),
        ] {
            let mut into = json!({"paths": {"/a": {}}, "definitions": {}});
            let before = into.clone();
            merge(&mut into, document.clone());
            assert_eq!(into, before, "{document}");
        }
        let mut into = json!({"paths": {}});
        merge(&mut into, json!({"paths": {"/a": {"$ref": 5}}, "definitions": [1], "parameters": "p"}));
        assert_eq!(into, json!({"paths": {"/a": {"$ref": 5}}}));
    }
}
