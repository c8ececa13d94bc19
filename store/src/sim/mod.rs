//! A simulated world for members of the store: virtual time, a seeded schedule, and a network and
//! disks that fail on request. Only tests make one; without one every question here is a look at an
//! empty thread-local.
//!
//! Invariants
//! - A world lives on one thread and everything in it is decided by its seed: which task runs next,
//!   how long things take, what gets lost. The same seed and the same requests give the same trace.
//! - A task belongs to one life of one member. When the member is killed, its tasks are gone between
//!   two of their steps, as a process is.
//! - Time passes only when nothing can run, but for a little with every step.

mod disk;
mod net;
mod rng;
mod seen;
mod world;

pub(crate) use disk::{Change, Mounted, Scan};
pub(crate) use net::{CallError, Port, listen};
pub(crate) use seen::{appended, applied, installed, recovered, truncated, voted};
pub(crate) use world::{Sleep, instant, moment, random, simulated, spawn, unix_seconds};

pub use disk::{Crash, Disk, Trouble};
pub use net::{NetCounts, Weather};
pub use rng::Rng;
pub use seen::{Applied, Seen};
pub use world::{EPOCH, Task, World, pause, run_on, take_seen};

pub use crate::rt::JoinError;
