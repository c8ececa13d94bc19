//! The store's vocabulary: entries, transactions, events. Plain data, no behaviour beyond constructors. A key is any byte string, a value too: the store knows nothing of objects.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
pub use kontiki_model::{Revision, Term};

use crate::KeyRange;

/// Where an entry stands in the log, and the term of the leader that put it there. Later entries are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId {
    /// The leader's term.
    pub term: Term,
    /// Its place in the log.
    pub index: u64,
}

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
    /// The lease that the key lives by; zero if none.
    pub lease: i64,
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

/// What a condition looks at, and the value it is held against. Numbers are signed as etcd's are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The number of puts since creation.
    Version(i64),
    /// The revision of creation.
    CreateRevision(i64),
    /// The revision of the last put.
    ModRevision(i64),
    /// The value, bytewise.
    Value(Bytes),
    /// The lease.
    Lease(i64),
}

/// One condition of a transaction, judged on the state before it. Every key of the range has to
/// meet it; where there is none, a missing key is judged: its numbers are zero, and it fails every
/// comparison of values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// Whom it concerns.
    pub range: KeyRange,
    /// How what is there has to relate to `target`.
    pub op: CompareOp,
    /// What is looked at, and what it is held against.
    pub target: Target,
}

impl Compare {
    /// A condition on one key.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, op: CompareOp, target: Target) -> Self {
        Self { range: KeyRange::key(key), op, target }
    }

    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, CompareOp::Eq, Target::ModRevision(0))
    }

    /// The key exists.
    #[must_use]
    pub fn present(key: impl Into<Bytes>) -> Self {
        Self::new(key, CompareOp::Gt, Target::ModRevision(0))
    }

    /// The key was last put at `rev`.
    #[must_use]
    pub fn unchanged(key: impl Into<Bytes>, rev: Revision) -> Self {
        Self::new(key, CompareOp::Eq, Target::ModRevision(rev.0.cast_signed()))
    }

    /// The key's value is this.
    #[must_use]
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(key, CompareOp::Eq, Target::Value(value.into()))
    }
}

/// What a put does to the key's lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutLease {
    /// Attaches the key to this lease; 0 detaches it.
    Set(i64),
    /// Leaves it as it is. The key has to exist.
    Keep,
}

/// Sets a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value; `None` leaves it as it is, and the key has to exist.
    pub value: Option<Bytes>,
    /// When the key is to be removed, in Unix seconds.
    pub expires: Option<u64>,
    /// The lease that the key lives by.
    pub lease: PutLease,
    /// Whether the answer tells what the key was before.
    pub prev: bool,
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets a key.
    Put(Put),
    /// Removes keys; with `prev` the answer tells what they were.
    Delete { range: KeyRange, prev: bool },
    /// Reads keys.
    Range(RangeQuery),
    /// A transaction within the transaction. Its conditions too are judged on the state before all.
    Txn(Txn),
}

impl Op {
    /// A put that stays.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::put_until(key, value, None)
    }

    /// A put that stays until it expires, at a time in Unix seconds.
    #[must_use]
    pub fn put_until(key: impl Into<Bytes>, value: impl Into<Bytes>, expires: Option<u64>) -> Self {
        let (key, value) = (key.into(), Some(value.into()));
        Self::Put(Put { key, value, expires, lease: PutLease::Set(0), prev: false })
    }

    /// A deletion of one key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { range: KeyRange::key(key), prev: false }
    }

    /// A deletion of every key that begins with `prefix`.
    #[must_use]
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Delete { range: KeyRange::prefix(prefix), prev: false }
    }

    /// A look at one key.
    #[must_use]
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Range(RangeQuery::new(KeyRange::key(key)))
    }
}

/// By what a range is sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SortBy {
    /// The key.
    #[default]
    Key,
    /// The number of puts.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last put.
    Mod,
    /// The value.
    Value,
}

/// Whether a range is sorted, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As it comes; by anything but the key this means ascending, after the limit was applied.
    #[default]
    None,
    /// Lowest first.
    Ascend,
    /// Highest first.
    Descend,
}

