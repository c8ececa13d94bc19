//! HorizontalPodAutoscalers: stored and served as `autoscaling/v2`, and served as `v1` too.

mod behavior;
mod first;
mod metrics;
mod table;

use serde_json::{Value, json};

use super::cells::Cell;
use super::value::{child, copy, default_to, get, has, int, list, num, set, some_mut, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, Verbs, meta, resource::names};

pub use first::def as first_def;

/// The row of `v2`.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["hpa"]),
        categories: names(&["all"]),
        ..ResourceDef::new(("autoscaling", "v2"), NAMES, SCHEMA, Autoscalers)
    }
    .with_part("status", Verbs::PART)
}

const NAMES: (&str, &str, &str) = ("horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler");
const SCHEMA: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler";

struct Autoscalers;

impl Strategy for Autoscalers {
    fn tells_empty(&self) -> &'static [&'static str] {
        &["spec.behavior.scaleUp.policies", "spec.behavior.scaleDown.policies"]
    }

    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        default_to(spec, "minReplicas", 1);
        if list(spec, "metrics").is_empty() {
            set(spec, "metrics", json!([cpu(80)]));
        }
        if let Some(behavior) = some_mut(spec, "behavior") {
            behavior::default(behavior);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"currentMetrics": null, "desiredReplicas": 0}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        copy(new, old, if sub == Some("status") { "spec" } else { "status" });
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        check(obj)
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        if sub == Some("status") {
            return check_status(get(new, "status"));
        }
        check(new)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        table::row(obj)
    }
}

/// The metric of CPU use.
fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn check(obj: &Value) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), Path::new("spec"), get(obj, "spec"));
    let (min, max) = (int(spec, "minReplicas"), num(spec, "maxReplicas"));
    if let Some(min) = min.filter(|min| *min < 0) {
        errs.push(FieldError::invalid(path.child("minReplicas"), min, "must be greater than or equal to 0"));
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        errs.push(FieldError::required(&at, "must be set and greater than 0"));
    } else if max < 0 {
        errs.push(FieldError::invalid(&at, max, "must be greater than 0"));
    }
    if min.is_some_and(|min| max < min) {
        errs.push(FieldError::invalid(&at, max, "must be greater than or equal to `minReplicas`"));
    }
    check_target(&mut errs, &path.child("scaleTargetRef"), get(spec, "scaleTargetRef"), true);
    metrics::check(&mut errs, &path.child("metrics"), list(spec, "metrics"), min);
    if has(spec, "behavior") {
        behavior::check(&mut errs, &path.child("behavior"), get(spec, "behavior"));
    }
    errs
}

/// Checks the name of an object of any kind and version. `scaled`: it has to be one of a group.
fn check_target(errs: &mut Errors, path: &Path, target: &Value, scaled: bool) {
    for field in ["kind", "name"] {
        let name = text(target, field);
        if name.is_empty() {
            errs.push(FieldError::required(path.child(field), ""));
        } else {
            vocab::invalid(errs, &path.child(field), name, meta::name_is_path_segment(name, false));
        }
    }
    if !scaled {
        return;
    }
    let (version, at) = (text(target, "apiVersion"), path.child("apiVersion"));
    match version.matches('/').count() {
        0 if text(target, "kind") == "ReplicationController" && version == "v1" => {}
        0 => errs.push(FieldError::invalid(at, version, "apiVersion must specify API group")),
        1 => {}
        _ => {
            let message = format!("unexpected GroupVersion string: {version}");
            errs.push(FieldError::invalid(at, version, message));
        }
    }
}

fn check_status(status: &Value) -> Errors {
    let mut errs = Errors::new();
    super::replicas::check_counts(&mut errs, status, &["currentReplicas", "desiredReplicas"]);
    errs
}
