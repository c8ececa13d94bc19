//! Stories on real processes: a cluster in network namespaces, people's clients, and faults.
//!
//! Nothing depends on this crate. `tests/cluster.rs` runs [`stories::ALL`] in order against one
//! cluster; each story leaves the cluster healthy and its own namespace gone.

pub mod cluster;
pub mod load;
pub mod stories;
pub mod wait;
