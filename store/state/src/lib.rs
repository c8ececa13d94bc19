//! The store's state machine and everything that it is made of: what goes into the log, what applying it
//! does, and how that lies on disk.
//!
//! Invariants
//! - Pure: no clock, chance, I/O, runtime or configuration. Two members that applied the same entries are equal.
//! - Whatever is encoded here is read back by every later version.
//!
//! Not here: agreeing on the log, writing it down, and showing the state to clients (see `kontiki-store`).

pub mod codec;
pub mod command;
pub mod digest;
pub mod keys;
mod lease;
pub mod lessor;
mod level;
pub mod packed;
pub mod planted;
pub mod query;
pub mod rows;
pub mod snapshot;
pub mod state;
mod types;

pub use digest::Digest;
pub use keys::{End, KeyRange};
pub use lease::Lease;
pub use level::Level;
pub use snapshot::Snapshot;
pub use types::{
    Batch, Compare, CompareOp, Entry, EntryId, Event, EventKind, Op, Order, Put, PutLease, RangeQuery, RangeResult,
    Refusal, Response, ResponseKind, Revision, SortBy, Target, Term, Txn, TxnResult,
};
