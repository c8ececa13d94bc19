//! ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::value::{carry_generation, child, copy, get, num, set, set_generation};
use super::vocab::{self, Errors};
use super::{cells, replicas, scale, selector, template};
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
        set(obj, "status", json!({"replicas": 0}));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            carry_generation(new, old, false);
            return;
        }
        copy(new, old, "status");
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
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

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let (names, images) = template::show_containers(get(spec, "template"));
        vec![
            cells::name(obj),
            json!(num(spec, "replicas")),
            json!(num(status, "replicas")),
            json!(num(status, "readyReplicas")),
            cells::age(obj, now),
            json!(names),
            json!(images),
            json!(selector::show(get(spec, "selector"))),
        ]
    }
}

fn check(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    replicas::check_optional(errs, &path, spec, "replicas");
    vocab::not_negative(errs, &path.child("minReadySeconds"), num(spec, "minReadySeconds"));
    replicas::check_selector(errs, spec, emptied);
}
