//! What may change in a stored Job.

use serde_json::Value;

use super::super::value::{child, copy, get, has, items_mut, list, num, on, set, some_mut, text, unset};
use super::super::vocab::{self, Errors};
use super::{is_true, spec};
use crate::FieldError;

/// Checks an update of the Job itself, beyond the rules of any Job.
pub(super) fn check(errs: &mut Errors, new: &Value, old: &Value) {
    let (now, before) = (get(new, "spec"), get(old, "spec"));
    spec::check_with_selector(errs, now);
    check_completions(errs, now, before);
    super::replicas::check_selector_kept(errs, new, old);
    let template = if mutable(old) {
        excused(get(now, "template"), get(before, "template"))
    } else {
        get(before, "template").clone()
    };
    vocab::immutable(errs, "spec.template", get(now, "template"), &template);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        vocab::immutable(errs, &format!("spec.{field}"), get(now, field), get(before, field));
    }
}

/// An Indexed Job may be scaled by both of its numbers together.
fn check_completions(errs: &mut Errors, now: &Value, before: &Value) {
    let (wanted, had) = (get(now, "completions"), get(before, "completions"));
    if text(now, "completionMode") != "Indexed" {
        vocab::immutable(errs, "spec.completions", wanted, had);
    } else if wanted != had && !wanted.is_null() && num(now, "completions") != num(now, "parallelism") {
        let message = "can only be modified in tandem with spec.parallelism";
        errs.push(FieldError::invalid("spec.completions", wanted.clone(), message));
    }
}

/// Whether the template's scheduling and resources may change: no pod of it runs or will run before it is resumed.
fn mutable(old: &Value) -> bool {
    let status = get(old, "status");
    let idle = !has(status, "startTime") || is_true(status, "Suspended") && num(status, "active") == 0;
    on(get(old, "spec"), "suspend") && idle
}

/// The old template, with what the new one says where it may differ.
fn excused(new: &Value, old: &Value) -> Value {
    let mut allowed = old.clone();
    for field in ["annotations", "labels"] {
        copy(child(&mut allowed, "metadata"), get(new, "metadata"), field);
    }
    let (now, spec) = (get(new, "spec"), child(&mut allowed, "spec"));
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(spec, now, field);
    }
    excuse_affinity(spec, now);
    for field in ["containers", "initContainers"] {
        let wanted = list(now, field);
        for (container, wanted) in items_mut(spec, field).zip(wanted) {
            copy(container, wanted, "resources");
        }
    }
    allowed
}

/// Affinity to nodes may change, and that alone.
fn excuse_affinity(spec: &mut Value, now: &Value) {
    let wanted = get(now, "affinity");
    if wanted.is_object() {
        copy(child(spec, "affinity"), wanted, "nodeAffinity");
        return;
    }
    if let Some(affinity) = some_mut(spec, "affinity") {
        unset(affinity, "nodeAffinity");
        let empty = affinity.as_object().is_none_or(serde_json::Map::is_empty);
        if empty {
            unset(spec, "affinity");
        }
    }
    if !has(spec, "affinity") && now.get("affinity").is_some() {
        set(spec, "affinity", wanted.clone());
    }
}
