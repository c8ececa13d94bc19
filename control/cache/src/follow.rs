//! One task follows the store and makes each change in the collections that somebody asked for.
//!
//! Invariants
//! - One stream, one order: when [`Cache::wait_for`] returns for a revision, *all* collections show that revision or a
//!   later one. Whoever waits for its own last write never plans on older state.
//! - Only this task, and who asks for a kind first, change a collection; never both at once.
//! - A stream that fell behind is replaced by a fresh snapshot; the difference reaches handlers as ordinary changes, so
//!   nobody outside notices.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kontiki_model::{ObjectKey, Revision};
use kontiki_store::{Event, WatchItem};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::backend::{Backend, Snapshot, Watch};
use crate::collection::{Collection, Handler, tell_each};
use crate::dispatch::Change;
use crate::index::{Extract, Path};
use crate::object::ROOT;

/// Pause before a watch that could not be opened is tried again.
const REOPEN: Duration = Duration::from_millis(200);
/// What was read of an object and not asked for this long, or twice as long, is let go: what a change had read serves
/// all who are told of it, and those who look again at once.
const TIRE: Duration = Duration::from_secs(5);

/// What goes for objects of all kinds, those that are yet to come included.
#[derive(Default)]
struct Everywhere {
    /// Whether all kinds are followed.
    asked: bool,
    indexes: Vec<(Path, Extract)>,
    handlers: HashMap<u64, Handler>,
}

pub(crate) struct Hub {
    store: Backend,
    collections: RwLock<HashMap<Bytes, Arc<Collection>>>,
    everywhere: RwLock<Everywhere>,
    seen: watch::Sender<Revision>,
    /// Held by who changes collections; whether the task runs.
    changing: Mutex<bool>,
    next_handler: AtomicU64,
}

/// See the crate. Cheap to clone; the task behind it ends with the last clone.
#[derive(Clone)]
pub struct Cache {
    hub: Arc<Hub>,
}

impl Cache {
    /// A cache over `store`; nothing is read before a kind is asked for.
    #[must_use]
    pub fn new(store: impl Into<Backend>) -> Self {
        let (seen, _) = watch::channel(Revision(0));
        let hub = Hub {
            store: store.into(),
            collections: RwLock::default(),
            everywhere: RwLock::default(),
            seen,
            changing: Mutex::new(false),
            next_handler: AtomicU64::new(0),
        };
        Self { hub: Arc::new(hub) }
    }

    /// The objects under `/registry/<group>/<resource>/`. Must be called within a tokio runtime.
    #[must_use]
    pub fn collection(&self, prefix: &[u8]) -> Arc<Collection> {
        if let Some(collection) = self.known(prefix) {
            return collection;
        }
        let mut running = self.hub.changing.lock();
        self.known(prefix).unwrap_or_else(|| {
            let snapshot = self.start(&mut running);
            self.hub.add(prefix, &snapshot)
        })
    }

    /// The collection of a key, if it is followed.
    pub(crate) fn known(&self, key: &[u8]) -> Option<Arc<Collection>> {
        self.hub.collections.read().get(kind_prefix(key)).cloned()
    }

    /// The collections of all kinds that are followed.
    pub(crate) fn collections(&self) -> Vec<Arc<Collection>> {
        self.hub.collections.read().values().cloned().collect()
    }

    /// Follows all kinds from now on.
    pub(crate) fn follow_all(&self) {
        let mut running = self.hub.changing.lock();
        if std::mem::replace(&mut self.hub.everywhere.write().asked, true) {
            return;
        }
        let snapshot = self.start(&mut running);
        self.hub.add_missing(&snapshot);
    }

    /// A snapshot to fill collections with, which the task goes on from.
    fn start(&self, running: &mut bool) -> Snapshot {
        let snapshot = self.hub.store.snapshot();
        debug_assert!(snapshot.revision() >= self.revision(), "the store shows a revision before it tells of it");
        if !std::mem::replace(running, true) {
            self.hub.seen.send_replace(snapshot.revision());
            tokio::spawn(follow(Arc::downgrade(&self.hub), self.hub.store.clone(), snapshot.revision()));
        }
        snapshot
    }

    pub(crate) fn store(&self) -> &Backend {
        &self.hub.store
    }

    pub(crate) fn next_handler(&self) -> u64 {
        self.hub.next_handler.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on `handler` is called after each change of any object.
    pub(crate) fn add_handler_everywhere(&self, id: u64, handler: Handler) {
        self.hub.everywhere.write().handlers.insert(id, handler);
    }

    pub(crate) fn remove_handler_everywhere(&self, id: u64) {
        self.hub.everywhere.write().handlers.remove(&id);
    }

    /// Adds an index of objects of all kinds.
    pub(crate) fn add_index_everywhere(&self, path: &Path, extract: &Extract) {
        // Else a collection could come between the two.
        let _changing = self.hub.changing.lock();
        self.hub.everywhere.write().indexes.push((path.clone(), Arc::clone(extract)));
        self.collections().iter().for_each(|collection| collection.add_index(path.clone(), extract));
    }

    /// The revision that all collections show at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.hub.seen.borrow()
    }

    /// Waits until all collections show `revision` or later. Nothing moves before a kind is asked for.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is dropped.
    pub async fn wait_for(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let mut seen = self.hub.seen.subscribe();
        // The sender lives in the hub that `self` holds, so the wait cannot fail.
        let _ = seen.wait_for(|now| *now >= revision).await;
    }
}

