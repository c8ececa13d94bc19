//! The consensus store: keys and bytes, replicated by Raft (openraft) and kept in RocksDB.
//!
//! Life of a write: [`Store::txn`] encodes the transaction once and finds the leader (`raft::engine`,
//! `raft::forward`); openraft appends it here (`raft::log`, `disk::writer`) and on the others
//! (`raft::peer`); once a majority has it on disk it is applied (`raft::machine` round the pure
//! `kontiki_state`), shown (`serve::view`) and published (`serve::hub`), and only then answered.
//!
//! Invariants
//! - What was acknowledged is on the disks of a majority.
//! - Apply is a pure function of the log, so all members are equal at equal index.
//! - A watcher sees every change once and in order, or is told that it does not.
//! - An unknown outcome is never reported as a failure.
//!
//! Not here: objects, names, versions of an API. A value is bytes.

mod config;
mod disk;
mod error;
mod raft;
mod rescue;
mod rt;
mod serve;
mod status;
mod store;
mod types;
mod upkeep;
mod world;

pub use config::{Config, Past, PeerTls};
pub use disk::{
    identity,
    past::{Change, Told, When},
};
pub use error::{HistoryError, MemberError, OpenError, QueryError, ReadError, StoreError, WriteError};
#[doc(hidden)]
pub use kontiki_state::planted;
pub use kontiki_state::{
    Batch, Compare, CompareOp, End, Entry, Event, EventKind, KeyRange, Lease, Op, Order, Put, PutLease, RangeQuery,
    RangeResult, Refusal, Response, ResponseKind, Revision, Snapshot, SortBy, Target, Term, Txn, TxnResult,
};
pub use raft::{
    generation::{adopt_generation, generation_of},
    members::members_at,
};
pub use rescue::{
    backup::Backup,
    restore::{BackupInfo, FirstMember, REVISION_BUMP, RescueError, backup_info, restore},
    survivor::{Survivor, SurvivorState},
};
pub use serve::watch::{Watch, WatchItem};
pub use status::{Member, Role, Status};
#[doc(hidden)]
pub use store::Tuning;
pub use store::{MAX_TXN_BYTES, Store};

/// For whoever lets members live in another world than the real one: see `world`.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation {
    pub use crate::world::{
        Applied, Call, CallError, Change, Changes, Disk, Logged, Pair, Peer, Pieces, Port, Rows, Saw, Sleep, World,
        install,
    };
}
