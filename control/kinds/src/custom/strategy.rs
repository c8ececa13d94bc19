//! The behaviour that all custom kinds share. Upstream: apiextensions-apiserver `pkg/registry/customresource`.

use std::sync::OnceLock;

use bytes::Bytes;
use kontiki_machinery::{
    FieldErrorKind,
    conversion::Conversion,
    schema::structural::{self, Structural},
    table::Cell,
};
use serde_json::Value;

use super::{
    columns::Columns,
    rules::{self, Rules},
};
use crate::{
    Bad, FieldError, Strategy, meta,
    rows::{
        scale::at,
        value::{carry_generation, copy, fields, get, list, set_generation, unset},
    },
};

/// A version of a custom kind.
pub(super) struct Custom {
    /// Name of the definition, and the definition as it is stored.
    pub definition: (String, Bytes),
    pub schema: Structural,
    /// That of the version in which objects are stored, where it is another one.
    pub stored: Option<Structural>,
    /// Who converts between the versions.
    pub conversion: Option<Conversion>,
    /// Whether the status is a part of its own.
    pub status: bool,
    /// Where the counts are that a Scale shows: the wished one, the one that there is.
    pub scale: Option<[Vec<String>; 2]>,
    /// Where the text is that selects pods; empty: nowhere.
    pub selector: Vec<String>,
    pub columns: Columns,
    pub rules: OnceLock<Option<Rules>>,
}

/// What there is of an object beside its metadata.
fn content(obj: &Value) -> impl Iterator<Item = (&String, &Value)> {
    obj.as_object().into_iter().flatten().filter(|(name, _)| *name != "metadata")
}

impl Strategy for Custom {
    fn default(&self, obj: &mut Value) {
        self.schema.default(obj);
    }

    fn prepare_create(&self, obj: &mut Value) {
        if self.status {
            unset(obj, "status");
        }
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            return keep_all_but_status(new, old);
        }
        if self.status {
            match old.get("status") {
                Some(status) => fields(new).insert("status".into(), status.clone()),
                None => fields(new).remove("status"),
            };
        }
        let changed = !content(new).eq(content(old));
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let node = self.schema.node();
        let mut errors = structural::judge(node, obj, None, "");
        errors.extend(self.judge_spec_count(obj));
        errors.extend(self.judge_status_count(obj));
        errors.extend(structural::judge_embedded(node, obj));
        errors.extend(structural::judge_lists(node, obj));
        self.judge_rules(&mut errors, obj, None);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let node = self.schema.node();
        let mut errors = Vec::new();
        if sub == Some("status") {
            // Only what is new is judged.
            if let (Some(inner), Some(status)) = (node.at("status"), new.get("status")) {
                errors.extend(structural::judge(inner, status, old.get("status"), "status"));
            }
        } else {
            errors.extend(structural::judge(node, new, Some(old), ""));
            errors.extend(self.judge_spec_count(new));
        }
        errors.extend(self.judge_status_count(new));
        errors.extend(structural::judge_embedded(node, new));
        if structural::judge_lists(node, old).is_empty() {
            errors.extend(structural::judge_lists(node, new));
        }
        self.judge_rules(&mut errors, new, Some(old));
        errors
    }

    fn any_finalizers(&self) -> bool {
        true
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers = |obj: &Value| -> Vec<String> {
            let all = list(get(obj, "metadata"), "finalizers").iter().filter_map(Value::as_str);
            all.map(str::to_owned).collect()
        };
        let known = old.map(finalizers).unwrap_or_default();
        let mut new = finalizers(obj);
        new.retain(|name| !known.contains(name));
        new.sort();
        new.dedup();
        new.iter().flat_map(|name| unwise(name)).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Option<Value> {
        Some(self.columns.definitions())
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        self.columns.cells(obj)
    }

    fn defined_by(&self) -> Option<(&str, &Bytes)> {
        Some((&self.definition.0, &self.definition.1))
    }

    fn conversion(&self) -> Option<&Conversion> {
        self.conversion.as_ref()
    }

    fn to_storage(&self, obj: &mut Value) {
        settle(self.stored.as_ref(), obj);
    }

    fn from_storage(&self, obj: &mut Value) {
        settle(Some(&self.schema), obj);
    }
}

/// Brings an object into the form of a version.
fn settle(schema: Option<&Structural>, obj: &mut Value) {
    if let Some(schema) = schema {
        schema.normalize(obj);
        schema.default(obj);
    }
}

/// An update of the status changes nothing else, but who owns what of it.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (status, mut owned) = (new.get("status").cloned(), old.clone());
    match status {
        Some(status) => fields(&mut owned).insert("status".into(), status),
        None => fields(&mut owned).remove("status"),
    };
    if let Some(metadata) = owned.get_mut("metadata") {
        copy(metadata, get(new, "metadata"), "managedFields");
    }
    *new = owned;
}

/// What is unwise of a finalizer's name.
fn unwise(name: &str) -> Vec<String> {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let shown = |why: &str| format!("metadata.finalizers: \"{name}\": {why}");
    let mut out: Vec<String> = meta::qualified_name(name).iter().map(|why| shown(why)).collect();
    if !name.contains('/') && !STANDARD.contains(&name) {
        out.push(shown(
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
        ));
    }
    out
}

/// How Go calls what a value is.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `.spec.replicas` of the names on the way.
fn shown(place: &[String]) -> String {
    place.iter().map(|name| format!(".{name}")).collect()
}

/// What is wrong with a count at a place.
fn judge_count(obj: &Value, place: &[String]) -> Option<FieldError> {
    let (value, path) = (at(obj, place), shown(place));
    let count = match value {
        Value::Null => 0,
        Value::Number(number) if number.is_i64() => number.as_i64().unwrap_or_default(),
        other => {
            let why =
                format!("{path} accessor error: {} is of the type {}, expected int64", plain(other), go_type(other));
            return Some(FieldError::invalid(path, 0, why));
        }
    };
    match count {
        ..0 => Some(FieldError::invalid(path, count, "should be a non-negative integer")),
        count if count > i64::from(i32::MAX) => {
            Some(FieldError::invalid(path, count, format!("should be less than or equal to {}", i32::MAX)))
        }
        _ => None,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What keeps rules from being asked.
fn blocks(error: &FieldError) -> bool {
    use FieldErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

impl Custom {
    fn judge_spec_count(&self, obj: &Value) -> Option<FieldError> {
        let [spec, _] = self.scale.as_ref()?;
        judge_count(obj, spec)
    }

    fn judge_status_count(&self, obj: &Value) -> Vec<FieldError> {
        let Some([_, status]) = &self.scale else { return Vec::new() };
        let mut errors: Vec<FieldError> = judge_count(obj, status).into_iter().collect();
        let selector = at(obj, &self.selector);
        if !self.selector.is_empty() && !selector.is_null() && !selector.is_string() {
            let (path, found) = (shown(&self.selector), go_type(selector));
            let why = format!("{path} accessor error: {} is of the type {found}, expected string", plain(selector));
            errors.push(FieldError::invalid(path, "", why));
        }
        errors
    }

    fn judge_rules(&self, errors: &mut Vec<FieldError>, obj: &Value, old: Option<&Value>) {
        if !self.schema.node().ruled {
            return;
        }
        if errors.iter().any(blocks) {
            const UNASKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Bad::Json(Value::Null), UNASKED));
        } else if let Some(rules) = self.rules.get_or_init(|| rules::compile(&self.schema)) {
            errors.extend(rules.judge(obj, old));
        }
    }
}
