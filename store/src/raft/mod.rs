//! Agreeing with the other members: openraft, and the shells round it.

pub(crate) mod answer;
pub(crate) mod engine;
pub(crate) mod forward;
pub(crate) mod generation;
pub(crate) mod leases;
pub(crate) mod local;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod members;
pub(crate) mod peer;
pub(crate) mod reporter;
pub(crate) mod witness;

#[cfg(test)]
mod conformance;
