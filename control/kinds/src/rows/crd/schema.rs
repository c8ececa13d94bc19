//! OpenAPI schemas of custom kinds: what of OpenAPI may be used, and how the extensions go together.

use serde_json::{Value, json};

use super::{Tolerated, rules, structural};
use crate::{
    FieldError, Path,
    expressions::paths,
    rows::{
        value::{entries, get, has, list, on, some, text, texts},
        vocab::Errors,
    },
};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const MAP_KEYS: &str = "x-kubernetes-list-map-keys";

/// How a schema is judged.
pub(super) struct Options<'a> {
    /// Whether the status is a part of its own.
    pub status: bool,
    /// Whether the schema must be structural.
    pub structural: bool,
    pub tolerated: &'a Tolerated,
}

/// The schemas right below one, with where they stand.
fn below<'a>(schema: &'a Value, path: &Path) -> Vec<(Path, &'a Value)> {
    let mut found = Vec::new();
    if let Some(inner) = some(schema, "additionalProperties").filter(|inner| inner.is_object()) {
        found.push((path.child("additionalProperties"), inner));
    }
    let map = |field: &str| {
        entries(schema, field).map(|(key, inner)| (path.child(field).key(key), inner)).collect::<Vec<_>>()
    };
    found.extend(map("properties"));
    found.extend(some(schema, "not").map(|inner| (path.child("not"), inner)));
    for field in ["allOf", "oneOf", "anyOf"] {
        found.extend(list(schema, field).iter().enumerate().map(|(i, inner)| (path.child(field).index(i), inner)));
    }
    found.extend(map("definitions"));
    match get(schema, "items") {
        Value::Array(items) => {
            found.extend(items.iter().enumerate().map(|(i, inner)| (path.child("items").index(i), inner)));
        }
        Value::Null => {}
        inner => found.push((path.child("items"), inner)),
    }
    found.extend(map("dependencies").into_iter().filter(|(_, inner)| inner.is_object()));
    found
}

/// Looks at a schema and all below it.
pub(super) fn each(schema: &Value, look: &mut impl FnMut(&Value)) {
    look(schema);
    for (_, inner) in below(schema, &Path::new("")) {
        each(inner, look);
    }
}

/// Whether something holds for a schema of these, or for one below.
pub(super) fn any(schemas: &[&Value], holds: impl Fn(&Value) -> bool) -> bool {
    let mut found = false;
    schemas.iter().for_each(|schema| each(schema, &mut |schema| found |= holds(schema)));
    found
}

pub(super) fn has_unknown_type(schema: &Value) -> bool {
    let kind = text(schema, "type");
    !kind.is_empty() && !TYPES.contains(&kind)
}

/// Whether a set has items of which parts may be owned.
pub(super) fn is_loose_set(schema: &Value) -> bool {
    let items = get(schema, "items");
    text(schema, LIST_TYPE) == "set" && items.is_object() && loose_item(items).is_some()
}

/// The extension that an item of a set lacks.
fn loose_item(items: &Value) -> Option<&'static str> {
    match text(items, "type") {
        "array" if ![Some("atomic"), None].contains(&get(items, LIST_TYPE).as_str()) => Some(LIST_TYPE),
        "object" if text(items, MAP_TYPE) != "atomic" => Some(MAP_TYPE),
        _ => None,
    }
}

pub(super) fn has_loose_keys(schema: &Value) -> bool {
    let mut errs = Errors::new();
    check_keys(&mut errs, &Path::new(""), schema);
    !errs.is_empty()
}

/// The schema of the field at a path like `.spec.color`.
///
/// # Errors
/// There is none.
pub(super) fn follow<'a>(root: &'a Value, path: &str) -> Result<&'a Value, String> {
    paths::follow(root, path, false).map(|(_, schema)| schema)
}

