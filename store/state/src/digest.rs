//! A digest of the state that is kept up with every change, so that members can compare theirs at any entry.
//!
//! It is the sum of the hashes of all keys and leases (a multiset hash): adding and removing one costs a look at that
//! one. Sums of XXH3 tell states apart that differ by mistake; they are no defence against somebody who makes two
//! states alike on purpose.
//!
//! Invariants
//! - The same on every machine and for every version of the program: it lies on disk and is sent.
//! - Where an entry lies in memory, and what was there before, makes no difference.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{Lease, Level, Revision, packed::Packed};

/// Of a whole state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Digest(pub u128);

/// The sum over keys and leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(pub u128);

const KEY: u64 = 1;
const LEASE: u64 = 2;
const STATE: u64 = 3;

impl Sum {
    /// A key came to be what it is.
    pub fn add(&mut self, key: &Packed) {
        self.0 = self.0.wrapping_add(xxh3_128_with_seed(key.bytes(), KEY));
    }

    /// A key is no longer this.
    pub fn remove(&mut self, key: &Packed) {
        self.0 = self.0.wrapping_sub(xxh3_128_with_seed(key.bytes(), KEY));
    }

    /// A lease was made.
    pub fn add_lease(&mut self, id: i64, lease: &Lease) {
        self.0 = self.0.wrapping_add(of_lease(id, lease));
    }

    /// A lease is gone.
    pub fn remove_lease(&mut self, id: i64, lease: &Lease) {
        self.0 = self.0.wrapping_sub(of_lease(id, lease));
    }

    /// The digest of the state that has these keys, and these counters.
    #[must_use]
    pub fn digest(self, revision: Revision, compacted: Option<Revision>, level: Level) -> Digest {
        let compacted = compacted.map_or(0, |revision| revision.0.saturating_add(1));
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.0.to_le_bytes());
        for (place, number) in [revision.0, compacted, u64::from(level.0)].into_iter().enumerate() {
            bytes[16 + 8 * place..24 + 8 * place].copy_from_slice(&number.to_le_bytes());
        }
        Digest(xxh3_128_with_seed(&bytes, STATE))
    }
}

fn of_lease(id: i64, lease: &Lease) -> u128 {
    let mut bytes = [0; 24];
    for (place, number) in [id.cast_unsigned(), lease.ttl.cast_unsigned(), lease.granted].into_iter().enumerate() {
        bytes[8 * place..8 * place + 8].copy_from_slice(&number.to_le_bytes());
    }
    xxh3_128_with_seed(&bytes, LEASE)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Entry;

    fn entry(key: usize, value: &'static [u8]) -> Entry {
        Entry {
            key: vec![b'k'; key].into(),
            value: Bytes::from_static(value),
            create_revision: Revision(3),
            mod_revision: Revision(4),
            version: 2,
            expires: None,
            lease: 0,
        }
    }

    #[test]
    fn order_makes_no_difference_and_everything_else_does() {
        let sum = |entries: &[Entry]| {
            let mut sum = Sum::default();
            entries.iter().for_each(|entry| sum.add(&Packed::from(entry)));
            sum
        };
        let (a, b, long) = (entry(3, b"a"), entry(4, b"b"), entry(900, b""));
        assert_eq!(sum(&[a.clone(), b.clone(), long.clone()]), sum(&[long.clone(), b.clone(), a.clone()]));
        let mut less = sum(&[a.clone(), b.clone()]);
        less.remove(&Packed::from(&b));
        assert_eq!(less, sum(std::slice::from_ref(&a)));
        let others = [
            entry(3, b"b"),
            entry(5, b"a"),
            Entry { create_revision: Revision(2), ..a.clone() },
            Entry { mod_revision: Revision(5), ..a.clone() },
            Entry { version: 3, ..a.clone() },
            Entry { expires: Some(0), ..a.clone() },
            Entry { lease: 1, ..a.clone() },
        ];
        for other in &others {
            assert_ne!(sum(std::slice::from_ref(other)), sum(std::slice::from_ref(&a)), "{other:?}");
        }
        let whole = |revision, compacted, level| less.digest(Revision(revision), compacted, Level(level));
        let all = [whole(4, None, 0), whole(5, None, 0), whole(4, Some(Revision(0)), 0), whole(4, None, 1)];
        assert!(all.iter().enumerate().all(|(at, one)| !all[..at].contains(one)));
    }

    /// It lies on disk: another value would make every directory look damaged.
    #[test]
    fn the_digest_of_a_known_state_stays_what_it_is() {
        let mut sum = Sum::default();
        sum.add(&Packed::from(&entry(3, b"a")));
        sum.add_lease(-7, &Lease { ttl: 60, granted: 9, ..Lease::default() });
        let digest = sum.digest(Revision(4), None, Level(1));
        assert_eq!(format!("{:032x}", digest.0), "7d6a59478f3a6efb69068cf00ebb0b2a");
    }
}
