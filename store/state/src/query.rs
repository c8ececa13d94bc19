//! Answers a [`RangeQuery`] from entries in key order. Pure; the options mean what etcd's mean.

use std::{cmp::Ordering, ops::Bound, sync::Arc};

use bytes::Bytes;
use imbl::OrdSet;

use crate::{Entry, KeyRange, Order, RangeQuery, RangeResult, SortBy, keys::End, packed::Packed};

/// Where an entry is found: packed, or as it is.
pub trait Found {
    /// The entry.
    fn entry(self) -> Arc<Entry>;
}

impl Found for &Packed {
    fn entry(self) -> Arc<Entry> {
        Arc::new(self.entry())
    }
}

impl Found for &Arc<Entry> {
    fn entry(self) -> Arc<Entry> {
        Arc::clone(self)
    }
}

/// Answers from the current keys.
pub fn query(keys: &OrdSet<Packed>, query: &RangeQuery) -> RangeResult {
    if query.range.end == End::Key {
        return answer(keys.get(&query.range.start[..]).into_iter(), query);
    }
    if query.range.is_empty() {
        return RangeResult::default();
    }
    answer(in_range(keys, &query.range), query)
}

/// The keys of a range that is not empty, in order.
pub fn in_range<'a>(keys: &'a OrdSet<Packed>, range: &KeyRange) -> impl Iterator<Item = &'a Packed> + use<'a> {
    let (from, to) = range.bounds();
    between(keys, from, to)
}

/// The keys between two, in order.
pub fn between(keys: &OrdSet<Packed>, from: Bound<Bytes>, to: Bound<Bytes>) -> impl Iterator<Item = &Packed> + use<'_> {
    let (from, to) = (from.as_ref().map(|key| &key[..]), to.as_ref().map(|key| &key[..]));
    keys.range::<(Bound<&[u8]>, Bound<&[u8]>), [u8]>((from, to))
}

/// Answers from `entries`: all of the query's range, in key order.
pub fn answer<F: Found>(entries: impl Iterator<Item = F>, query: &RangeQuery) -> RangeResult {
    if query.count_only {
        return RangeResult { count: entries.count() as u64, ..RangeResult::default() };
    }
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let filters = [query.min_mod, query.max_mod, query.min_create, query.max_create] != [0; 4];
    // Without a sort or filter that was asked for, no more are looked at than one beyond the limit.
    let look_at =
        if limit == 0 || filters || query.order != Order::None { usize::MAX } else { limit.saturating_add(1) };
    let (mut count, mut found) = (0u64, Vec::new());
    for entry in entries {
        count += 1;
        if count as usize <= look_at {
            let entry = entry.entry();
            if passes(&entry, query) {
                found.push(entry);
            }
        }
    }
    sort(&mut found, query);
    let more = limit != 0 && found.len() > limit;
    if more {
        found.truncate(limit);
    }
    if query.keys_only {
        // etcd answers from its index, which knows no leases, unless it needs the values to sort by them.
        let lease = |entry: &Entry| if query.by == SortBy::Value { entry.lease } else { 0 };
        for entry in &mut found {
            *entry = Arc::new(Entry { value: Bytes::new(), lease: lease(entry), ..Entry::clone(entry) });
        }
    }
    RangeResult { entries: found, count, more }
}

fn passes(entry: &Entry, query: &RangeQuery) -> bool {
    let (modified, created) = (entry.mod_revision.0.cast_signed(), entry.create_revision.0.cast_signed());
    (query.min_mod == 0 || modified >= query.min_mod)
        && (query.max_mod == 0 || modified <= query.max_mod)
        && (query.min_create == 0 || created >= query.min_create)
        && (query.max_create == 0 || created <= query.max_create)
}

