//! Workloads: how many pods there are, and from which template.

pub mod deployment;
pub mod replicas;
mod replicaset;
mod replication_controller;
