//! What Deployments, ReplicaSets, ReplicationControllers, StatefulSets and DaemonSets have in common: a template, a
//! selector, counts.

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

/// How messages speak of a kind.
pub struct Words {
    /// What an empty selector is invalid for.
    pub noun: &'static str,
    /// Said of a selector that cannot be used.
    pub unusable: &'static str,
    /// In whose templates something is not supported.
    pub kind: &'static str,
}

const REPLICAS: Words = Words { noun: "deployment", unusable: "invalid label selector", kind: "ReplicaSet" };

/// Checks the selector and the template it must fit.
pub fn check_selector(errs: &mut Errors, spec: &Value, emptied: bool) {
    check_selector_of(errs, spec, get(spec, "template"), emptied, &REPLICAS);
}

/// Checks the selector of a `spec`, and the `template` it must fit.
pub fn check_selector_of(errs: &mut Errors, spec: &Value, template: &Value, emptied: bool, words: &Words) {
    let path = Path::new("spec");
    let wanted = get(spec, "selector");
    let at = path.child("selector");
    if wanted.is_null() {
        errs.push(FieldError::required(&at, ""));
    } else {
        selector::check(errs, &at, wanted);
        if selector::is_empty(wanted) {
            let message = format!("empty selector is invalid for {}", words.noun);
            errs.push(FieldError::invalid(&at, selector::bad(wanted), message));
        }
        if selector::parse(wanted).is_none() {
            errs.push(FieldError::invalid(&at, selector::bad(wanted), words.unusable));
            return;
        }
    }
    template::check_for_set(errs, &path.child("template"), template, wanted, words.kind, emptied);
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
    for field in fields {
        check_at_most(errs, status, field, "replicas", "cannot be greater than status.replicas");
    }
    check_at_most(errs, status, "availableReplicas", "readyReplicas", "cannot be greater than readyReplicas");
}

/// Checks that one count is not greater than another.
pub fn check_at_most(errs: &mut Errors, status: &Value, part: &str, whole: &str, message: &str) {
    let count = num(status, part);
    if count > num(status, whole) {
        errs.push(FieldError::invalid(Path::new("status").child(part), count, message));
    }
}

/// Checks that hashes that clashed are never counted down.
pub fn check_collisions(errs: &mut Errors, status: &Value, before: &Value) {
    let (now, then) = (int(status, "collisionCount"), int(before, "collisionCount"));
    if then.is_some_and(|then| now.is_none_or(|now| now < then)) {
        let path = Path::new("status").child("collisionCount");
        errs.push(FieldError::invalid(path, now.unwrap_or(0), "cannot be decremented"));
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

/// The warning for a new object whose name is no DNS label, though pods inherit it.
#[must_use]
pub fn warn_name(obj: &Value) -> Option<String> {
    let messages = vocab::label_errors(text(get(obj, "metadata"), "name"));
    let what =
        "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    (!messages.is_empty()).then(|| format!("metadata.name: {what}: [{}]", messages.join(" ")))
}

/// Warnings for the name and the template.
#[must_use]
pub fn warn(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() {
        out.extend(warn_name(obj));
    }
    out.extend(warn_template(obj, old));
    out
}

/// Warnings for the template, when it is new or may have changed.
#[must_use]
pub fn warn_template(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let generation = |obj| get(get(obj, "metadata"), "generation");
    if old.is_some_and(|old| generation(old) == generation(obj)) {
        return Vec::new();
    }
    warnings::of(&Path::new("spec").child("template"), get(get(obj, "spec"), "template"))
}
