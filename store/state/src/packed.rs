//! A key and all that is known of it as one piece of memory: what the state keeps of each of a million keys.
//!
//! Layout: length of the key (varint), the key, revision of creation, revision of the last put, version, expiry
//! (shifted by one), lease (zigzag), all varints, then the value.
//!
//! Invariants
//! - Equal entries have equal bytes: the digest is made of them, so the layout stays what it is (see `digest`).
//! - What is taken out of it shares its memory.

use std::{borrow::Borrow, cmp::Ordering, fmt, sync::Arc};

use bytes::Bytes;

use crate::{Entry, Revision, codec::Writer};

/// See the module. Equal and ordered by key alone.
#[derive(Clone)]
pub struct Packed(Arc<[u8]>);

/// What is known of a key beside its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
    pub expires: Option<u64>,
    pub lease: i64,
}

/// Hands the memory of an entry to those who keep a part of it.
struct Owner(Arc<[u8]>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Packed {
    /// Packs what a key is.
    #[must_use]
    pub fn new(key: &[u8], numbers: Numbers, value: &[u8]) -> Self {
        let mut out = Writer::with_capacity(key.len() + value.len() + 48);
        out.bytes(key);
        out.varint(numbers.create_revision.0);
        out.varint(numbers.mod_revision.0);
        out.varint(numbers.version);
        out.option(numbers.expires);
        out.signed(numbers.lease);
        out.raw(value);
        Self(Arc::from(out.as_slice()))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        let (at, length) = key_place(&self.0);
        &self.0[at..at + length]
    }

    /// What is known beside the value.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.read().0
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.0[self.read().1..]
    }

    /// All of it.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let whole = Bytes::from_owner(Owner(Arc::clone(&self.0)));
        let (at, length) = key_place(&self.0);
        let (numbers, value) = self.read();
        let Numbers { create_revision, mod_revision, version, expires, lease } = numbers;
        Entry {
            key: whole.slice(at..at + length),
            value: whole.slice(value..),
            create_revision,
            mod_revision,
            version,
            expires,
            lease,
        }
    }

    /// The numbers, and where the value begins.
    fn read(&self) -> (Numbers, usize) {
        let (at, length) = key_place(&self.0);
        let mut place = at + length;
        let mut next = || varint(&self.0, &mut place);
        let (create, modified, version, expires, lease) = (next(), next(), next(), next(), next());
        let numbers = Numbers {
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version,
            expires: expires.checked_sub(1),
            lease: (lease >> 1).cast_signed() ^ -(lease & 1).cast_signed(),
        };
        (numbers, place)
    }
}

/// Where the key begins, and its length.
fn key_place(bytes: &[u8]) -> (usize, usize) {
    let mut at = 0;
    let length = varint(bytes, &mut at);
    (at, length as usize)
}

/// Only for what `Packed::new` wrote.
fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

impl From<&Entry> for Packed {
    fn from(entry: &Entry) -> Self {
        let Entry { key, value, create_revision, mod_revision, version, expires, lease } = entry;
        let (create_revision, mod_revision, version) = (*create_revision, *mod_revision, *version);
        let numbers = Numbers { create_revision, mod_revision, version, expires: *expires, lease: *lease };
        Self::new(key, numbers, value)
    }
}

impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packed {}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            key in proptest::collection::vec(any::<u8>(), 0..300),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            (create, modified, version, expires, lease) in
                (any::<u64>(), any::<u64>(), any::<u64>(), proptest::option::of(0..u64::MAX), any::<i64>()),
        ) {
            let entry = Entry {
                key: key.clone().into(),
                value: value.clone().into(),
                create_revision: Revision(create),
                mod_revision: Revision(modified),
                version,
                expires,
                lease,
            };
            let packed = Packed::from(&entry);
            prop_assert_eq!((packed.key(), packed.value(), packed.numbers().lease), (&key[..], &value[..], lease));
            prop_assert_eq!(packed.entry(), entry);
        }
    }
}
