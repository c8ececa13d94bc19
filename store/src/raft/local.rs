//! What the apply task tells the other tasks of this member, and why the member stopped by itself, if it did.

use std::{
    collections::VecDeque,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::raft::leases::Leases;
use kontiki_state::{Digest, Level};

/// Digests are noted at the entries that all members note, those of this multiple.
const EVERY: u64 = 64;
/// How many are kept: seconds of writing at full speed.
const KEPT: usize = 1024;

/// Shared by the tasks of one member.
pub(crate) struct Local {
    pub leases: Leases,
    pub samples: Samples,
    /// The newest level that this member says it knows.
    pub newest: Level,
    level: AtomicU32,
    halted: OnceLock<String>,
    /// How often all members were found equal.
    equal: AtomicU64,
}

impl Local {
    pub fn new(newest: Level, level: Level) -> Self {
        Self {
            leases: Leases::new(),
            samples: Samples::default(),
            newest,
            level: AtomicU32::new(level.0),
            halted: OnceLock::new(),
            equal: AtomicU64::new(0),
        }
    }

    /// The group's level, as applied here.
    pub fn level(&self) -> Level {
        Level(self.level.load(Ordering::Acquire))
    }

    pub fn set_level(&self, level: Level) {
        self.level.store(level.0, Ordering::Release);
    }

    /// All members were compared and equal.
    pub fn found_equal(&self) {
        self.equal.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was so.
    pub fn times_found_equal(&self) -> u64 {
        self.equal.load(Ordering::Relaxed)
    }

    /// Notes why this member stops; the first reason stays.
    pub fn halt(&self, reason: String) {
        if self.halted.set(reason).is_ok() {
            tracing::error!(reason = self.halted(), "this member stops");
        }
    }

    /// Why this member stopped by itself.
    pub fn halted(&self) -> Option<&str> {
        self.halted.get().map(String::as_str)
    }
}

/// Digests of the state as of recent entries.
#[derive(Default)]
pub(crate) struct Samples(Mutex<VecDeque<(u64, Digest)>>);

impl Samples {
    /// Whether the digest as of an entry is noted even in the middle of others.
    pub fn wants(index: u64) -> bool {
        index.is_multiple_of(EVERY)
    }

    /// Notes the digest as of an entry, later than those before.
    pub fn note(&self, index: u64, digest: Digest) {
        let mut samples = self.0.lock();
        if samples.back().is_some_and(|(last, _)| *last == index) {
            return;
        }
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back((index, digest));
    }

    /// The digest as of an entry, if it was noted and is still kept.
    pub fn at(&self, index: u64) -> Option<Digest> {
        let samples = self.0.lock();
        let at = samples.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(samples[at].1)
    }

    /// The latest one, and the latest one of those that all members note.
    pub fn latest(&self) -> [Option<(u64, Digest)>; 2] {
        let samples = self.0.lock();
        [samples.back().copied(), samples.iter().rev().find(|(index, _)| Self::wants(*index)).copied()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_index_until_they_are_old() {
        let samples = Samples::default();
        (1..=2000).filter(|index| Samples::wants(*index) || *index > 1990).for_each(|index| {
            samples.note(index, Digest(index.into()));
            samples.note(index, Digest(0));
        });
        assert_eq!((samples.at(64), samples.at(65), samples.at(1999)), (Some(Digest(64)), None, Some(Digest(1999))));
        assert_eq!(samples.latest(), [Some((2000, Digest(2000))), Some((1984, Digest(1984)))]);
        (0..KEPT as u64).for_each(|more| samples.note(2001 + more, Digest(1)));
        assert_eq!(samples.at(2000), None);
    }
}
