//! ReplicaSets.

use serde_json::Value;

use super::cells::Cell;
use super::value::{child, get, num};
use super::vocab::{self, Errors};
use super::{replicas, scale, selector};
use crate::{FieldError, Path, ResourceDef, Strategy, Verbs, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["rs"]),
        categories: names(&["all"]),
        ..ResourceDef::new(("apps", "v1"), ("replicasets", "replicaset", "ReplicaSet"), SCHEMA, ReplicaSets)
    }
    .with(scale::subresource(scale::label_selector))
    .with_part("status", Verbs::PART)
}

const SCHEMA: &str = "io.k8s.api.apps.v1.ReplicaSet";

struct ReplicaSets;

impl Strategy for ReplicaSets {
    fn default(&self, obj: &mut Value) {
        replicas::default(child(obj, "spec"));
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
            return errs;
        }
        check(&mut errs, get(new, "spec"), replicas::emptied(new, old));
        replicas::check_selector_kept(&mut errs, new, old);
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        replicas::warn(obj, old)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        replicas::row(obj, &selector::show(get(get(obj, "spec"), "selector")))
    }
}

fn check(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    replicas::check_optional(errs, &path, spec, "replicas");
    vocab::not_negative(errs, &path.child("minReadySeconds"), num(spec, "minReadySeconds"));
    replicas::check_selector(errs, spec, emptied);
}