/// A question for keys, with etcd's options. Zero in a filter means none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeQuery {
    /// Which keys.
    pub range: KeyRange,
    /// As of which revision; zero means now.
    pub revision: i64,
    /// The most that is answered; zero means all.
    pub limit: u64,
    /// Sorted how.
    pub order: Order,
    /// Sorted by what.
    pub by: SortBy,
    /// Leave the values (and leases) away.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Only keys last put at or after this revision.
    pub min_mod: i64,
    /// Only keys last put at or before this revision.
    pub max_mod: i64,
    /// Only keys created at or after this revision.
    pub min_create: i64,
    /// Only keys created at or before this revision.
    pub max_create: i64,
}

impl RangeQuery {
    /// All of a range, as it is now.
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: 0,
            order: Order::None,
            by: SortBy::Key,
            keys_only: false,
            count_only: false,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
        }
    }
}

/// What a [`RangeQuery`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeResult {
    /// The keys.
    pub entries: Vec<Arc<Entry>>,
    /// How many keys the range holds, whatever limit and filters say.
    pub count: u64,
    /// Whether the limit cut some off.
    pub more: bool,
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

    /// Does `ops` if all `compares` hold; otherwise looks at what they were about
    /// (see [`TxnResult::current`]).
    #[must_use]
    pub fn guarded(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        let look = compares.iter().map(|compare| Op::Range(RangeQuery::new(compare.range.clone())));
        Self { failure: look.collect(), compares, success: ops, fence: None }
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
    /// What became of each operation of the branch that was taken.
    pub responses: Vec<Response>,
}

impl TxnResult {
    /// After a guarded transaction whose compares did not hold: the first entry that the compare at
    /// `index` was about, if there is one.
    #[must_use]
    pub fn current(&self, index: usize) -> Option<&Arc<Entry>> {
        match self.responses.get(index) {
            Some(Response { kind: ResponseKind::Range(found), .. }) if !self.succeeded => found.entries.first(),
            _ => None,
        }
    }
}

/// What became of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The revision after it: the transaction's own once something was written.
    pub revision: Revision,
    /// What it told.
    pub kind: ResponseKind,
}

/// What an operation told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResponseKind {
    /// A key was set; it was this before, if that was asked for.
    Put(Option<Arc<Entry>>),
    /// So many keys were removed, and were these, if that was asked for.
    Delete(u64, Vec<Arc<Entry>>),
    /// What was found.
    Range(RangeResult),
    /// The question is about the past, which whoever asked reads from history.
    Past(RangeQuery),
    /// A transaction within the transaction.
    Txn(TxnResult),
}

/// Why a command did nothing. All members decide the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The writer's term was not the log's.
    #[error("the writer's leadership is over")]
    Fenced,
    /// There is no such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The id of the new lease is in use.
    #[error("lease already exists")]
    LeaseExists,
    /// A put was to keep something of a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// The revision is compacted.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision has not happened.
    #[error("required revision is a future revision")]
    Future,
    /// The command could not be read.
    #[error("the command is malformed")]
    Malformed,
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

/// The events of one revision that concern the same watchers, and what they were encoded to.
#[derive(Clone)]
pub struct Batch(Arc<Inner>);

struct Inner {
    events: Box<[Event]>,
    encoded: [OnceLock<Bytes>; Batch::FORMS],
}

impl Batch {
    /// How many encodings a batch can keep.
    pub const FORMS: usize = 2;

    /// The encoding of these events in a form, made by the first who asks and shared by all others.
    pub fn encoded(&self, form: usize, encode: impl FnOnce(&[Event]) -> Bytes) -> Bytes {
        self.0.encoded[form].get_or_init(|| encode(&self.0.events)).clone()
    }
}

impl Deref for Batch {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        &self.0.events
    }
}

impl From<Vec<Event>> for Batch {
    fn from(events: Vec<Event>) -> Self {
        Self(Arc::new(Inner { events: events.into(), encoded: Default::default() }))
    }
}

impl FromIterator<Event> for Batch {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Self {
        events.into_iter().collect::<Vec<_>>().into()
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
