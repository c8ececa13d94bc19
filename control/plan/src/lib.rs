//! Pure deciders: every controller's `plan()` and the scheduler's `place()`.
//!
//! Invariants
//! - No tokio, no I/O, no clock, no randomness: time and settings are arguments, and the same view
//!   gives the same plan.
//! - A plan is a fixed point away from done: applied to the world that it was made from, the next
//!   plan of the new world is smaller, and in the end empty. The tests hold every controller to it.
//! - Whatever is ordered is ordered totally, so that ties never flap.
//! - Every write to an existing object carries a precondition (resource version or uid).
//!
//! Not here: how objects are watched and actions carried out (`kontiki-controllers`,
//! `kontiki-scheduler`).

pub mod action;
pub mod bootstrap_token;
pub mod deployment;
pub mod endpoints;
pub mod endpointslice;
pub mod gc;
pub mod hash;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod object;
pub mod pod;
pub mod podgc;
pub mod replicaset;
pub mod root_ca;
pub mod scheduler;
pub mod service_account;
pub mod taint_eviction;
#[cfg(test)]
pub(crate) mod testing;

pub use action::{Action, Announce, DeleteHow, EventRecord, Patch, Plan, Propagation};
