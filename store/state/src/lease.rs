//! What the state knows of a lease.

use bytes::Bytes;
use imbl::OrdSet;

/// A lease: keys that live as long as somebody keeps it alive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// How long it lives after it was last kept alive, in seconds.
    pub ttl: i64,
    /// Index of the log entry that granted it: what tells it from an earlier one of the same id.
    pub granted: u64,
    /// The keys attached to it.
    pub keys: OrdSet<Bytes>,
}

impl Lease {
    /// The lease alone, which is cheap to keep.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        Self { keys: OrdSet::new(), ..*self }
    }
}
