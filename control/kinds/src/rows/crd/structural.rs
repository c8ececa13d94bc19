//! Structural schemas (KEP-1693): each field has one type, outside of all logic.

use serde_json::{Value, json};

use crate::{
    FieldError, Path,
    rows::{
        value::{entries, get, has, list, on, some, text},
        vocab::Errors,
    },
    schema::check_pattern,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// What keeps a schema from being structural, sorted as upstream sorts it.
pub(super) fn check(path: &Path, root: &Value) -> Errors {
    let mut errs = Errors::new();
    check_schema(&mut errs, path, root, Level::Root);
    check_complete(&mut errs, path, path, root, root);
    errs.sort_by_key(ToString::to_string);
    errs
}

fn check_schema(errs: &mut Errors, path: &Path, schema: &Value, level: Level) {
    let (kind, items) = (text(schema, "type"), get(schema, "items"));
    if kind == "array" && items.is_null() {
        errs.push(FieldError::required(path.child("items"), "must be specified"));
    }
    if items.is_object() {
        check_schema(errs, &path.child("items"), items, Level::Item);
    }
    for (key, inner) in entries(schema, "properties") {
        check_schema(errs, &path.child("properties").key(key), inner, Level::Field);
    }
    let additional = path.child("additionalProperties");
    if has(schema, "additionalProperties") && level == Level::Root {
        errs.push(FieldError::forbidden(&additional, "must not be used at the root"));
    }
    if let Some(inner) = some(schema, "additionalProperties").filter(|inner| inner.is_object()) {
        check_schema(errs, &additional, inner, Level::Field);
    }
    for extension in [PRESERVE, EMBEDDED] {
        if on(schema, INT_OR_STRING) && on(schema, extension) {
            let message = "must be false if x-kubernetes-int-or-string is true";
            errs.push(FieldError::invalid(path.child(extension), true, message));
        }
    }
    check_logic(errs, path, schema, is_either(get(schema, "anyOf")), is_either(get(&first(schema), "anyOf")));
    check_type(errs, path, schema, level);
    check_meta(errs, path, schema, level);
    if on(schema, EMBEDDED) && !on(schema, PRESERVE) && entries(schema, "properties").next().is_none() {
        let message =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errs.push(FieldError::required(path.child("properties"), message));
    }
}

/// The first of `allOf`.
fn first(schema: &Value) -> Value {
    list(schema, "allOf").first().cloned().unwrap_or_default()
}

/// Whether these are the two that say "integer or string".
fn is_either(choices: &Value) -> bool {
    choices == &json!([{"type": "integer"}, {"type": "string"}])
}

fn check_type(errs: &mut Errors, path: &Path, schema: &Value, level: Level) {
    let (at, kind) = (path.child("type"), text(schema, "type"));
    if on(schema, EMBEDDED) && kind != "object" {
        let message = "must be object if x-kubernetes-embedded-resource is true";
        errs.push(if kind.is_empty() {
            FieldError::required(&at, message)
        } else {
            FieldError::invalid(&at, kind, message)
        });
    } else if kind.is_empty() && !on(schema, INT_OR_STRING) && !on(schema, PRESERVE) {
        let message = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errs.push(FieldError::required(&at, message));
    }
    if on(schema, EMBEDDED) && has(schema, "additionalProperties") {
        let message = "must not be used if x-kubernetes-embedded-resource is set";
        errs.push(FieldError::forbidden(path.child("additionalProperties"), message));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errs.push(FieldError::invalid(at, kind, "must be object at the root"));
    }
}

/// The fields that every object has.
fn check_meta(errs: &mut Errors, path: &Path, schema: &Value, level: Level) {
    let (properties, path) = (get(schema, "properties"), path.child("properties"));
    let whole = level == Level::Root || on(schema, EMBEDDED);
    for (field, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(inner) = some(properties, field).filter(|_| whole) else { continue };
        if text(inner, "type") != wanted {
            let at = path.key(field).child("type");
            errs.push(FieldError::invalid(at, text(inner, "type"), format!("must be {wanted}")));
        }
    }
    if level == Level::Root && some(properties, "metadata").is_some_and(says_too_much) {
        let message =
            "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errs.push(FieldError::forbidden(path.key("metadata"), message));
    }
}

fn says_too_much(metadata: &Value) -> bool {
    let names = entries(metadata, "properties").all(|(key, _)| ["name", "generateName"].contains(&key.as_str()));
    !names
        || metadata.as_object().into_iter().flatten().any(|(key, value)| {
            !["type", "default", "properties"].contains(&key.as_str()) && value != &json!(false) && !value.is_null()
        })
}

/// What restricts values: may say nothing of structure. `either` and `first_either`: the choice of an integer or a
/// string that is excepted.
fn check_logic(errs: &mut Errors, path: &Path, schema: &Value, either: bool, first_either: bool) {
    for (field, skip) in [("anyOf", either), ("allOf", false), ("oneOf", false)] {
        for (i, inner) in list(schema, field).iter().enumerate().filter(|_| !skip) {
            check_nested(errs, &path.child(field).index(i), inner, field == "allOf" && i == 0 && first_either);
        }
    }
    if let Some(inner) = some(schema, "not") {
        check_nested(errs, &path.child("not"), inner, false);
    }
    let pattern = text(schema, "pattern");
    if let Err(why) = check_pattern(pattern) {
        let message = format!("must be a valid regular expression, but isn't: {why}");
        errs.push(FieldError::invalid(path.child("pattern"), pattern, message));
    }
}

/// Fields that say something of structure, and what they must be within logic.
const STRUCTURE: &[(&str, &str)] = &[
    ("type", "empty"),
    ("additionalProperties", "undefined"),
    ("default", "undefined"),
    ("title", "empty"),
    ("description", "empty"),
    ("nullable", "false"),
    (PRESERVE, "false"),
    (EMBEDDED, "false"),
    (INT_OR_STRING, "false"),
    ("x-kubernetes-list-map-keys", "empty"),
    ("x-kubernetes-list-type", "undefined"),
    ("x-kubernetes-map-type", "undefined"),
    ("x-kubernetes-validations", "empty"),
];

fn check_nested(errs: &mut Errors, path: &Path, schema: &Value, either: bool) {
    check_logic(errs, path, schema, either, false);
    if get(schema, "items").is_object() {
        check_nested(errs, &path.child("items"), get(schema, "items"), false);
    }
    for (key, inner) in entries(schema, "properties") {
        check_nested(errs, &path.child("properties").key(key), inner, false);
    }
    for (field, wanted) in STRUCTURE {
        let said = get(schema, field);
        if !said.is_null() && said != &json!(false) && said != &json!("") && said != &json!([]) {
            errs.push(FieldError::forbidden(path.child(field), format!("must be {wanted} to be structural")));
        }
    }
    if has(get(schema, "properties"), "metadata") {
        let message = "must not be specified in a nested context";
        errs.push(FieldError::forbidden(path.child("properties").key("metadata"), message));
    }
}

/// What logic at the root speaks of must be specified outside of it as well. Upstream looks at no other logic.
fn check_complete(errs: &mut Errors, path: &Path, main: &Path, schema: &Value, logic: &Value) {
    for field in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in list(logic, field).iter().enumerate() {
            check_specified(errs, &path.child(field).index(i), main, schema, inner);
        }
    }
    if let Some(inner) = some(logic, "not") {
        check_specified(errs, &path.child("not"), main, schema, inner);
    }
}

fn check_specified(errs: &mut Errors, path: &Path, main: &Path, schema: &Value, logic: &Value) {
    check_complete(errs, path, main, schema, logic);
    let mut missing = |main: Path, said: Path| {
        errs.push(FieldError::required(main, format!("because it is defined in {said}")));
    };
    let mut deeper = Vec::new();
    if get(logic, "items").is_object() {
        let (main, said) = (main.child("items"), path.child("items"));
        match some(schema, "items") {
            None => missing(main, said),
            Some(inner) => deeper.push((said, main, inner, get(logic, "items"))),
        }
    }
    for (key, inner) in entries(logic, "properties") {
        let (at, said) = (main.child("properties").key(key), path.child("properties").key(key));
        match some(get(schema, "properties"), key) {
            None => missing(at, said),
            Some(outer) => deeper.push((said, at, outer, inner)),
        }
    }
    for (said, main, outer, inner) in deeper {
        check_specified(errs, &said, &main, outer, inner);
    }
}
