//! Roles and their bindings, in namespaces and beyond them.

mod binding;
mod role;

use crate::ResourceDef;

/// Group of all of them.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The rows, in discovery order.
#[must_use]
pub fn defs() -> [ResourceDef; 4] {
    [binding::cluster(), role::cluster(), binding::namespaced(), role::namespaced()]
}
