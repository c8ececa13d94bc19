//! What an autoscaler goes by.

use serde_json::Value;

use super::super::value::{get, has, list, num, some, text};
use super::super::vocab::{self, Errors};
use super::check_target;
use crate::schema::quantity::Amount;
use crate::{FieldError, Path, meta};

/// The sources, in the order in which they are looked at: type, field.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Checks the metrics of an autoscaler whose lowest number of pods is `min`.
pub(super) fn check(errs: &mut Errors, path: &Path, metrics: &[Value], min: Option<i64>) {
    for (i, metric) in metrics.iter().enumerate() {
        check_metric(errs, &path.index(i), metric);
    }
    let wakes = metrics.iter().any(|metric| ["Object", "External"].contains(&text(metric, "type")));
    if min == Some(0) && !wakes {
        let message = "must specify at least one Object or External metric to support scaling to zero replicas";
        errs.push(FieldError::forbidden(path, message));
    }
}

fn check_metric(errs: &mut Errors, path: &Path, metric: &Value) {
    let (kind, at) = (text(metric, "type"), path.child("type"));
    if kind.is_empty() {
        errs.push(FieldError::required(&at, "must specify a metric source type"));
    }
    vocab::known_value(errs, &at, kind, TYPES);
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|field| has(metric, field)).collect();
    if let Some(first) = present.first() {
        check_source(errs, &path.child(first), first, get(metric, first));
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    match expected {
        Some(field) if !has(metric, field) => {
            let message = "must populate information for the given metric source";
            errs.push(FieldError::required(path.child(field), message));
        }
        Some(_) => {}
        None => errs.push(FieldError::not_supported(&at, kind, TYPES)),
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| Some(**field) != expected) {
            errs.push(FieldError::forbidden(path.child(other), "must populate the given metric source only"));
        }
    }
}

fn check_source(errs: &mut Errors, path: &Path, kind: &str, source: &Value) {
    let target = get(source, "target");
    let at = path.child("target");
    let (value, average) = (has(target, "value"), has(target, "averageValue"));
    let lacking = |errs: &mut Errors, field: &str, message: &str| {
        errs.push(FieldError::required(at.child(field), message));
    };
    match kind {
        "object" => {
            check_target(errs, &path.child("describedObject"), get(source, "describedObject"), false);
            check_identifier(errs, &path.child("metric"), get(source, "metric"));
            check_aim(errs, &at, target);
            if !value && !average {
                lacking(errs, "averageValue", "must set either a target value or averageValue");
            }
        }
        "external" => {
            check_identifier(errs, &path.child("metric"), get(source, "metric"));
            check_aim(errs, &at, target);
            if !value && !average {
                lacking(errs, "averageValue", "must set either a target value for metric or a per-pod target");
            }
            if value && average {
                let message = "may not set both a target value for metric and a per-pod target";
                errs.push(FieldError::forbidden(at.child("value"), message));
            }
        }
        "pods" => {
            check_identifier(errs, &path.child("metric"), get(source, "metric"));
            check_aim(errs, &at, target);
            if !average {
                lacking(errs, "averageValue", "must specify a positive target averageValue");
            }
        }
        kind => check_resource(errs, path, source, kind == "containerResource"),
    }
}

fn check_resource(errs: &mut Errors, path: &Path, source: &Value, of_container: bool) {
    if text(source, "name").is_empty() {
        errs.push(FieldError::required(path.child("name"), "must specify a resource name"));
    }
    if of_container {
        let container = text(source, "container");
        if container.is_empty() {
            errs.push(FieldError::required(path.child("container"), "must specify a container"));
        } else {
            vocab::label(errs, &path.child("container"), container);
        }
    }
    let (target, at) = (get(source, "target"), path.child("target"));
    check_aim(errs, &at, target);
    match (has(target, "averageUtilization"), has(target, "averageValue")) {
        (false, false) => {
            let message = "must set either a target raw value or a target utilization";
            errs.push(FieldError::required(at.child("averageUtilization"), message));
        }
        (true, true) => {
            let message = "may not set both a target raw value and a target utilization";
            errs.push(FieldError::forbidden(at.child("averageValue"), message));
        }
        _ => {}
    }
}

fn check_identifier(errs: &mut Errors, path: &Path, metric: &Value) {
    let name = text(metric, "name");
    if name.is_empty() {
        errs.push(FieldError::required(path.child("name"), "must specify a metric name"));
    } else {
        vocab::invalid(errs, &path.child("name"), name, meta::name_is_path_segment(name, false));
    }
}

fn check_aim(errs: &mut Errors, path: &Path, target: &Value) {
    let kind = text(target, "type");
    if kind.is_empty() {
        let message = "must specify either Utilization, Value, or AverageValue";
        errs.push(FieldError::required(path.child("type"), message));
    } else if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let message = "must be either Utilization, Value, or AverageValue";
        errs.push(FieldError::invalid(path.child("type"), kind, message));
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = some(target, field).filter(|v| Amount::of(v).is_some_and(|a| a.milli() <= 0)) {
            errs.push(FieldError::invalid(path.child(field), amount.clone(), "must be positive"));
        }
    }
    if has(target, "averageUtilization") && num(target, "averageUtilization") < 1 {
        let percent = num(target, "averageUtilization");
        errs.push(FieldError::invalid(path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

/// Where a metric's source stands in it.
pub(super) fn field_of(kind: &str) -> &'static str {
    SOURCES.iter().find(|(known, _)| *known == kind).map_or("", |(_, field)| field)
}

/// The status of the metric at `index`, if it is of the same sort.
pub(super) fn status_at<'a>(status: &'a Value, index: usize, field: &str) -> Option<&'a Value> {
    some(list(status, "currentMetrics").get(index)?, field)
}
