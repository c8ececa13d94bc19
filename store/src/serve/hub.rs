//! Hands each revision's events to whoever watches.
//!
//! Invariants
//! - Only one task at a time publishes. Each revision is published once, in order, after it is visible
//!   in snapshots.
//! - A watcher is joined at a revision under the same lock that publishes, so between history and
//!   live there is neither gap nor duplicate.
//! - Queues are bounded. A watcher whose queue is full is dropped and told so; nothing is skipped.
//! - Publishing costs by watchers concerned, not by watchers: they are grouped by what they watch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use kontiki_state::{
    Batch, KeyRange, Revision,
    keys::End as RangeEnd,
    planted::{self, Bug},
};

/// Revisions that may wait for one watcher. At a thousand matching writes a second, seconds.
pub(crate) const QUEUE: usize = 4096;

/// Why a watcher's queue was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The store stopped.
    Stopped,
    /// The queue was full.
    Lagged,
    /// A snapshot replaced the state: go on from history.
    Replaced,
}

/// A joined watcher's end of its queue.
pub(crate) struct Subscription {
    pub rx: mpsc::Receiver<Batch>,
    end: Arc<AtomicU8>,
}

impl Subscription {
    /// Why the queue ended; to be asked once it has.
    pub fn end(&self) -> End {
        match self.end.load(Ordering::Acquire) {
            1 => End::Lagged,
            2 => End::Replaced,
            _ => End::Stopped,
        }
    }
}

struct Watcher {
    tx: mpsc::Sender<Batch>,
    end: Arc<AtomicU8>,
}

/// Watchers by what they watch. A batch finds those of its keys and of their prefixes by lookup;
/// ranges that are neither one key nor one prefix are rare, and are all looked at.
#[derive(Default)]
struct Groups {
    by_range: HashMap<KeyRange, Vec<Watcher>>,
    /// How many prefixes have each length: what to look up for a key.
    lengths: BTreeMap<usize, usize>,
    /// The ranges that are neither.
    odd: Vec<KeyRange>,
    closed: bool,
}

/// The hub of one member.
pub(crate) struct Hub {
    groups: Mutex<Groups>,
    published: AtomicU64,
}

impl Hub {
    pub fn new(published: Revision) -> Self {
        Self { groups: Mutex::default(), published: AtomicU64::new(published.0) }
    }

    /// Everything up to here is in the queues of those concerned.
    pub fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    /// Joins a watcher who has seen everything up to `seen`; `None` if more has happened since.
    pub fn join(&self, range: &KeyRange, seen: Revision) -> Option<Subscription> {
        let mut groups = self.groups.lock();
        let behind = if planted::is(Bug::SkippedWatchEvent) { seen.next() } else { seen };
        if behind < self.published() {
            return None;
        }
        let (tx, rx) = mpsc::channel(QUEUE);
        let end = Arc::new(AtomicU8::new(0));
        if !groups.closed {
            groups.add(range, Watcher { tx, end: Arc::clone(&end) });
        }
        Some(Subscription { rx, end })
    }

    /// Joins a watcher for what comes next, and says after which revision that is.
    pub fn join_now(&self, range: &KeyRange) -> (Subscription, Revision) {
        loop {
            let now = self.published();
            if let Some(subscription) = self.join(range, now) {
                return (subscription, now);
            }
        }
    }

    /// Whether anybody watches anything.
    pub fn has_watchers(&self) -> bool {
        !self.groups.lock().by_range.is_empty()
    }

    /// Publishes revisions, in order. `upto` is the last, also if it had no events.
    pub fn publish(&self, batches: &[Batch], upto: Revision) {
        let mut groups = self.groups.lock();
        for batch in batches {
            groups.deliver(batch);
        }
        self.published.store(upto.0, Ordering::Release);
    }

    /// A snapshot took the state to `revision`: everyone has to look at history.
    pub fn replace(&self, revision: Revision) {
        let mut groups = self.groups.lock();
        if !planted::is(Bug::WatchSkipsSnapshot) {
            groups.end_all(2);
        }
        self.published.store(revision.0, Ordering::Release);
    }

    /// Ends all watches, now and later.
    pub fn close(&self) {
        let mut groups = self.groups.lock();
        groups.closed = true;
        groups.end_all(0);
    }
}

impl Groups {
    fn add(&mut self, range: &KeyRange, watcher: Watcher) {
        let group = self.by_range.entry(range.clone()).or_insert_with(|| {
            match (range.as_prefix(), &range.end) {
                (Some(prefix), _) => *self.lengths.entry(prefix.len()).or_default() += 1,
                (None, RangeEnd::Key) => {}
                (None, _) => self.odd.push(range.clone()),
            }
            Vec::new()
        });
        // Those who left are swept when somebody joins, so that a group of quiet keys cannot grow.
        group.retain(|watcher| !watcher.tx.is_closed());
        group.push(watcher);
    }

