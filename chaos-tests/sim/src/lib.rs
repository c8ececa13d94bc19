//! The consensus store on virtual time, with a simulated network and simulated disks.
//!
//! The members run the store's real code; what they are told about the world is decided by a seed.
//! [`run`] plays one seed: clients work, faults happen, and after every step `ledger` checks what the
//! members did. Then everything heals, and the group has to get back to work and agree.
//!
//! - `cluster`: members and their lives
//! - `clients`: who writes, reads and watches
//! - `chaos`: which faults happen when
//! - `ledger`: the invariants
//!
//! - `world`: time, the network and the disks that members have instead of the real ones
//!
//! Not here: anything with real processes.

mod chaos;
mod clients;
mod cluster;
mod ledger;
mod report;
mod world;

pub use chaos::{Options, run};
pub use report::{Counts, Failure, Report, table};
