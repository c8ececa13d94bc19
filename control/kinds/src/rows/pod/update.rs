//! What may change in a stored pod.

use serde_json::Value;

use super::super::template::profiles::APP_ARMOR;
use super::super::value::{annotation, copy, entries, get, has, int, items_mut, list, set, text, unset};
use super::super::vocab::{self, Errors};
use super::super::{template, value};
use crate::field_error::quote;
use crate::{FieldError, Path};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Annotations that stick.
pub fn check_annotations(errs: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("metadata").child("annotations");
    let guarded = |key: &str| key == MIRROR || key.starts_with(APP_ARMOR);
    let what = |key: &str| if key == MIRROR { "mirror pod annotation" } else { "AppArmor annotations" };
    for (key, before) in entries(get(old, "metadata"), "annotations").filter(|(key, _)| guarded(key)) {
        if annotation(new, key) != before.as_str() {
            errs.push(FieldError::forbidden(path.key(key), format!("may not remove or update {}", what(key))));
        }
    }
    for (key, _) in entries(get(new, "metadata"), "annotations").filter(|(key, _)| guarded(key)) {
        if annotation(old, key).is_none() {
            errs.push(FieldError::forbidden(path.key(key), format!("may not add {}", what(key))));
        }
    }
    template::check_annotations(errs, &path, get(new, "metadata"), get(new, "spec"));
}

/// Checks an update of the pod itself.
pub fn check(errs: &mut Errors, new: &Value, old: &Value) {
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    let path = Path::new("spec");
    for field in ["containers", "initContainers"] {
        if !check_images(errs, &path.child(field), list(spec, field), list(before, field)) {
            return;
        }
    }
    if !check_deadline(errs, &path.child("activeDeadlineSeconds"), spec, before) {
        return;
    }
    check_tolerations(errs, &path.child("tolerations"), list(spec, "tolerations"), list(before, "tolerations"));
    check_gates(errs, &path.child("schedulingGates"), list(spec, "schedulingGates"), list(before, "schedulingGates"));
    if spec == before {
        return;
    }
    let gated = !list(before, "schedulingGates").is_empty();
    if munged(errs, &path, spec, before, gated) != *before {
        // Upstream adds a diff of its Go structs; people get the field names at least.
        let changed = vocab::changed_fields("spec", spec, before).join(", ");
        errs.push(FieldError::forbidden(&path, format!("{UPDATABLE}\n@@ changed: {changed}")));
    }
}

/// Answers whether the check of the pod can go on.
fn check_images(errs: &mut Errors, path: &Path, containers: &[Value], before: &[Value]) -> bool {
    if containers.len() != before.len() {
        errs.push(FieldError::forbidden(path, "pod updates may not add or remove containers"));
        return false;
    }
    for (i, container) in containers.iter().enumerate() {
        let image = text(container, "image");
        let path = path.index(i).child("image");
        if image.is_empty() {
            errs.push(FieldError::required(&path, ""));
        }
        if image.trim() != image {
            errs.push(FieldError::invalid(&path, image, "must not have leading or trailing whitespace"));
        }
    }
    true
}

fn check_deadline(errs: &mut Errors, path: &Path, spec: &Value, before: &Value) -> bool {
    const FIELD: &str = "activeDeadlineSeconds";
    match (int(spec, FIELD), int(before, FIELD)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errs.push(FieldError::invalid(path, now, vocab::between(0, i64::from(i32::MAX))));
            false
        }
        (Some(now), Some(then)) if then < now => {
            errs.push(FieldError::invalid(path, now, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errs.push(FieldError::invalid(path, Value::Null, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

/// Old tolerations stay, but for their seconds; new ones may come.
fn check_tolerations(errs: &mut Errors, path: &Path, now: &[Value], before: &[Value]) {
    let bare = |toleration: &Value| {
        let mut copy = toleration.clone();
        unset(&mut copy, "tolerationSeconds");
        copy
    };
    let kept = |old: &Value| now.iter().any(|new| bare(new) == bare(old));
    if before.iter().all(kept) {
        template::scheduling::check_tolerations(errs, path, now);
    } else {
        errs.push(FieldError::forbidden(path, "existing toleration can not be modified except its tolerationSeconds"));
    }
}

fn check_gates(errs: &mut Errors, path: &Path, now: &[Value], before: &[Value]) {
    for (i, gate) in now.iter().enumerate() {
        let name = text(gate, "name");
        if !before.iter().any(|old| text(old, "name") == name) {
            let message = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errs.push(FieldError::forbidden(path.index(i).child("name"), message));
        }
    }
}

/// The new spec with everything that may change set back.
fn munged(errs: &mut Errors, path: &Path, spec: &Value, before: &Value, gated: bool) -> Value {
    let mut out = spec.clone();
    for field in ["containers", "initContainers"] {
        for (container, old) in items_mut(&mut out, field).zip(list(before, field)) {
            copy(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(&mut out, before, field);
    }
    const GRACE: &str = "terminationGracePeriodSeconds";
    if int(before, GRACE).is_some_and(|seconds| seconds < 0) && int(spec, GRACE) == Some(1) {
        copy(&mut out, before, GRACE);
    }
    if gated {
        check_gated_selector(errs, &path.child("nodeSelector"), spec, before);
        copy(&mut out, before, "nodeSelector");
        gated_affinity(&mut out, before);
    }
    out
}

/// A pod that is not to be scheduled yet may be narrowed down further.
fn check_gated_selector(errs: &mut Errors, path: &Path, spec: &Value, before: &Value) {
    let lost =
        entries(before, "nodeSelector").any(|(key, old)| value::at(spec, &["nodeSelector"]).get(key) != Some(old));
    if lost {
        let message = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errs.push(FieldError::invalid(path, get(spec, "nodeSelector").clone(), message));
    }
}

/// Node affinity may be added while a pod is gated; where the pod had one it must stay as it is.
fn gated_affinity(out: &mut Value, before: &Value) {
    if has(get(before, "affinity"), "nodeAffinity") || !has(get(out, "affinity"), "nodeAffinity") {
        return;
    }
    let affinity = value::child(out, "affinity");
    unset(affinity, "nodeAffinity");
    let empty = affinity.as_object().is_some_and(serde_json::Map::is_empty);
    if empty {
        match before.get("affinity") {
            Some(old) => set(out, "affinity", old.clone()),
            None => unset(out, "affinity"),
        }
    }
}

/// Checks an update of the ephemeral containers.
pub fn check_ephemeral(errs: &mut Errors, new: &Value, old: &Value) {
    if annotation(old, MIRROR).is_some() {
        *errs = vec![FieldError::forbidden("[]", "static pods do not support ephemeral containers")];
        return;
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let now = list(get(new, "spec"), "ephemeralContainers");
    for before in list(get(old, "spec"), "ephemeralContainers") {
        let name = text(before, "name");
        let message = match now.iter().find(|container| text(container, "name") == name) {
            None => format!("existing ephemeral containers {} may not be removed\n", quote(name)),
            Some(container) if container != before => {
                let changed = vocab::changed_fields("spec", container, before).join(", ");
                format!("existing ephemeral containers {} may not be changed\n@@ changed: {changed}", quote(name))
            }
            Some(_) => continue,
        };
        errs.push(FieldError::forbidden(&path, message));
    }
}
