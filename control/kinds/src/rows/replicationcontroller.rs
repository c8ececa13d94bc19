//! ReplicationControllers: the ReplicaSets of old, with a plain map for a selector.

use serde_json::{Map, Value, json};

use super::cells::Cell;
use super::template::defaults;
use super::value::{at, child, default_to, get, num, set, some_mut};
use super::vocab::{self, Errors};
use super::{replicas, scale, selector, template};
use crate::{FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["rc"]),
        categories: names(&["all"]),
        fields: names(&["status.replicas"]),
        ..ResourceDef::new(
            ("", "v1"),
            ("replicationcontrollers", "replicationcontroller", "ReplicationController"),
            "io.k8s.api.core.v1.ReplicationController",
            ReplicationControllers,
        )
    }
    .with(scale::subresource(|obj| match get(get(obj, "spec"), "selector") {
        Value::Object(labels) if !labels.is_empty() => selector::show_map(get(obj, "spec"), "selector"),
        _ => String::new(),
    }))
    .with_part("status", Verbs::PART)
}

struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        default_to(spec, "replicas", 1);
        if let Some(pod) = some_mut(spec, "template") {
            defaults::template(pod);
        }
        let labels = at(obj, &["spec", "template", "metadata", "labels"]).clone();
        if !empty(&labels) {
            if empty(at(obj, &["spec", "selector"])) {
                set(child(obj, "spec"), "selector", labels.clone());
            }
            if empty(at(obj, &["metadata", "labels"])) {
                set(child(obj, "metadata"), "labels", labels);
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        replicas::prepare_create(obj);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        replicas::prepare_update(new, old, sub);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), false);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            replicas::check_status(&mut errs, get(new, "status"));
        } else {
            check(&mut errs, get(new, "spec"), replicas::emptied(new, old));
        }
        errs
    }

    /// Its names are checked by what the type declares, which counts bytes.
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::long_name_errors(name, prefix)
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        replicas::warn(obj, old)
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn field(&self, obj: &Value, _path: &str) -> String {
        num(get(obj, "status"), "replicas").to_string()
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        replicas::row(obj, &selector::show_map(get(obj, "spec"), "selector"))
    }
}

fn empty(labels: &Value) -> bool {
    labels.as_object().is_none_or(Map::is_empty)
}

fn check(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    vocab::not_negative(errs, &path.child("minReadySeconds"), num(spec, "minReadySeconds"));
    let wanted = get(spec, "selector");
    if empty(wanted) {
        errs.push(FieldError::required(path.child("selector"), ""));
    }
    replicas::check_optional(errs, &path, spec, "replicas");
    let at = path.child("template");
    let pod = get(spec, "template");
    if pod.is_null() {
        errs.push(FieldError::required(at, ""));
        return;
    }
    let wanted = if empty(wanted) { json!({}) } else { json!({"matchLabels": wanted}) };
    template::check_for_set(errs, &at, pod, &wanted, "ReplicationController", emptied);
}
