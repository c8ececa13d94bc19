//! Where a version of etcd answers otherwise than 3.7.3 does as a rule, and so cannot be followed.
//!
//! Invariant
//! - Nothing is left out of a comparison, or brought into one form for it, but by a row here.

use std::fmt;

use crate::group::Kind;

/// What is done otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quirk {
    KeysOnlyShowsLeases,
    OrdersRefusals,
    StartsBeforeTheFirstRevision,
    DiesOfUnknownSorts,
    ProgressWithoutWaiting,
    ForgetsDeletesAtCompaction,
    NoRangeStream,
    StreamSortsByChunk,
    EndedWatchKeepsItsId,
    EndedWatchStopsProgress,
    DiesOfDeleteAndIgnoringPut,
}

use Quirk::*;

/// Which etcds, and what that means for the operations that are sent or the answers compared.
const TABLE: &[(Quirk, &[Kind], &str)] = &[
    (
        KeysOnlyShowsLeases,
        &[Kind::Etcd34],
        "keys_only leaves the lease out only since it is answered from the index: leases are not compared under it, \
         and transactions do not ask for it",
    ),
    (
        OrdersRefusals,
        &[Kind::Etcd34],
        "of several reasons to refuse a transaction or put, those of puts come before those of ranges, and a missing \
         key before a missing lease; else the first operation's comes: which of them is told is not compared",
    ),
    (StartsBeforeTheFirstRevision, &[Kind::Etcd34], "a watch from a negative revision is one from now: none is made"),
    (DiesOfUnknownSorts, &[Kind::Etcd34], "a sort target outside of the enum ends its process: sorts are inside of it"),
    (
        ProgressWithoutWaiting,
        &[Kind::Etcd34],
        "progress is told while a watch of the stream waits for the future: not asked for then",
    ),
    (
        ForgetsDeletesAtCompaction,
        &[Kind::Etcd34],
        "a delete of exactly the compacted revision is gone: no watch starts there",
    ),
    (NoRangeStream, &[Kind::Etcd34], "it came with 3.7: Range is asked instead"),
    (
        StreamSortsByChunk,
        &[Kind::Etcd37],
        "RangeStream by a sort target without an order sorts each chunk and goes on behind its last key, so that \
         some keys come twice, others not at all, and the count is wrong: asked for only where nothing is cut off",
    ),
    (
        EndedWatchKeepsItsId,
        &[Kind::Etcd34, Kind::Etcd37],
        "a watch from the compacted past is canceled by etcd and yet holds its id, and a cancel of it is answered: \
         its id is not used again",
    ),
    (
        EndedWatchStopsProgress,
        &[Kind::Etcd37],
        "such a watch counts as one that is behind, so that the stream is not told of progress until a client \
         cancels it: not asked for then",
    ),
    (
        DiesOfDeleteAndIgnoringPut,
        &[Kind::Etcd34, Kind::Etcd37],
        "a transaction that deletes a key by an open range and puts it with ignore_value ends its process: \
         transactions either delete or ignore",
    ),
];

/// Those of the stores that are compared.
#[derive(Clone, Debug, Default)]
pub struct Quirks(Vec<Quirk>);

impl Quirks {
    pub fn of(kinds: &[Kind]) -> Self {
        let theirs = TABLE.iter().filter(|(_, of, _)| of.iter().any(|kind| kinds.contains(kind)));
        Self(theirs.map(|(quirk, ..)| *quirk).collect())
    }

    pub fn has(&self, quirk: Quirk) -> bool {
        self.0.contains(&quirk)
    }
}

/// What is left out of the comparison, a line each.
impl fmt::Display for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = TABLE.iter().filter(|(quirk, ..)| self.has(*quirk));
        ours.into_iter().try_for_each(|(quirk, of, why)| {
            let names: Vec<_> = of.iter().map(|kind| kind.name()).collect();
            writeln!(f, "  {quirk:?} ({}): {why}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_stores_has_the_quirks_of_both() {
        let newest = Quirks::of(&[Kind::Etcd37, Kind::Kontiki]);
        assert!(newest.has(StreamSortsByChunk) && !newest.has(NoRangeStream));
        let both = Quirks::of(&[Kind::Etcd37, Kind::Etcd34]);
        assert!(both.has(StreamSortsByChunk) && both.has(NoRangeStream));
        assert_eq!(Quirks::of(&[Kind::Kontiki]).to_string(), "");
        assert_eq!(both.to_string().lines().count(), TABLE.len());
    }
}
