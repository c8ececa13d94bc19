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
mod node;
mod pod;
mod podtemplate;
pub mod priorityclass;
mod replicas;
mod replicaset;
mod replicationcontroller;
mod reviews;
mod runtimeclass;
mod scale;
mod secret;
mod selector;
pub mod service;
mod serviceaccount;
pub mod template;
pub(crate) mod value;
pub mod vocab;

use serde_json::Value;

use crate::{ResourceDef, schema};

/// Brings an object that was built or converted here into its type's form.
fn fit(name: &str, obj: &mut Value) {
    if let Some(schema) = schema::get(name) {
        schema.normalize(obj);
    }
}

/// Every row, in discovery order.
#[must_use]
pub fn all(services: service::Ranges) -> Vec<ResourceDef> {
    let mut rows = vec![
        binding::def(),
        configmap::def(),
        endpoints::def(),
        event::core(),
        namespace::def(),
        node::def(),
        pod::def(),
        podtemplate::def(),
        replicationcontroller::def(),
        secret::def(),
        serviceaccount::def(),
        service::def(services),
        deployment::def(),
        replicaset::def(),
        event::def(),
    ];
    rows.extend(reviews::defs());
    rows.extend([runtimeclass::def(), priorityclass::def(), lease::def(), endpointslice::def()]);
    rows
}