fn sort(found: &mut [Arc<Entry>], query: &RangeQuery) {
    let order = match query.order {
        Order::None if query.by == SortBy::Key => return,
        Order::None | Order::Ascend => Order::Ascend,
        Order::Descend => Order::Descend,
    };
    let compare: fn(&Entry, &Entry) -> Ordering = match query.by {
        SortBy::Key => |a, b| a.key.cmp(&b.key),
        SortBy::Version => |a, b| a.version.cmp(&b.version),
        SortBy::Create => |a, b| a.create_revision.cmp(&b.create_revision),
        SortBy::Mod => |a, b| a.mod_revision.cmp(&b.mod_revision),
        SortBy::Value => |a, b| a.value.cmp(&b.value),
    };
    // Stable: equal ones stay in key order either way.
    if order == Order::Ascend {
        found.sort_by(|a, b| compare(a, b));
    } else {
        found.sort_by(|a, b| compare(b, a));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    /// Keys a to e; e was created first, all have other values, `c` was put three times.
    fn keys() -> OrdSet<Packed> {
        let rows =
            [("a", 5, 5, 1, "v"), ("b", 4, 6, 2, "w"), ("c", 3, 9, 3, "x"), ("d", 2, 7, 2, "y"), ("e", 1, 8, 2, "a")];
        let entry = |(key, create, modified, version, value): (&'static str, u64, u64, u64, &'static str)| Entry {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            version,
            expires: None,
            lease: 7,
        };
        rows.map(entry).iter().map(Packed::from).collect()
    }

    #[test]
    fn options_mean_what_etcds_mean() {
        let all = || RangeQuery::new(KeyRange::prefix(""));
        for (name, query, expect, count, more) in [
            ("everything", all(), "abcde", 5, false),
            ("one key", RangeQuery::new(KeyRange::key("c")), "c", 1, false),
            ("a missing key", RangeQuery::new(KeyRange::key("x")), "", 0, false),
            ("an inverted range", RangeQuery::new(KeyRange::of("d".into(), "b".into())), "", 0, false),
            ("a limit counts all", RangeQuery { limit: 2, ..all() }, "ab", 5, true),
            ("a limit just met", RangeQuery { limit: 5, ..all() }, "abcde", 5, false),
            ("count only", RangeQuery { limit: 2, count_only: true, ..all() }, "", 5, false),
            ("descending", RangeQuery { limit: 2, order: Order::Descend, ..all() }, "ed", 5, true),
            ("by value", RangeQuery { order: Order::Ascend, by: SortBy::Value, ..all() }, "eabcd", 5, false),
            (
                "equal ones in key order",
                RangeQuery { order: Order::Descend, by: SortBy::Version, ..all() },
                "cbdea",
                5,
                false,
            ),
            (
                "a target alone sorts what the limit left",
                RangeQuery { limit: 2, by: SortBy::Create, ..all() },
                "cb",
                5,
                true,
            ),
            (
                "a sort sees all",
                RangeQuery { limit: 2, order: Order::Ascend, by: SortBy::Create, ..all() },
                "ed",
                5,
                true,
            ),
            ("filters", RangeQuery { min_mod: 6, max_mod: 8, ..all() }, "bde", 5, false),
            ("filters before the limit", RangeQuery { limit: 1, min_create: 2, max_create: 3, ..all() }, "c", 5, true),
        ] {
            let result = super::query(&keys(), &query);
            let names: Vec<u8> = result.entries.iter().flat_map(|entry| entry.key.to_vec()).collect();
            assert_eq!((names.as_slice(), result.count, result.more), (expect.as_bytes(), count, more), "{name}");
        }
        for (by, lease) in [(SortBy::Key, 0), (SortBy::Mod, 0), (SortBy::Value, 7)] {
            let bare = RangeQuery { keys_only: true, by, ..RangeQuery::new(KeyRange::key("c")) };
            let bare = Arc::clone(&super::query(&keys(), &bare).entries[0]);
            assert_eq!((bare.value.len(), bare.lease, bare.version), (0, lease, 3), "{by:?}");
        }
    }
}
