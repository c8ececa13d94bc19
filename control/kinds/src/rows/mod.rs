//! One module per kind: its row, its strategy, its validation; beside them the vocabulary they
//! share. A new kind is a module here and a line in [`all`].
//!
//! Invariants
//! - Strategies see objects that have been normalised ([`crate::schema`]): absent is zero.
//! - Findings come in upstream's words, order and paths. Where Go walks a map in random order, we
//!   go by key.

mod admissionregistration;
mod apiservice;
mod binding;
pub mod cells;
pub mod certificates;
mod clients;
mod componentstatus;
mod configmap;
mod controllerrevision;
mod crd;
mod cronjob;
mod daemonset;
mod deployment;
pub(crate) mod devices;
mod endpoints;
mod endpointslice;
mod event;
pub mod flowcontrol;
mod hpa;
mod job;
mod lease;
mod limitrange;
mod metrics;
mod namespace;
pub mod networking;
mod node;
mod parts;
mod pdb;
mod pod;
mod podtemplate;
pub mod priorityclass;
mod proxy;
pub(crate) mod rbac;
mod replicas;
mod replicaset;
mod replicationcontroller;
mod resourcequota;
mod reviews;
mod runtimeclass;
pub(crate) mod scale;
mod secret;
pub(crate) mod selector;
pub mod service;
mod serviceaccount;
mod statefulset;
pub mod storage;
mod storageversionmigration;
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
        componentstatus::def(),
        configmap::def(),
        endpoints::def(),
        event::core(),
        limitrange::def(),
        namespace::def(),
        node::def(),
        storage::claim::def(),
        storage::volume::def(),
        pod::def(),
        podtemplate::def(),
        replicationcontroller::def(),
        resourcequota::def(),
        secret::def(),
        serviceaccount::def(),
        service::def(services),
        controllerrevision::def(),
        daemonset::def(),
        apiservice::def(),
        deployment::def(),
        replicaset::def(),
        statefulset::def(),
        event::def(),
    ];
    rows.extend(reviews::defs());
    rows.extend(networking::defs());
    rows.extend(storage::defs());
    rows.extend(certificates::defs());
    rows.extend(admissionregistration::defs());
    rows.push(crd::def());
    rows.extend(devices::defs());
    rows.extend(flowcontrol::defs());
    rows.push(storageversionmigration::def());
    rows.extend(rbac::defs());
    rows.extend([hpa::def(), hpa::first_def(), job::def(), cronjob::def(), pdb::def()]);
    rows.extend([runtimeclass::def(), priorityclass::def(), lease::def(), endpointslice::def()]);
    rows.extend(metrics::defs());
    rows
}
