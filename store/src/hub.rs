//! Hands each revision's events to whoever watches.
//!
//! Invariants
//! - Only the apply task publishes. Each revision is published once, in order, after it is visible
//!   in snapshots.
//! - A watcher is joined at a revision under the same lock that publishes, so between history and
//!   live there is neither gap nor duplicate.
//! - Queues are bounded. A watcher whose queue is full is dropped and told so; nothing is skipped.
//! - Publishing costs by watchers concerned, not by watchers: they are grouped by prefix.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    Event, Revision,
    planted::{self, Bug},
};

/// Revisions that may wait for one watcher. At a thousand matching writes a second, seconds.
pub(crate) const QUEUE: usize = 4096;

/// The events of one revision.
pub(crate) type Batch = Arc<[Event]>;

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

#[derive(Default)]
struct Groups {
    by_prefix: HashMap<Bytes, Vec<Watcher>>,
    /// How many prefixes have each length: what to look up for a key.
    lengths: BTreeMap<usize, usize>,
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
    pub fn join(&self, prefix: &Bytes, seen: Revision) -> Option<Subscription> {
        let mut groups = self.groups.lock();
        let behind = if planted::is(Bug::SkippedWatchEvent) { seen.next() } else { seen };
        if behind < self.published() {
            return None;
        }
        let (tx, rx) = mpsc::channel(QUEUE);
        let end = Arc::new(AtomicU8::new(0));
        if !groups.closed {
            groups.add(prefix, Watcher { tx, end: Arc::clone(&end) });
        }
        Some(Subscription { rx, end })
    }

    /// Joins a watcher for what comes next, and says after which revision that is.
    pub fn join_now(&self, prefix: &Bytes) -> (Subscription, Revision) {
        loop {
            let now = self.published();
            if let Some(subscription) = self.join(prefix, now) {
                return (subscription, now);
            }
        }
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
    fn add(&mut self, prefix: &Bytes, watcher: Watcher) {
        let group = self.by_prefix.entry(prefix.clone()).or_insert_with(|| {
            *self.lengths.entry(prefix.len()).or_default() += 1;
            Vec::new()
        });
        // Those who left are swept when somebody joins, so that a group of quiet keys cannot grow.
        group.retain(|watcher| !watcher.tx.is_closed());
        group.push(watcher);
    }

    fn deliver(&mut self, batch: &Batch) {
        // Common: one event, or events that all concern the same watchers.
        let mut concerned: Vec<Bytes> = Vec::new();
        for event in batch.iter() {
            for len in self.lengths.keys().take_while(|len| **len <= event.entry.key.len()) {
                let prefix = &event.entry.key[..*len];
                if self.by_prefix.contains_key(prefix) && !concerned.iter().any(|known| known == prefix) {
                    concerned.push(event.entry.key.slice(..*len));
                }
            }
        }
        for prefix in concerned {
            self.deliver_to(&prefix, batch);
        }
    }

    fn deliver_to(&mut self, prefix: &Bytes, batch: &Batch) {
        let part = if batch.iter().all(|event| event.entry.key.starts_with(prefix)) {
            Arc::clone(batch)
        } else {
            batch.iter().filter(|event| event.entry.key.starts_with(prefix)).cloned().collect()
        };
        let Some(group) = self.by_prefix.get_mut(prefix) else { return };
        group.retain(|watcher| match watcher.tx.try_send(Arc::clone(&part)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                watcher.end.store(1, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if group.is_empty() {
            self.by_prefix.remove(prefix);
            self.forget_length(prefix.len());
        }
    }

    fn forget_length(&mut self, len: usize) {
        if let Some(count) = self.lengths.get_mut(&len) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&len);
            }
        }
    }

    fn end_all(&mut self, why: u8) {
        // In a fixed order, so that a simulation can be told again.
        let mut groups: Vec<_> = self.by_prefix.drain().collect();
        groups.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for watcher in groups.into_iter().flat_map(|(_, group)| group) {
            watcher.end.store(why, Ordering::Release);
        }
        self.lengths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, EventKind};

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
        let [mut all, mut a, mut deep] =
            ["", "/a/", "/a/x/"].map(|p| hub.join_now(&Bytes::from_static(p.as_bytes())).0);
        hub.publish(&[batch(2, &["/a/1", "/b/1"]), batch(3, &["/a/x/1", "/a/2"])], Revision(3));
        assert_eq!(drain(&mut all), ["/a/1+/b/1", "/a/x/1+/a/2"]);
        assert_eq!(drain(&mut a), ["/a/1", "/a/x/1+/a/2"]);
        assert_eq!(drain(&mut deep), ["/a/x/1"]);
        assert!(hub.join(&Bytes::new(), Revision(2)).is_none(), "revision 3 would be missed");
        assert!(hub.join(&Bytes::new(), Revision(3)).is_some());
    }

    #[test]
    fn a_full_queue_ends_the_watch_after_what_it_holds() {
        let hub = Hub::new(Revision(1));
        let (mut slow, _) = hub.join_now(&Bytes::new());
        for revision in 2..QUEUE as u64 + 10 {
            hub.publish(&[batch(revision, &["k"])], Revision(revision));
        }
        assert_eq!(drain(&mut slow).len(), QUEUE);
        assert!(slow.rx.is_closed());
        assert_eq!(slow.end(), End::Lagged);
    }
}