/// Judges the schema of a version, as a whole.
pub(super) fn check(errs: &mut Errors, path: &Path, root: &Value, options: &Options<'_>) {
    if options.status {
        check_root(errs, path, root);
    }
    if on(root, "nullable") {
        errs.push(FieldError::forbidden(path.child("nullable"), "nullable cannot be true at the root"));
    }
    let (before, foreign) = (errs.len(), is_foreign(root));
    if options.structural && !foreign {
        errs.extend(structural::check(path, root));
    }
    let loose = !options.structural || foreign || errs.len() > before;
    let context = Context { options, defaults: Ok(()), in_metadata: false };
    context.check(errs, path, root, true);
    if !loose {
        let found = rules::check(path, root, options.tolerated, &errs[before..]);
        errs.extend(found);
    }
}

/// Whether a schema has what no structural one can be made from; that is found anyway.
fn is_foreign(schema: &Value) -> bool {
    any(&[schema], |schema| {
        get(schema, "items").is_array()
            || ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"]
                .iter()
                .any(|field| has(schema, field))
            || get(schema, "x-kubernetes-preserve-unknown-fields") == &json!(false)
    })
}

/// With the status apart, only what judges each field for itself may stand at the root.
fn check_root(errs: &mut Errors, path: &Path, root: &Value) {
    const ALLOWED: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
    const OTHERS: &[&str] = &[
        "default",
        "enum",
        "maxProperties",
        "minProperties",
        "allOf",
        "oneOf",
        "anyOf",
        "not",
        "additionalProperties",
        "patternProperties",
        "dependencies",
        "additionalItems",
        "definitions",
        "nullable",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        MAP_KEYS,
        LIST_TYPE,
        MAP_TYPE,
    ];
    let present = |fields: &[&str]| fields.iter().any(|field| has(root, field) && get(root, field) != &json!(false));
    let kind = text(root, "type");
    if !present(&["id", "$schema", "$ref"]) {
        if !kind.is_empty() && kind != "object" {
            let message =
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errs.push(FieldError::invalid(path.child("type"), kind, message));
            return;
        }
        if !present(OTHERS) {
            return;
        }
    }
    let message =
        format!("only {ALLOWED} fields are allowed at the root of the schema if the status subresource is enabled");
    errs.push(FieldError::invalid(path, root.clone(), message));
}

/// Where in a schema we are.
#[derive(Clone)]
struct Context<'a> {
    options: &'a Options<'a>,
    /// Whether defaults may be set, or why not.
    defaults: Result<(), String>,
    in_metadata: bool,
}

