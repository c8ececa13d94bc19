//! Ranges of keys.

use std::ops::Bound;

use bytes::Bytes;

/// A run of keys in bytewise order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    /// The first key that may be in it.
    pub start: Bytes,
    /// Where it ends.
    pub end: End,
}

/// Where a [`KeyRange`] ends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// It is the one key `start`.
    Key,
    /// Before this key. Nothing is in a range that would end at or before its start.
    Before(Bytes),
    /// It does not.
    Never,
}

impl KeyRange {
    /// One key.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: End::Key }
    }

    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start).map_or(End::Never, End::Before);
        Self { start, end }
    }

    /// As etcd's `key` and `range_end`: an empty end is one key, `"\0"` is all from `key` on.
    #[must_use]
    pub fn of(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            b"" => End::Key,
            b"\0" => End::Never,
            _ => End::Before(range_end),
        };
        Self { start: key, end }
    }

    /// Whether `key` lies in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Key => self.start == key,
            End::Before(end) => self.start <= key && end[..] > *key,
            End::Never => self.start <= key,
        }
    }

    /// Whether no key can lie in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    /// The prefix that all its keys have and no others, if it can be said so.
    #[must_use]
    pub fn as_prefix(&self) -> Option<&Bytes> {
        let end = match &self.end {
            End::Key => return None,
            End::Before(end) => Some(end),
            End::Never => None,
        };
        (prefix_end(&self.start).as_ref() == end).then_some(&self.start)
    }

    /// For ordered maps. Only for ranges that are not empty.
    pub fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        let to = match &self.end {
            End::Key => Bound::Included(self.start.clone()),
            End::Before(end) => Bound::Excluded(end.clone()),
            End::Never => Bound::Unbounded,
        };
        (Bound::Included(self.start.clone()), to)
    }
}

/// The first key after all that begin with `prefix`; `None` if there is no such key.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_etcd_says_they_hold() {
        let of = |key: &'static str, end: &'static str| {
            KeyRange::of(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()))
        };
        for (range, holds, misses) in [
            (of("b", ""), &["b"][..], &["a", "ba"][..]),
            (of("b", "d"), &["b", "b0", "c"], &["a", "d"]),
            (of("b", "\0"), &["b", "zzz"], &["a"]),
            (of("d", "b"), &[], &["a", "b", "c", "d"]),
            (KeyRange::prefix("b"), &["b", "b~"], &["a", "c"]),
            (KeyRange::prefix(""), &["", "a"], &[]),
        ] {
            assert!(holds.iter().all(|key| range.contains(key.as_bytes())), "{range:?}");
            assert!(!misses.iter().any(|key| range.contains(key.as_bytes())), "{range:?}");
        }
        assert!(of("d", "b").is_empty() && of("b", "b").is_empty() && !of("b", "\0").is_empty());
        assert_eq!(of("b", "c").as_prefix(), Some(&Bytes::from_static(b"b")));
        assert_eq!((of("b", "d").as_prefix(), of("b", "").as_prefix()), (None, None));
        assert_eq!(KeyRange::prefix("").as_prefix(), Some(&Bytes::new()));
    }
}
