//! The control plane on virtual time, its leader killed around each of its writes.
//!
//! One process, one thread: a store (the real one, on a disk in memory), the API, the controllers, the scheduler, and nodes
//! that only pretend. [`play`] plays a scenario once, with a [`Kill`] or without: at the leader's N-th write all that runs on
//! the leader is dropped, before the write, when it is committed and nobody has heard of it, or right after it was heard of.
//! A new leader starts a second later with nothing but the store. [`walk`] does so for every write that the scenario makes
//! when nobody is killed, and compares: the objects at the end, what was made and removed how often, and the rules that hold
//! after every revision.
//!
//! - `machine`: time and chance of a thread
//! - `disk`, `environment`: what the store stands on
//! - `killer`: looks on at the leader's writes, and kills
//! - `rules`, `history`: what was written, and whether it may be
//! - `end_state`: what there is, without what differs by chance
//! - `metrics`: what pods of these nodes serve
//! - `nodes`, `cluster`: all parts together
//! - `scenarios`: what happens
//!
//! Invariants
//! - The leader makes one write at a time, so that every prefix of its writes is a place to die at.
//! - Time passes only when nobody can go on: a run has no races that its seed does not decide.
//!
//! Not here: a group of members, and what becomes of the store itself; that is `kontiki-sim`.

mod cluster;
mod disk;
mod end_state;
mod environment;
mod history;
mod killer;
mod machine;
mod metrics;
mod nodes;
mod play;
mod report;
mod rules;
mod scenarios;

pub use killer::{Kill, When};
pub use machine::on_virtual_time;
pub use play::{Outcome, play};
pub use report::{Difference, Report, Share, table, walk};
pub use scenarios::{SCENARIOS, Scenario};