impl Context<'_> {
    fn check(&self, errs: &mut Errors, path: &Path, schema: &Value, root: bool) {
        self.check_fields(errs, path, schema);
        if on(schema, "uniqueItems") {
            let message = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errs.push(FieldError::forbidden(path.child("uniqueItems"), message));
        }
        let additional = get(schema, "additionalProperties");
        if has(schema, "properties") && (additional.is_object() || additional == &json!(false)) {
            let message = "additionalProperties and properties are mutual exclusive";
            errs.push(FieldError::forbidden(path.child("additionalProperties"), message));
        }
        for (at, inner) in below(schema, path) {
            self.within(path, &at, schema, root).check(errs, &at, inner, false);
        }
        if get(schema, "x-kubernetes-preserve-unknown-fields") == &json!(false) {
            let at = path.child("x-kubernetes-preserve-unknown-fields");
            errs.push(FieldError::invalid(at, false, "must be true or undefined"));
        }
        check_kind(errs, path, schema, MAP_TYPE, "object", &["atomic", "granular"]);
        let is_list = check_kind(errs, path, schema, LIST_TYPE, "array", &[]);
        if is_list && !self.options.tolerated.sets && text(schema, LIST_TYPE) == "set" {
            check_set(errs, path, get(schema, "items"));
        }
        check_known(errs, path, schema, LIST_TYPE, &["atomic", "set", "map"]);
        check_map(errs, path, schema);
        if !self.options.tolerated.keys {
            check_keys(errs, path, schema);
        }
        for (i, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
            check_rule(errs, &path.child("x-kubernetes-validations").index(i), rule, schema);
        }
    }

    /// What holds for the schema at `at`, right below that at `path`.
    fn within(&self, path: &Path, at: &Path, schema: &Value, root: bool) -> Self {
        let mut inner = self.clone();
        if self.in_metadata && *at == path.child("additionalProperties") {
            inner.defaults = Err(" inside additionalProperties applying to object metadata".to_owned());
        }
        if root || on(schema, "x-kubernetes-embedded-resource") {
            let own =
                ["apiVersion", "kind", "metadata"].into_iter().find(|own| *at == path.child("properties").key(own));
            inner.in_metadata |= own.is_some();
            if let Some(own) = own.filter(|_| root) {
                inner.defaults = Err(format!(" in top-level {own}"));
            }
        }
        inner
    }

    fn check_fields(&self, errs: &mut Errors, path: &Path, schema: &Value) {
        let kind = text(schema, "type");
        if let (Some(default), Ok(()), false) = (some(schema, "default"), &self.defaults, self.in_metadata) {
            let at = path.child("default");
            errs.extend(kontiki_machinery::schema::structural::judge_default(schema, default, at.as_str()));
        }
        if has_unknown_type(schema) && !self.options.tolerated.types {
            errs.push(FieldError::not_supported(path.child("type"), kind, TYPES));
        }
        let mut forbid = |field: &str, why: String| errs.push(FieldError::forbidden(path.child(field), why));
        if let (true, Err(why)) = (has(schema, "default"), &self.defaults) {
            forbid("default", format!("must not be set{why}"));
        }
        for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            if has(schema, field) {
                forbid(field, format!("{field} is not supported"));
            }
        }
        if kind == "null" {
            forbid("type", "type cannot be set to null, use nullable as an alternative".to_owned());
        }
        if get(schema, "items").is_array() {
            forbid("items", "items must be a schema object and not an array".to_owned());
        }
        if self.in_metadata && on(schema, "x-kubernetes-embedded-resource") {
            forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta".to_owned());
        }
    }
}

/// Whether an extension stands at a schema of the type that it is for.
fn check_kind(errs: &mut Errors, path: &Path, schema: &Value, extension: &str, wanted: &str, known: &[&str]) -> bool {
    if !has(schema, extension) {
        return false;
    }
    let (kind, message) = (text(schema, "type"), format!("must be {wanted} if {extension} is specified"));
    if kind.is_empty() {
        errs.push(FieldError::required(path.child("type"), message));
    } else if kind != wanted {
        errs.push(FieldError::invalid(path.child("type"), kind, message));
    }
    check_known(errs, path, schema, extension, known);
    kind == wanted
}

fn check_known(errs: &mut Errors, path: &Path, schema: &Value, extension: &str, known: &[&str]) {
    let value = text(schema, extension);
    if has(schema, extension) && !known.is_empty() && !known.contains(&value) {
        errs.push(FieldError::not_supported(path.child(extension), value, known));
    }
}

fn check_set(errs: &mut Errors, path: &Path, items: &Value) {
    if let Some(extension) = loose_item(items) {
        let message = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let shown = get(items, LIST_TYPE).clone();
        errs.push(FieldError::invalid(path.child("items").child(extension), shown, message));
    }
}

/// Lists that are maps by some keys of their items.
fn check_map(errs: &mut Errors, path: &Path, schema: &Value) {
    let (keys, items) = (texts(schema, MAP_KEYS), get(schema, "items"));
    let at = path.child(LIST_TYPE);
    match text(schema, LIST_TYPE) {
        "map" => {}
        _ if keys.is_empty() => return,
        "" => return errs.push(FieldError::required(at, format!("must be map if {MAP_KEYS} is non-empty"))),
        other => return errs.push(FieldError::invalid(at, other, format!("must be map if {MAP_KEYS} is non-empty"))),
    }
    let (at, inner) = (path.child(MAP_KEYS), path.child("items"));
    if keys.is_empty() {
        errs.push(FieldError::required(&at, format!("must not be empty if {LIST_TYPE} is map")));
    }
    match items {
        Value::Null => errs.push(FieldError::required(inner, format!("must have a schema if {LIST_TYPE} is map"))),
        Value::Array(_) => {
            let message = format!("must only have a single schema if {LIST_TYPE} is map");
            errs.push(FieldError::invalid(inner, items.clone(), message));
        }
        _ if text(items, "type") != "object" => {
            let message = format!("must be object if parent array's {LIST_TYPE} is map");
            errs.push(FieldError::invalid(inner.child("type"), text(items, "type"), message));
        }
        _ => check_map_keys(errs, path, &keys, items),
    }
}

