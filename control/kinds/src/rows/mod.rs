//! One module per kind: its row, its strategy, its validation; beside them the vocabulary they
//! share. A new kind is a module here and a line in [`all`].
//!
//! Invariants
//! - Strategies see objects that have been normalised ([`crate::schema`]): absent is zero.
//! - Findings come in upstream's words, order and paths. Where Go walks a map in random order, we
//!   go by key.

mod binding;
pub mod cells;
mod configmap;
mod deployment;
mod endpoints;
mod endpointslice;
mod event;
mod lease;
mod namespace;
pub mod node;
pub mod pod;
mod replicas;
mod replicaset;
mod reviews;
pub mod scale;
mod secret;
mod selector;
pub mod service;
pub mod serviceaccount;
pub mod template;
mod value;
pub mod vocab;

use serde_json::Value;

use crate::{ResourceDef, schema};

pub use binding::check as check_binding;

/// Verbs of an ordinary kind.
const READ_WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of a subresource that is a part of the object.
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// Brings an object that was built or converted here into its type's form.
fn fit(name: &str, obj: &mut Value) {
    if let Some(schema) = schema::get(name) {
        schema.normalize(obj);
    }
}

/// Every row, in discovery order.
#[must_use]
pub fn all() -> &'static [&'static ResourceDef] {
    static ALL: &[&ResourceDef] = &[
        &binding::DEF,
        &configmap::DEF,
        &endpoints::DEF,
        &event::CORE,
        &namespace::DEF,
        &node::DEF,
        &pod::DEF,
        &secret::DEF,
        &serviceaccount::DEF,
        &service::DEF,
        &deployment::DEF,
        &replicaset::DEF,
        &event::DEF,
        &reviews::SELF_SUBJECT,
        &reviews::TOKEN,
        &reviews::LOCAL_ACCESS,
        &reviews::SELF_ACCESS,
        &reviews::SELF_RULES,
        &reviews::ACCESS,
        &lease::DEF,
        &endpointslice::DEF,
    ];
    ALL
}

/// The warning that any request for a deprecated kind gets, if it is one.
#[must_use]
pub fn deprecation(def: &ResourceDef) -> Option<&'static str> {
    (def.group.is_empty() && def.plural == "endpoints")
        .then_some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
}
