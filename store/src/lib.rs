//! The consensus store: keys and bytes, replicated by Raft (openraft) and kept in RocksDB.
//!
//! Life of a write: [`Store::txn`] encodes the transaction once (`command`) and finds the leader
//! (`engine`, `forward`); openraft appends it here (`log`, `writer`) and on the others (`peer`); once
//! a majority has it on disk it is applied (`machine` round the pure `state`), shown (`view`) and
//! published (`hub`), and only then answered.
//!
//! Invariants
//! - What was acknowledged is on the disks of a majority.
//! - Apply is a pure function of the log, so all members are equal at equal index.
//! - A watcher sees every change once and in order, or is told that it does not.
//! - An unknown outcome is never reported as a failure.
//!
//! Not here: objects, names, versions of an API. A value is bytes.

mod backup;
mod codec;
mod command;
mod config;
mod db;
mod disk;
mod dump;
mod engine;
mod error;
mod forward;
mod generation;
mod history;
mod hub;
mod keys;
mod lessor;
mod log;
mod machine;
mod members;
mod peer;
#[doc(hidden)]
pub mod planted;
mod query;
mod raft;
mod restore;
mod rows;
mod rt;
#[doc(hidden)]
pub mod sim;
mod snapshot;
mod state;
mod status;
mod store;
mod survivor;
mod types;
mod upkeep;
mod view;
mod wal;
mod watch;
mod writer;

#[cfg(test)]
mod conformance;

pub use backup::Backup;
pub use config::{Config, PeerTls};
pub use db::identity;
pub use error::{HistoryError, MemberError, OpenError, QueryError, ReadError, StoreError, WriteError};
pub use generation::{adopt_generation, generation_of};
pub use keys::{End, KeyRange};
pub use members::members_at;
pub use restore::{BackupInfo, Founder, REVISION_BUMP, RescueError, backup_info, restore};
pub use snapshot::{Lease, Snapshot};
#[doc(hidden)]
pub use store::Tuning;
pub use store::{MAX_TXN_BYTES, Store};
pub use survivor::{Remains, Survivor};
pub use types::{
    Batch, Compare, CompareOp, Entry, Event, EventKind, Member, Op, Order, Put, PutLease, RangeQuery, RangeResult,
    Refusal, Response, ResponseKind, Revision, Role, SortBy, Status, Target, Term, Txn, TxnResult, WatchItem,
};
pub use watch::Watch;