impl Hub {
    /// Adds the collection of a kind, as of a snapshot.
    fn add(&self, prefix: &[u8], snapshot: &Snapshot) -> Arc<Collection> {
        let prefix = Bytes::copy_from_slice(prefix);
        let collection = Arc::new(Collection::new(prefix.clone()));
        for (path, extract) in &self.everywhere.read().indexes {
            collection.add_index(path.clone(), extract);
        }
        collection.replace(snapshot);
        self.collections.write().insert(prefix, Arc::clone(&collection));
        collection
    }

    /// Adds a collection for each kind of which the snapshot has an object.
    fn add_missing(&self, snapshot: &Snapshot) {
        let mut after = ROOT.to_vec();
        loop {
            let next = snapshot.range_from(ROOT, &after).next();
            let Some(entry) = next else { return };
            let prefix = kind_prefix(&entry.key);
            if ObjectKey::decode(&entry.key).is_some() && !self.collections.read().contains_key(prefix) {
                self.add(prefix, snapshot);
            }
            // On to the first key behind this kind's.
            after = [prefix, &[0xff]].concat();
        }
    }

    /// Makes the changes of one revision.
    fn apply(&self, events: &[Event]) {
        let mut by_kind: Vec<(&[u8], Vec<&Event>)> = Vec::new();
        for event in events {
            let prefix = kind_prefix(&event.entry.key);
            match by_kind.iter_mut().find(|(known, _)| *known == prefix) {
                Some((_, events)) => events.push(event),
                None => by_kind.push((prefix, vec![event])),
            }
        }
        for (prefix, events) in by_kind {
            let Some(collection) = self.followed(prefix, events[0]) else { continue };
            let changes = collection.apply(events[0].entry.mod_revision, &events);
            self.tell_everywhere(&changes);
        }
    }

    /// The collection of a kind, made now if all kinds are followed and this is its first object.
    fn followed(&self, prefix: &[u8], event: &Event) -> Option<Arc<Collection>> {
        let known = self.collections.read().get(prefix).cloned();
        let is_first = || self.everywhere.read().asked && ObjectKey::decode(&event.entry.key).is_some();
        known.or_else(|| is_first().then(|| self.add(prefix, &Snapshot::default())))
    }

    fn tell_everywhere(&self, changes: &[Arc<Change>]) {
        let handlers: Vec<Handler> = self.everywhere.read().handlers.values().cloned().collect();
        tell_each(&handlers, changes);
    }

    fn replace(&self, snapshot: &Snapshot) {
        let collections: Vec<_> = self.collections.read().values().cloned().collect();
        for collection in collections {
            self.tell_everywhere(&collection.replace(snapshot));
        }
        if self.everywhere.read().asked {
            self.add_missing(snapshot);
        }
        self.reach(snapshot.revision());
    }

    fn reach(&self, revision: Revision) {
        self.seen.send_if_modified(|seen| {
            let further = revision > *seen;
            *seen = revision.max(*seen);
            further
        });
    }
}

/// `/registry/<group>/<resource>/` of a key.
pub(crate) fn kind_prefix(key: &[u8]) -> &[u8] {
    let end = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(3);
    end.map_or(key, |(at, _)| &key[..=at])
}

/// Follows the store until the hub is gone.
async fn follow(hub: Weak<Hub>, store: Backend, mut after: Revision) {
    loop {
        // All keys, not only objects: every revision moves the collections on, so that whoever waits for one never waits
        // for the next write of an object.
        match store.watch(Bytes::new(), Some(after)) {
            Ok(watch) => match drain(&hub, watch).await {
                End::Unused => return,
                End::Lagged => info!("the cache fell behind the store and is filled anew"),
                End::Closed => tokio::time::sleep(REOPEN).await,
            },
            Err(error) => {
                warn!(%error, "cannot watch the store; the cache is filled anew");
                tokio::time::sleep(REOPEN).await;
            }
        }
        let Some(hub) = hub.upgrade() else { return };
        let _changing = hub.changing.lock();
        let snapshot = store.snapshot();
        hub.replace(&snapshot);
        after = snapshot.revision();
    }
}

/// Why a watch ended.
enum End {
    /// Nobody holds the hub any more.
    Unused,
    /// It fell behind.
    Lagged,
    /// The store closed it, e.g. because it stops.
    Closed,
}

/// Makes the changes that a watch tells, until it ends.
async fn drain(hub: &Weak<Hub>, mut watch: Watch) -> End {
    let mut tire = tokio::time::interval(TIRE);
    tire.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both are cancel-safe: a watch keeps its items, an interval its next tick.
        let item = tokio::select! {
            biased;
            item = watch.next() => item,
            _ = tire.tick() => {
                let Some(hub) = hub.upgrade() else { return End::Unused };
                let collections: Vec<_> = hub.collections.read().values().cloned().collect();
                tokio::task::spawn_blocking(move || collections.iter().for_each(|collection| collection.tire()));
                continue;
            }
        };
        let Some(hub) = hub.upgrade() else { return End::Unused };
        match item {
            None => return End::Closed,
            Some(WatchItem::Lagged) => return End::Lagged,
            Some(WatchItem::Progress(revision)) => hub.reach(revision),
            Some(WatchItem::Events(events)) => {
                let _changing = hub.changing.lock();
                hub.apply(&events);
                if let Some(last) = events.last() {
                    hub.reach(last.entry.mod_revision);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_routed_by_its_kind() {
        for (key, expect) in [
            ("/registry/core/pods/a/b", "/registry/core/pods/"),
            ("/registry/core/nodes/n", "/registry/core/nodes/"),
            ("/registry/apps/deployments/a/b", "/registry/apps/deployments/"),
            ("/registry/odd", "/registry/odd"),
        ] {
            assert_eq!(kind_prefix(key.as_bytes()), expect.as_bytes(), "{key}");
        }
    }
}
