//! Pure deciders: every controller's `plan()` and the scheduler's `decide()`, in folders by theme.
//!
//! A controller's module has the view, the plan, what a refused action means, which keys a change concerns, and the
//! state that the controller keeps between plans, if any. What several of them need is beside the folders.
//!
//! Invariants
//! - No tokio, no I/O, no clock, no randomness: time and settings are arguments, and the same view
//!   gives the same plan.
//! - A plan is a fixed point away from done: applied to the cluster that it was made from, the next
//!   plan is smaller, and in the end empty. The tests hold every controller to it.
//! - A plan says why, in one of a fixed set of texts.
//! - Whatever is ordered is ordered totally, so that ties never flap.
//! - Every write to an existing object carries a precondition (resource version or uid).
//!
//! Not here: how objects are watched and actions carried out (`kontiki-controllers`,
//! `kontiki-scheduler`).

pub mod action;
pub mod affinity;
pub mod autoscaling;
pub mod certificates;
pub mod clock;
pub mod hash;
pub mod key;
pub mod lifecycle;
pub mod network;
pub mod nodes;
pub mod object;
#[doc(hidden)]
pub mod planted;
pub mod pod;
pub mod policy;
pub mod scheduler;
pub mod selection;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;
pub mod workloads;

pub use action::{Action, Announce, Condition, DeleteHow, EventRecord, Order, Patch, Plan, Propagation, Refusal, Verb};
pub use nodes::taint_eviction;
