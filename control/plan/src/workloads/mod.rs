//! Workloads: how many pods there are, and from which template.

pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod history;
pub mod intstr;
pub mod job;
pub mod managed;
pub mod replicas;
mod replicaset;
mod replication_controller;
pub mod statefulset;