fn check_map_keys(errs: &mut Errors, path: &Path, keys: &[&str], items: &Value) {
    let at = path.child(MAP_KEYS);
    for (i, key) in keys.iter().enumerate() {
        match some(get(items, "properties"), key) {
            None => {
                errs.push(FieldError::invalid(&at, json!(keys), "entries must all be names of item properties"));
            }
            Some(property) if ["array", "object"].contains(&text(property, "type")) => {
                let message = format!("must be a scalar type if parent array's {LIST_TYPE} is map");
                let at = path.child("items").child("properties").key(key).child("type");
                errs.push(FieldError::invalid(at, text(items, "type"), message));
            }
            Some(_) => {}
        }
        if keys[..i].contains(key) {
            errs.push(FieldError::invalid(&at, json!(keys), "must not contain duplicate entries"));
        }
    }
}

/// Items of sets and maps, and keys of maps, are always there.
fn check_keys(errs: &mut Errors, path: &Path, schema: &Value) {
    let (kind, items) = (text(schema, LIST_TYPE), get(schema, "items"));
    if !items.is_object() || !["set", "map"].contains(&kind) {
        return;
    }
    let path = path.child("items");
    if on(items, "nullable") {
        errs.push(FieldError::forbidden(
            path.child("nullable"),
            format!("cannot be nullable when {LIST_TYPE} is {kind}"),
        ));
    }
    let required = texts(items, "required");
    for key in texts(schema, MAP_KEYS).into_iter().filter(|_| kind == "map") {
        let Some(property) = some(get(items, "properties"), key) else { continue };
        let at = path.child("properties").key(key);
        if !required.contains(&key) && !has(property, "default") {
            let message =
                format!("this property is in {MAP_KEYS}, so it must have a default or be a required property");
            errs.push(FieldError::required(at.child("default"), message));
        }
        if on(property, "nullable") {
            let message = format!("this property is in {MAP_KEYS}, so it cannot be nullable");
            errs.push(FieldError::forbidden(at.child("nullable"), message));
        }
    }
}

fn check_rule(errs: &mut Errors, path: &Path, rule: &Value, schema: &Value) {
    let (text_of, blank) = (|field| text(rule, field), |text: &str| !text.is_empty() && text.trim().is_empty());
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (expression, message) = (text_of("rule").trim(), text_of("message"));
    if expression.is_empty() {
        errs.push(FieldError::required(path.child("rule"), "rule is not specified"));
    } else if blank(message) {
        errs.push(FieldError::invalid(path.child("message"), message, "must be non-empty if specified"));
    } else if breaks(message.trim()) {
        errs.push(FieldError::invalid(path.child("message"), message, "must not contain line breaks"));
    } else if breaks(expression) && message.is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errs.push(FieldError::required(path.child("message"), why));
    }
    if blank(text_of("messageExpression")) {
        let why = "messageExpression must be non-empty if specified";
        errs.push(FieldError::required(path.child("messageExpression"), why));
    }
    if has(rule, "reason") && !REASONS.contains(&text_of("reason")) {
        errs.push(FieldError::not_supported(path.child("reason"), text_of("reason"), REASONS));
    }
    let (at, field) = (path.child("fieldPath"), text_of("fieldPath"));
    if blank(field) {
        errs.push(FieldError::invalid(&at, field, "must be non-empty if specified"));
    }
    if breaks(field) {
        errs.push(FieldError::invalid(&at, field, "must not contain line breaks"));
    }
    if !field.is_empty() && paths::follow(schema, field, true).is_err() {
        errs.push(FieldError::invalid(at, field, "must be a valid path"));
    }
}
