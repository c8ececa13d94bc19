//! Namespaces.

use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::value::{child, copy, default_text, fields, get, has, list, set, text, texts};
use super::vocab::{self, Errors};
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, Verb, Verbs,
    resource::{Protected, names},
};

/// The row. Upstream has no `deletecollection` here: too dangerous.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        verbs: Verbs::ALL.without(Verb::DeleteCollection),
        short: names(&["ns"]),
        fields: names(&["status.phase"]),
        protected: Some(Protected {
            names: names(&["default", "kube-public", "kube-system"]),
            why: "this namespace may not be deleted".into(),
        }),
        delete_returns_object: true,
        ..ResourceDef::new(("", "v1"), ("namespaces", "namespace", "Namespace"), SCHEMA, Namespaces)
    }
    .with_part("finalize", Verbs::of(&[Verb::Update]))
    .with_part("status", Verbs::PART)
}

const SCHEMA: &str = "io.k8s.api.core.v1.Namespace";

struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, obj: &mut Value) {
        name_label(obj);
        default_text(child(obj, "status"), "phase", "Active");
    }

    fn prepare_create(&self, obj: &mut Value) {
        name_label(obj);
        set(obj, "status", json!({"phase": "Active"}));
        let spec = child(obj, "spec");
        if !texts(spec, "finalizers").contains(&"kubernetes") {
            let slot = fields(spec).entry("finalizers").or_insert_with(|| json!([]));
            if let Some(finalizers) = slot.as_array_mut() {
                finalizers.push(json!("kubernetes"));
            }
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => copy(new, old, "spec"),
            Some("finalize") => copy(new, old, "status"),
            _ => {
                copy(child(new, "spec"), get(old, "spec"), "finalizers");
                copy(new, old, "status");
            }
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        for finalizer in texts(get(obj, "spec"), "finalizers") {
            check_finalizer(&mut errs, &Path::new("spec").child("finalizers"), finalizer);
        }
        errs
    }

    fn validate_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        match sub {
            Some("status") => check_phase(&mut errs, new),
            Some("finalize") => {
                for (i, finalizer) in list(get(new, "spec"), "finalizers").iter().enumerate() {
                    let path = Path::new("spec").child("finalizers").index(i);
                    check_finalizer(&mut errs, &path, finalizer.as_str().unwrap_or(""));
                }
            }
            _ => {}
        }
        errs
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::meta::name_is_dns_label(name, prefix)
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(get(obj, "status"), "phase")), cells::age(obj)]
    }

    /// A namespace stays, terminating, until its content is gone and its finalizers with it.
    fn terminate(&self, obj: &mut Value, now: &str) -> Option<bool> {
        if has(get(obj, "metadata"), "deletionTimestamp") {
            return Some(list(get(obj, "metadata"), "finalizers").is_empty() && emptied(obj));
        }
        set(child(obj, "metadata"), "deletionTimestamp", now);
        set(child(obj, "status"), "phase", "Terminating");
        Some(false)
    }

    fn ends_with_update(&self, new: &Value, _old: &Value) -> bool {
        emptied(new)
    }
}

/// Whether everybody who empties a namespace is done.
fn emptied(obj: &Value) -> bool {
    list(get(obj, "spec"), "finalizers").is_empty()
}

/// Each namespace carries its name as a label, so that selectors can name it.
fn name_label(obj: &mut Value) {
    let name = text(get(obj, "metadata"), "name").to_owned();
    if !name.is_empty() {
        set(child(child(obj, "metadata"), "labels"), "kubernetes.io/metadata.name", name);
    }
}

fn check_finalizer(errs: &mut Errors, path: &Path, name: &str) {
    vocab::qualified_name(errs, path, name);
    let standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(&name);
    if !name.contains('/') && !standard {
        let message = "name is neither a standard finalizer name nor is it fully qualified";
        errs.push(FieldError::invalid(path, name, message));
    }
}

fn check_phase(errs: &mut Errors, obj: &Value) {
    let phase = text(get(obj, "status"), "phase");
    let (wanted, when) = if has(get(obj, "metadata"), "deletionTimestamp") {
        ("Terminating", "is not empty")
    } else {
        ("Active", "is empty")
    };
    if phase != wanted {
        let message = format!("may only be '{wanted}' if `deletionTimestamp` {when}");
        errs.push(FieldError::invalid(Path::new("status").child("Phase"), phase, message));
    }
}
