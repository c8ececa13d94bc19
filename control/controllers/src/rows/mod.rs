//! The table of controllers.

mod cluster;
mod network;
mod nodes;
mod workloads;

use std::sync::Arc;

use jiff::Timestamp;
use kontiki_api::informer::Registration;
use kontiki_plan::Plan;
use kontiki_plan::replicaset::Failure;

use crate::queue::Queue;
use crate::world::World;

/// One controller.
pub(crate) struct Row {
    /// For logs and metrics.
    pub name: &'static str,
    /// Keys that may be in a turn at the same time.
    pub workers: usize,
    /// Registers which changes ask for a turn of which keys.
    pub inputs: fn(&Arc<World>, &Arc<Queue>) -> Vec<Registration>,
    /// Builds the view of a key from the caches and plans.
    pub turn: fn(&World, &str, Timestamp, Option<&Failure>) -> Plan,
}

/// All controllers.
pub(crate) static TABLE: &[Row] = &[
    Row { name: "namespace", workers: 4, inputs: cluster::namespace_inputs, turn: cluster::namespace },
    Row { name: "garbage-collector", workers: 16, inputs: cluster::gc_inputs, turn: cluster::gc },
    Row { name: "serviceaccount", workers: 4, inputs: cluster::account_inputs, turn: cluster::account },
    Row { name: "root-ca-publisher", workers: 4, inputs: cluster::root_ca_inputs, turn: cluster::root_ca },
    Row { name: "token-cleaner", workers: 1, inputs: cluster::token_inputs, turn: cluster::token },
    Row { name: "deployment", workers: 8, inputs: workloads::deployment_inputs, turn: workloads::deployment },
    Row { name: "replicaset", workers: 8, inputs: workloads::replica_set_inputs, turn: workloads::replica_set },
    Row { name: "endpointslice", workers: 8, inputs: network::slice_inputs, turn: network::slices },
    Row { name: "endpoints", workers: 4, inputs: network::endpoints_inputs, turn: network::endpoints },
    Row { name: "node-ipam", workers: 1, inputs: nodes::ipam_inputs, turn: nodes::ipam },
    Row { name: "node-lifecycle", workers: 8, inputs: nodes::lifecycle_inputs, turn: nodes::lifecycle },
    Row { name: "taint-eviction", workers: 8, inputs: nodes::eviction_inputs, turn: nodes::eviction },
    Row { name: "pod-garbage-collector", workers: 4, inputs: nodes::podgc_inputs, turn: nodes::podgc },
];

/// `namespace/name`, as rows of namespaced kinds key their work.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}