    fn deliver(&mut self, batch: &Batch) {
        if self.by_range.is_empty() {
            return;
        }
        // Common: one event, or events that all concern the same watchers.
        let mut concerned: Vec<KeyRange> = Vec::new();
        let mut add = |range: KeyRange| {
            if self.by_range.contains_key(&range) && !concerned.contains(&range) {
                concerned.push(range);
            }
        };
        for event in batch.iter() {
            let key = &event.entry.key;
            add(KeyRange::key(key.clone()));
            for len in self.lengths.keys().take_while(|len| **len <= key.len()) {
                add(KeyRange::prefix(key.slice(..*len)));
            }
            self.odd.iter().filter(|range| range.contains(key)).for_each(|range| add(range.clone()));
        }
        for range in concerned {
            self.deliver_to(&range, batch);
        }
    }

    fn deliver_to(&mut self, range: &KeyRange, batch: &Batch) {
        let part = if batch.iter().all(|event| range.contains(&event.entry.key)) {
            batch.clone()
        } else {
            batch.iter().filter(|event| range.contains(&event.entry.key)).cloned().collect()
        };
        let Some(group) = self.by_range.get_mut(range) else { return };
        group.retain(|watcher| match watcher.tx.try_send(part.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                watcher.end.store(1, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if group.is_empty() {
            self.by_range.remove(range);
            self.forget(range);
        }
    }

    fn forget(&mut self, range: &KeyRange) {
        match (range.as_prefix(), &range.end) {
            (Some(prefix), _) => {
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            (None, RangeEnd::Key) => {}
            (None, _) => self.odd.retain(|odd| odd != range),
        }
    }

    fn end_all(&mut self, why: u8) {
        // In a fixed order, so that a simulation can be told again.
        let mut groups: Vec<_> = self.by_range.drain().collect();
        groups.sort_unstable_by(|(a, _), (b, _)| a.start.cmp(&b.start));
        for watcher in groups.into_iter().flat_map(|(_, group)| group) {
            watcher.end.store(why, Ordering::Release);
        }
        self.lengths.clear();
        self.odd.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    use kontiki_state::{Entry, Event, EventKind};

    fn batch(revision: u64, keys: &[&'static str]) -> Batch {
        let event = |key: &&'static str| Event {
            kind: EventKind::Put,
            entry: Arc::new(Entry {
                key: Bytes::from_static(key.as_bytes()),
                value: Bytes::new(),
                create_revision: Revision(revision),
                mod_revision: Revision(revision),
                version: 1,
                expires: None,
                lease: 0,
            }),
            prev: None,
        };
        keys.iter().map(event).collect()
    }

    fn drain(subscription: &mut Subscription) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(batch) = subscription.rx.try_recv() {
            let keys = batch.iter().map(|e| String::from_utf8_lossy(&e.entry.key).into_owned());
            seen.push(keys.collect::<Vec<_>>().join("+"));
        }
        seen
    }

    #[test]
    fn each_watcher_gets_its_prefix_once() {
        let hub = Hub::new(Revision(1));
        let [mut all, mut a, mut deep] = ["", "/a/", "/a/x/"].map(|p| hub.join_now(&KeyRange::prefix(p)).0);
        let mut one = hub.join_now(&KeyRange::key("/a/2")).0;
        let mut odd = hub.join_now(&KeyRange::of("/a/2".into(), "/b/2".into())).0;
        hub.publish(&[batch(2, &["/a/1", "/b/1"]), batch(3, &["/a/x/1", "/a/2"])], Revision(3));
        assert_eq!(drain(&mut all), ["/a/1+/b/1", "/a/x/1+/a/2"]);
        assert_eq!(drain(&mut a), ["/a/1", "/a/x/1+/a/2"]);
        assert_eq!(drain(&mut deep), ["/a/x/1"]);
        assert_eq!(drain(&mut one), ["/a/2"]);
        assert_eq!(drain(&mut odd), ["/b/1", "/a/x/1+/a/2"]);
        assert!(hub.join(&KeyRange::prefix(""), Revision(2)).is_none(), "revision 3 would be missed");
        assert!(hub.join(&KeyRange::prefix(""), Revision(3)).is_some());
    }

    #[test]
    fn a_full_queue_ends_the_watch_after_what_it_holds() {
        let hub = Hub::new(Revision(1));
        let (mut slow, _) = hub.join_now(&KeyRange::prefix(""));
        for revision in 2..QUEUE as u64 + 10 {
            hub.publish(&[batch(revision, &["k"])], Revision(revision));
        }
        assert_eq!(drain(&mut slow).len(), QUEUE);
        assert!(slow.rx.is_closed());
        assert_eq!(slow.end(), End::Lagged);
    }
}
