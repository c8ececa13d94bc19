//! Bindings of pods to nodes.

use serde_json::Value;

use super::value::{get, text};
use super::vocab::Errors;
use crate::{FieldError, GroupResource, ResourceDef, Scope, Strategy};

/// The row of the old path; pods have a subresource of this kind.
pub static DEF: ResourceDef = ResourceDef {
    group: "",
    version: "v1",
    plural: "bindings",
    singular: "binding",
    kind: "Binding",
    scope: Scope::Namespaced,
    verbs: &["create"],
    short: &[],
    categories: &[],
    subresources: &[],
    schema: SCHEMA,
    storage: GroupResource { group: "", resource: "bindings" },
    storage_kind: ("v1", "Binding"),
    strategy: &Bindings,
};

const SCHEMA: &str = "io.k8s.api.core.v1.Binding";

struct Bindings;

impl Strategy for Bindings {}

/// Checks a binding. Upstream answers such findings as an internal error, not as "invalid".
#[must_use]
pub fn check(binding: &Value) -> Errors {
    let mut errs = Errors::new();
    let target = get(binding, "target");
    let kind = text(target, "kind");
    if !["", "Node"].contains(&kind) {
        errs.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if text(target, "name").is_empty() {
        errs.push(FieldError::required("target.name", ""));
    }
    errs
}
