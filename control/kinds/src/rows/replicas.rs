//! What Deployments, ReplicaSets and ReplicationControllers have in common: a template, a selector, counts.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::selector;
use super::template::{self, defaults, warnings};
use super::value::{carry_generation, copy, get, int, num, set, set_generation, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path};

/// Defaults of the template and the wished number of pods.
pub fn default(spec: &mut Value) {
    super::value::default_to(spec, "replicas", 1);
    defaults::template(super::value::child(spec, "template"));
}

/// A new set without a rollout of its own: no pods yet, its first generation.
pub fn prepare_create(obj: &mut Value) {
    set(obj, "status", json!({"replicas": 0}));
    set_generation(obj, 1);
}

/// An update of such a set changes its spec or its status, never both.
pub fn prepare_update(new: &mut Value, old: &Value, sub: Option<&str>) {
    if sub == Some("status") {
        copy(new, old, "spec");
        carry_generation(new, old, false);
        return;
    }
    copy(new, old, "status");
    let changed = new.get("spec") != old.get("spec");
    carry_generation(new, old, changed);
}

/// The cells of such a set, whose selector reads `selector`.
#[must_use]
pub fn row(obj: &Value, selector: &str) -> Vec<Cell> {
    let (spec, status) = (get(obj, "spec"), get(obj, "status"));
    let (names, images) = template::show_containers(get(spec, "template"));
    vec![
        cells::name(obj),
        cells::of(num(spec, "replicas")),
        cells::of(num(status, "replicas")),
        cells::of(num(status, "readyReplicas")),
        cells::age(obj),
        cells::of(names),
        cells::of(images),
        cells::of(selector),
    ]
}

/// Checks the selector and the template it must fit.
pub fn check_selector(errs: &mut Errors, spec: &Value, emptied: bool) {
    let path = Path::new("spec");
    let wanted = get(spec, "selector");
    let at = path.child("selector");
    if wanted.is_null() {
        errs.push(FieldError::required(&at, ""));
    } else {
        selector::check(errs, &at, wanted);
        if selector::is_empty(wanted) {
            errs.push(FieldError::invalid(&at, selector::bad(wanted), "empty selector is invalid for deployment"));
        }
        if selector::parse(wanted).is_none() {
            errs.push(FieldError::invalid(&at, selector::bad(wanted), "invalid label selector"));
            return;
        }
    }
    template::check_for_set(errs, &path.child("template"), get(spec, "template"), wanted, "ReplicaSet", emptied);
}

/// The selector of a set never changes.
pub fn check_selector_kept(errs: &mut Errors, new: &Value, old: &Value) {
    let (now, before) = (get(get(new, "spec"), "selector"), get(get(old, "spec"), "selector"));
    if now != before {
        errs.push(FieldError::invalid("spec.selector", selector::bad(now), vocab::IMMUTABLE));
    }
}

/// Whether an update took the labels of the template away.
pub fn emptied(new: &Value, old: &Value) -> bool {
    let labelled = |obj: &Value| super::value::at(obj, &["spec", "template", "metadata", "labels"]).is_object();
    labelled(old) && !labelled(new)
}

/// Checks that counts in a status are not negative.
pub fn check_counts(errs: &mut Errors, status: &Value, fields: &[&str]) {
    for field in fields {
        vocab::not_negative(errs, &Path::new("status").child(field), num(status, field));
    }
}

/// Checks that no part is larger than the whole.
pub fn check_parts(errs: &mut Errors, status: &Value, fields: &[&str]) {
    let whole = num(status, "replicas");
    let path = Path::new("status");
    for field in fields {
        let part = num(status, field);
        if part > whole {
            errs.push(FieldError::invalid(path.child(field), part, "cannot be greater than status.replicas"));
        }
    }
    let available = num(status, "availableReplicas");
    if available > num(status, "readyReplicas") {
        errs.push(FieldError::invalid(
            path.child("availableReplicas"),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}

/// Checks the counts in the status of a set without a rollout.
pub fn check_status(errs: &mut Errors, status: &Value) {
    let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    check_counts(errs, status, &counts);
    check_parts(errs, status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
}

/// A count that may be set, and then not negative.
pub fn check_optional(errs: &mut Errors, path: &Path, owner: &Value, field: &str) {
    if let Some(value) = int(owner, field) {
        vocab::not_negative(errs, &path.child(field), value);
    }
}

/// Warnings for the name (pods inherit it) and the template.
#[must_use]
pub fn warn(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let messages = vocab::label_errors(text(get(obj, "metadata"), "name"));
    if old.is_none() && !messages.is_empty() {
        let what = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
        out.push(format!("metadata.name: {what}: [{}]", messages.join(" ")));
    }
    let changed =
        old.is_none_or(|old| get(get(old, "metadata"), "generation") != get(get(obj, "metadata"), "generation"));
    if changed {
        out.extend(warnings::of(&Path::new("spec").child("template"), get(get(obj, "spec"), "template")));
    }
    out
}
