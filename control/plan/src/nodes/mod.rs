//! Nodes: their pod ranges, their Leases and silence, and the pods on those that are lost.

pub mod lease_renewal;
pub mod liveness;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod podgc;
pub mod taint_eviction;
