//! Objects within objects (`x-kubernetes-embedded-resource`): their type and metadata. Upstream:
//! apiextensions-apiserver `pkg/apiserver/schema/objectmeta/validation.go`.

use serde_json::{Map, Value};

use super::Node;
use super::fit::object_meta;
use crate::{FieldError, Path, meta};

/// What is wrong with objects within an object. The object itself is not judged.
#[must_use]
pub fn judge_embedded(node: &Node, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(&mut errors, node, value, &Path::new(""), true);
    errors
}

fn walk(errors: &mut Vec<FieldError>, node: &Node, value: &Value, path: &Path, root: bool) {
    match value {
        Value::Object(map) => {
            if node.embedded && !root {
                judge(errors, map, value, path);
            }
            for (name, inner) in map {
                if let Some(below) = node.property(name) {
                    walk(errors, below, inner, &path.child(name), false);
                } else if let Some(below) = node.other() {
                    walk(errors, below, inner, &path.key(name), false);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                items.iter().enumerate().for_each(|(i, item)| walk(errors, below, item, &path.index(i), false));
            }
        }
        _ => {}
    }
}

fn judge(errors: &mut Vec<FieldError>, map: &Map<String, Value>, value: &Value, path: &Path) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match map.get(name) {
            None => errors.push(FieldError::required(at, "")),
            Some(Value::String(text)) if text.is_empty() => errors.push(FieldError::required(at, "")),
            Some(Value::String(text)) => errors.extend(judge_name(name, text, at)),
            Some(other) => errors.push(FieldError::invalid(at, other.clone(), "must be a string")),
        }
    }
    let Some(metadata) = map.get("metadata") else { return };
    let at = path.child("metadata");
    if let Some(error) = object_meta().and_then(|schema| schema.check(metadata).error) {
        errors.push(FieldError::invalid(at, metadata.clone(), error.to_string()));
        return;
    }
    let mut metadata = value["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        // Something has to be there, or that would be found.
        fields.entry("name").or_insert_with(|| "fakename".into());
    }
    let namespaced = metadata["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty());
    errors.extend(meta::validate_meta_at(&metadata, namespaced, &meta::name_is_path_segment, &at));
}

fn judge_name(name: &str, text: &str, at: Path) -> Option<FieldError> {
    if name == "apiVersion" {
        return (text.matches('/').count() > 1)
            .then(|| FieldError::invalid(at, text, format!("unexpected GroupVersion string: {text}")));
    }
    let problems = meta::dns1035_label(&text.to_lowercase());
    let why = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
    (!problems.is_empty()).then(|| FieldError::invalid(at, text, why))
}
