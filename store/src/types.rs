//! The store's vocabulary: entries, transactions, events, status. Plain data, no behaviour beyond
//! constructors. A key is any byte string, a value too: the store knows nothing of objects.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
pub use kontiki_model::{Revision, Term};

/// One key as it stands at a revision. Shared as `Arc<Entry>`, never changed in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a deletion event.
    pub value: Bytes,
    /// Revision at which the key came to be (anew after a deletion).
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts since creation, the first included; zero in a deletion event.
    pub version: u64,
    /// When the key is to be removed, in Unix seconds.
    pub expires: Option<u64>,
}

/// What a compared number has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompareOp {
    /// Equal.
    Eq,
    /// Different.
    Ne,
    /// Greater.
    Gt,
    /// Less.
    Lt,
}

/// One condition of a transaction, judged on the state before it. A missing key has revisions and
/// version zero, and fails every comparison of values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// On the revision of the last put.
    ModRevision { key: Bytes, op: CompareOp, rev: Revision },
    /// On the revision of creation.
    CreateRevision { key: Bytes, op: CompareOp, rev: Revision },
    /// On the number of puts since creation.
    Version { key: Bytes, op: CompareOp, version: u64 },
    /// On the value, bytewise.
    Value { key: Bytes, op: CompareOp, value: Bytes },
}

impl Compare {
    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::ModRevision { key: key.into(), op: CompareOp::Eq, rev: Revision(0) }
    }

    /// The key exists.
    #[must_use]
    pub fn present(key: impl Into<Bytes>) -> Self {
        Self::ModRevision { key: key.into(), op: CompareOp::Gt, rev: Revision(0) }
    }

    /// The key was last put at `rev`.
    #[must_use]
    pub fn unchanged(key: impl Into<Bytes>, rev: Revision) -> Self {
        Self::ModRevision { key: key.into(), op: CompareOp::Eq, rev }
    }

    /// The key that is judged.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::ModRevision { key, .. }
            | Self::CreateRevision { key, .. }
            | Self::Version { key, .. }
            | Self::Value { key, .. } => key,
        }
    }
}

/// One effect of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets a key. Without `expires` the key stays until it is deleted.
    Put { key: Bytes, value: Bytes, expires: Option<u64> },
    /// Removes a key; nothing happens if it does not exist.
    Delete { key: Bytes },
    /// Removes every key that begins with `prefix`.
    DeletePrefix { prefix: Bytes },
}

impl Op {
    /// A put that does not expire.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), expires: None }
    }

    /// A deletion of one key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }
}

/// If all `compares` hold, do `success`, otherwise do `failure`; all at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// Conditions, all judged on the state before the transaction. None means "go on".
    pub compares: Vec<Compare>,
    /// What to do if all hold.
    pub success: Vec<Op>,
    /// What to do otherwise.
    pub failure: Vec<Op>,
    /// The term that the writer led in: another leader's log refuses the transaction.
    pub fence: Option<Term>,
}

impl Txn {
    /// Does `ops` unconditionally.
    #[must_use]
    pub fn write(ops: Vec<Op>) -> Self {
        Self { success: ops, ..Self::default() }
    }

    /// Does `ops` if all `compares` hold, otherwise nothing.
    #[must_use]
    pub fn guarded(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Self { compares, success: ops, ..Self::default() }
    }

    /// The same transaction, refused unless the log's leader is still the one of `term`.
    #[must_use]
    pub fn fenced(mut self, term: Option<Term>) -> Self {
        self.fence = term;
        self
    }
}

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxnResult {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The transaction's own revision; the current one if it wrote nothing.
    pub revision: Revision,
    /// If the compares did not hold: the entry under each compare's key. Otherwise empty.
    pub current: Vec<Option<Arc<Entry>>>,
}

/// Whether a key was set or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// Created or changed.
    Put,
    /// Removed.
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Set or removed.
    pub kind: EventKind,
    /// The key as it is now. For a deletion: key and `mod_revision` (the deletion's), empty value.
    pub entry: Arc<Entry>,
    /// The key as it was before this revision; missing if it did not exist.
    pub prev: Option<Arc<Entry>>,
}

/// What a watch yields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchItem {
    /// The matching events of one revision, in the order they were made.
    Events(Arc<[Event]>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The watcher fell behind, or what it still needed was compacted: the watch has ended.
    Lagged,
}

/// A member's part in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes.
    Follower,
    /// Receives the log, does not vote yet.
    Learner,
}

/// One member as seen from here. Only the leader knows how far the others are.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// Member id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Peer address, `host:port`.
    pub address: String,
    /// Its part.
    pub role: Role,
    /// Whether it answered lately.
    pub reachable: bool,
    /// Index of the last log entry known to be durable there.
    pub matched: Option<u64>,
    /// Log entries it is behind by.
    pub lag: Option<u64>,
    /// Its term, as far as known.
    pub term: Term,
}

/// This member's view of the group.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// This member's name.
    pub name: String,
    /// Who leads.
    pub leader: Option<u64>,
    /// Current term.
    pub term: Term,
    /// Whether this member leads and its lease is valid.
    pub is_leader: bool,
    /// On the leader: when a quorum last confirmed it.
    pub last_quorum_ack: Option<Instant>,
    /// Index of the last applied log entry.
    pub applied: u64,
    /// Index of the last log entry here.
    pub last_log: u64,
    /// All members, by id.
    pub members: Vec<Member>,
}
