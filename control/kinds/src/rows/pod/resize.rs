//! The `resize` subresource: changes of CPU and memory while the pod runs.

use serde_json::Value;

use super::super::value::{copy, entries, get, has, items_mut, list, text};
use super::super::vocab::Errors;
use super::qos;
use crate::{FieldError, Path};

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Takes resources and resize policies from what was sent, container by container.
pub fn take(pod: &mut Value, sent: &Value) {
    let sent = get(sent, "spec");
    let Some(spec) = pod.get_mut("spec") else { return };
    for field in LISTS {
        let wanted = list(sent, field);
        if wanted.len() != list(spec, field).len() {
            continue;
        }
        for (container, wanted) in items_mut(spec, field).zip(wanted) {
            if text(container, "name") == text(wanted, "name") {
                copy(container, wanted, "resources");
                copy(container, wanted, "resizePolicy");
            }
        }
    }
}

/// Checks what [`take`] made of the pod.
pub fn check(errs: &mut Errors, new: &Value, old: &Value) {
    let (spec, old_spec) = (get(new, "spec"), get(old, "spec"));
    let path = Path::new("spec");
    for (refused, message) in [
        (has(spec, "resources") || has(old_spec, "resources"), "pods with pod-level resources cannot be resized"),
        (
            super::super::value::annotation(old, "kubernetes.io/config.mirror").is_some(),
            "static pods cannot be resized",
        ),
        (text(get(old_spec, "os"), "name") == "windows", "windows pods cannot be resized"),
    ] {
        if refused {
            *errs = vec![FieldError::forbidden("[]", message)];
            return;
        }
    }
    let class = text(get(old, "status"), "qosClass");
    if qos::class(spec) != class {
        errs.push(FieldError::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    for field in LISTS {
        for (i, (container, before)) in list(spec, field).iter().zip(list(old_spec, field)).enumerate() {
            let one_shot = field == "initContainers" && text(before, "restartPolicy") != "Always";
            if one_shot {
                if container != before {
                    errs.push(FieldError::forbidden(&path, "resources for non-sidecar init containers are immutable"));
                }
                continue;
            }
            let path_of = path.child(field).index(i).child("resources");
            check_container(errs, &path_of, container, before);
            if others_changed(container, before) {
                errs.push(FieldError::forbidden(&path, "only cpu and memory resources are mutable"));
            }
        }
    }
}

fn check_container(errs: &mut Errors, path: &Path, container: &Value, before: &Value) {
    let (new, old) = (get(container, "resources"), get(before, "resources"));
    for (kind, message) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        if entries(old, kind).any(|(name, _)| !has(get(new, kind), name)) {
            errs.push(FieldError::forbidden(path.child(kind), message));
        }
    }
}

/// Whether anything but CPU and memory changed.
fn others_changed(container: &Value, before: &Value) -> bool {
    let others = |container: &Value| -> Vec<(String, Value)> {
        let needs = get(container, "resources");
        let kinds = ["requests", "limits"].iter();
        kinds
            .flat_map(|kind| entries(needs, kind))
            .filter(|(name, _)| *name != "cpu" && *name != "memory")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    others(container) != others(before) || get(container, "resizePolicy") != get(before, "resizePolicy")
}
