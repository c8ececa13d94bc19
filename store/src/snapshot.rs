//! A consistent view of all current keys at one revision.
//!
//! Invariants
//! - Taking one costs a few reference counts; it never blocks the writer nor is changed by it.
//! - It holds memory of what it shows: keep it for a request, not for ever.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::OrdMap;

use crate::{Entry, Revision};

/// All current keys at one revision.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) map: OrdMap<Bytes, Arc<Entry>>,
    pub(crate) revision: Revision,
    pub(crate) applied: u64,
}

impl Snapshot {
    /// The revision it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The log index it shows.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// One key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.map.get(key).cloned()
    }

    /// All keys that begin with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        self.span(Bound::Included(Bytes::copy_from_slice(prefix)), prefix)
    }

    /// The keys after `start_after` that begin with `prefix`, in order.
    pub fn range_from<'a>(
        &'a self,
        prefix: &[u8],
        start_after: &[u8],
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let from = if start_after < prefix {
            Bound::Included(Bytes::copy_from_slice(prefix))
        } else {
            Bound::Excluded(Bytes::copy_from_slice(start_after))
        };
        self.span(from, prefix)
    }

    /// How many keys begin with `prefix`.
    #[must_use]
    pub fn count(&self, prefix: &[u8]) -> usize {
        self.range(prefix).count()
    }

    fn span<'a>(&'a self, from: Bound<Bytes>, prefix: &[u8]) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let to = match prefix_end(prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.map.range((from, to)).map(|(_, entry)| entry)
    }
}

/// The first key after all that begin with `prefix`; `None` if there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}
