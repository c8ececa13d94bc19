//! The machine itself: facts about it, cgroups of pods, and the files that say who this node is.
//!
//! Invariants
//! - Nothing here knows pods by more than their uid and definition, nor the runtime or the session.

pub mod cgroups;
pub(crate) mod facts;
pub mod identity;
