//! Typed caches over the store: parsed once, shared by controllers, scheduler and node gateway.
//!
//! One task per master follows the store through a single watch and hands each event to the caches
//! of the kinds that somebody asked for.
//!
//! Invariants
//! - One stream, one order: when [`Informers::wait_for`] returns for a revision, *all* caches show
//!   that revision or a later one. Whoever waits for its own last write never plans on older state.
//! - A cache never goes back: an event that a cache has already seen is skipped.
//! - A watch that fell behind is replaced by a fresh snapshot; the difference reaches handlers as
//!   ordinary changes, so nobody outside notices.
//! - Only the hub task and the first [`Informers::get`] of a kind write to a cache.
//!
//! Not here: selectors, HTTP watches, anything that blocks. Handlers run on the hub task.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};
use kontiki_model::{GroupResource, ObjectKey, Revision, key, typed};
use kontiki_store::{Entry, Event, EventKind, Snapshot, Store, Watch, WatchItem};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

const ROOT: &[u8] = b"/registry/";
/// Pause before a watch that could not be opened is tried again.
const REOPEN: Duration = Duration::from_millis(200);

/// Something a cache can hold.
pub trait Cached: Send + Sync + Sized + 'static {
    /// Prefix of the store's keys, of one namespace if given.
    fn prefix(namespace: Option<&str>) -> String;
    /// The key of one object.
    fn key(namespace: Option<&str>, name: &str) -> Bytes;
    /// Reads a stored object.
    ///
    /// # Errors
    /// The text says why it could not be read; the object is then left out of the cache.
    fn read(key: &ObjectKey, entry: &Entry) -> Result<Self, String>;
}

impl<K> Cached for K
where
    K: Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
{
    fn prefix(namespace: Option<&str>) -> String {
        key::prefix(GroupResource { group: K::GROUP, resource: K::URL_PATH_SEGMENT }, namespace)
    }

    fn key(namespace: Option<&str>, name: &str) -> Bytes {
        let resource = GroupResource { group: K::GROUP, resource: K::URL_PATH_SEGMENT };
        ObjectKey::new(resource, namespace, name).encode()
    }

    fn read(_: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        let mut object: K = typed::read(&entry.value).map_err(|error| error.to_string())?;
        object.metadata_mut().resource_version = Some(entry.mod_revision.to_string());
        Ok(object)
    }
}

/// What every object has, of whatever kind: enough for garbage collection and namespace deletion.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its address.
    pub key: ObjectKey,
    /// Its incarnation.
    pub uid: String,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// What has to happen before it goes.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its version.
    pub revision: Revision,
}

#[derive(Deserialize)]
struct MetadataOnly {
    metadata: ObjectMeta,
}

impl Cached for Object {
    fn prefix(_: Option<&str>) -> String {
        String::from_utf8_lossy(ROOT).into_owned()
    }

    /// Objects of all kinds share one cache, so there is no key without a kind; see
    /// [`Informer::get_key`].
    fn key(_: Option<&str>, _: &str) -> Bytes {
        Bytes::new()
    }

    fn read(key: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        let MetadataOnly { metadata } = typed::read(&entry.value).map_err(|error| error.to_string())?;
        Ok(Self {
            key: key.clone(),
            uid: metadata.uid.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            revision: entry.mod_revision,
        })
    }
}

/// One object came, changed or went.
pub struct Change<K> {
    /// Its address.
    pub key: ObjectKey,
    /// As it was.
    pub old: Option<Arc<K>>,
    /// As it is; `None` once it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object before and after, where it was or is there.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Handler<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;
/// Names the index entries of an object.
pub type Extract<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    extract: Extract<K>,
    keys: HashMap<String, BTreeSet<Bytes>>,
}

impl<K> Index<K> {
    fn add(&mut self, key: &Bytes, object: &K) {
        for value in (self.extract)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Bytes, object: &K) {
        for value in (self.extract)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

struct State<K> {
    /// Everything up to here is in `objects`.
    seen: Revision,
    objects: BTreeMap<Bytes, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K> State<K> {
    fn put(&mut self, key: Bytes, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.take(&key);
        for index in self.indexes.values_mut() {
            index.add(&key, &object);
        }
        self.objects.insert(key, object);
        old
    }

    fn take(&mut self, key: &Bytes) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

struct Cache<K> {
    state: RwLock<State<K>>,
    handlers: Mutex<HashMap<u64, Handler<K>>>,
}

/// A cache as the hub sees it.
trait Sink: Send + Sync {
    fn apply(&self, event: &Event);
    fn replace(&self, snapshot: &Snapshot);
}

impl<K: Cached> Cache<K> {
    fn read(key: &ObjectKey, entry: &Entry) -> Option<Arc<K>> {
        match K::read(key, entry) {
            Ok(object) => Some(Arc::new(object)),
            Err(error) => {
                warn!(%key, %error, "an object does not have the shape of its kind; caches leave it out");
                None
            }
        }
    }

    /// Sets or removes one object. `None` if the cache already was that far.
    fn set(&self, entry: &Entry, gone: bool) -> Option<Change<K>> {
        let key = ObjectKey::decode(&entry.key)?;
        let new = if gone { None } else { Self::read(&key, entry) };
        let mut state = self.state.write();
        if entry.mod_revision <= state.seen {
            return None;
        }
        let old = match &new {
            Some(object) => state.put(entry.key.clone(), object.clone()),
            None => state.take(&entry.key),
        };
        Some(Change { key, old, new })
    }

    fn tell(&self, change: &Change<K>) {
        if change.old.is_none() && change.new.is_none() {
            return;
        }
        let handlers: Vec<Handler<K>> = self.handlers.lock().values().cloned().collect();
        for handler in handlers {
            handler(change);
        }
    }
}

impl<K: Cached> Sink for Cache<K> {
    fn apply(&self, event: &Event) {
        if let Some(change) = self.set(&event.entry, event.kind == EventKind::Delete) {
            self.tell(&change);
        }
    }

    fn replace(&self, snapshot: &Snapshot) {
        let mut changes = Vec::new();
        {
            let mut state = self.state.write();
            let mut gone: BTreeSet<Bytes> = state.objects.keys().cloned().collect();
            for entry in snapshot.range(K::prefix(None).as_bytes()) {
                gone.remove(&entry.key);
                let Some(key) = ObjectKey::decode(&entry.key) else { continue };
                if entry.mod_revision <= state.seen && state.objects.contains_key(&entry.key) {
                    continue;
                }
                let Some(new) = Self::read(&key, &entry) else { continue };
                let old = state.put(entry.key.clone(), new.clone());
                changes.push(Change { key, old, new: Some(new) });
            }
            for bytes in gone {
                let old = state.take(&bytes);
                if let Some(key) = ObjectKey::decode(&bytes) {
                    changes.push(Change { key, old, new: None });
                }
            }
            state.seen = snapshot.revision();
        }
        for change in &changes {
            self.tell(change);
        }
    }
}

struct Sinks {
    started: bool,
    typed: HashMap<Vec<u8>, Arc<dyn Sink>>,
    all: Option<Arc<dyn Sink>>,
    handles: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Sinks {
    fn each(&self) -> impl Iterator<Item = &Arc<dyn Sink>> {
        self.typed.values().chain(self.all.iter())
    }

    fn apply(&self, event: &Event) {
        if let Some(sink) = self.typed.get(kind_prefix(&event.entry.key)) {
            sink.apply(event);
        }
        if let Some(sink) = &self.all {
            sink.apply(event);
        }
    }
}

/// `/registry/<group>/<resource>/` of a key.
fn kind_prefix(key: &[u8]) -> &[u8] {
    let end = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(3);
    end.map_or(key, |(at, _)| &key[..=at])
}

struct Hub {
    store: Store,
    sinks: Mutex<Sinks>,
    seen: watch::Sender<Revision>,
    next_handler: std::sync::atomic::AtomicU64,
}

/// All caches of one master. Cheap to clone; the task behind it ends with the last clone.
#[derive(Clone)]
pub struct Informers {
    hub: Arc<Hub>,
}

impl Informers {
    /// Caches over `store`; nothing is read before a kind is asked for.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let sinks = Sinks { started: false, typed: HashMap::new(), all: None, handles: HashMap::new() };
        let (seen, _) = watch::channel(Revision(0));
        Self { hub: Arc::new(Hub { store, sinks: Mutex::new(sinks), seen, next_handler: 0.into() }) }
    }

    /// The cache of `K`, filled. The first call for a kind parses all its objects. Must be called
    /// within a tokio runtime.
    #[must_use]
    pub fn get<K: Cached>(&self) -> Informer<K> {
        let mut sinks = self.hub.sinks.lock();
        if let Some(cache) = sinks.handles.get(&TypeId::of::<K>()) {
            let cache = cache.clone().downcast::<Cache<K>>().expect("handles are filed under their own type");
            return Informer { hub: self.hub.clone(), cache };
        }
        let snapshot = self.snapshot();
        let state = State { seen: Revision(0), objects: BTreeMap::new(), indexes: HashMap::new() };
        let cache = Arc::new(Cache { state: RwLock::new(state), handlers: Mutex::new(HashMap::new()) });
        cache.replace(&snapshot);
        sinks.handles.insert(TypeId::of::<K>(), cache.clone());
        let prefix = K::prefix(None).into_bytes();
        if prefix == ROOT {
            sinks.all = Some(cache.clone());
        } else {
            sinks.typed.insert(prefix, cache.clone());
        }
        if !std::mem::replace(&mut sinks.started, true) {
            self.hub.seen.send_replace(snapshot.revision());
            tokio::spawn(follow(Arc::downgrade(&self.hub), self.hub.store.clone(), snapshot.revision()));
        }
        Informer { hub: self.hub.clone(), cache }
    }

    /// A snapshot that is not older than what other caches have shown.
    fn snapshot(&self) -> Snapshot {
        let seen = *self.hub.seen.borrow();
        loop {
            let snapshot = self.hub.store.snapshot();
            if snapshot.revision() >= seen {
                return snapshot;
            }
            std::hint::spin_loop();
        }
    }

    /// The revision that all caches show at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.hub.seen.borrow()
    }

    /// Waits until all caches show `revision` or later.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is dropped.
    pub async fn wait_for(&self, revision: Revision) {
        let mut seen = self.hub.seen.subscribe();
        // The sender lives in the hub that `self` holds, so the wait cannot fail.
        let _ = seen.wait_for(|now| *now >= revision).await;
    }
}

/// Follows the store until the hub is gone.
async fn follow(hub: Weak<Hub>, store: Store, mut after: Revision) {
    loop {
        // All keys, not only objects: every revision moves the caches on, so that whoever waits for
        // one never waits for the next write of an object.
        match store.watch(Bytes::new(), Some(after)) {
            Ok(watch) => match drain(&hub, watch).await {
                Ended::Unused => return,
                Ended::Lagged => info!("the caches fell behind the store and are filled anew"),
                Ended::Closed => tokio::time::sleep(REOPEN).await,
            },
            Err(error) => {
                warn!(%error, "cannot watch the store; the caches are filled anew");
                tokio::time::sleep(REOPEN).await;
            }
        }
        let Some(hub) = hub.upgrade() else { return };
        let sinks = hub.sinks.lock();
        let snapshot = store.snapshot();
        for sink in sinks.each() {
            sink.replace(&snapshot);
        }
        drop(sinks);
        after = snapshot.revision();
        hub.seen.send_replace(after);
    }
}

/// Why a watch ended.
enum Ended {
    /// Nobody holds the hub any more.
    Unused,
    /// It fell behind.
    Lagged,
    /// The store closed it, e.g. because it stops.
    Closed,
}

/// Hands out events until the watch ends.
async fn drain(hub: &Weak<Hub>, mut watch: Watch) -> Ended {
    loop {
        let item = watch.next().await;
        let Some(hub) = hub.upgrade() else { return Ended::Unused };
        let Some(item) = item else { return Ended::Closed };
        let reached = match item {
            WatchItem::Events(events) => {
                let sinks = hub.sinks.lock();
                for event in events.iter() {
                    sinks.apply(event);
                }
                events.last().map(|event| event.entry.mod_revision)
            }
            WatchItem::Progress(revision) => Some(revision),
            WatchItem::Lagged => return Ended::Lagged,
        };
        if let Some(reached) = reached {
            hub.seen.send_if_modified(|seen| {
                let further = reached > *seen;
                *seen = reached.max(*seen);
                further
            });
        }
    }
}

/// A handle on the cache of one kind. Cheap to clone.
pub struct Informer<K> {
    hub: Arc<Hub>,
    cache: Arc<Cache<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { hub: self.hub.clone(), cache: self.cache.clone() }
    }
}

impl<K: Cached> Informer<K> {
    /// One object.
    #[must_use]
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.cache.state.read().objects.get(&K::key(namespace, name)).cloned()
    }

    /// One object by its full key.
    #[must_use]
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.cache.state.read().objects.get(&key.encode()).cloned()
    }

    /// All objects, in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.state.read().objects.values().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.state.read().objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace, by name.
    #[must_use]
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = Bytes::from(K::prefix(Some(namespace)));
        let state = self.cache.state.read();
        let after = state.objects.range((Bound::Included(prefix.clone()), Bound::Unbounded));
        after.take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect()
    }

    /// Adds an index under `name`, unless there is one; see [`Self::by_index`].
    pub fn add_index(&self, name: &'static str, extract: Extract<K>) {
        let mut state = self.cache.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { extract, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.add(key, object);
        }
        state.indexes.insert(name, index);
    }

    /// The objects that the index files under `value`, in the order of their keys. Empty if there
    /// is no such index.
    #[must_use]
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.cache.state.read();
        let keys = state.indexes.get(name).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Calls `handler` for every object that is there (as newly come), then for every change, until
    /// the registration is dropped. It runs on the hub task: it must be quick, never block, and never
    /// ask [`Informers::get`] for a kind; reading caches is fine. A change may be told twice around
    /// the registration, never missed.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) -> Registration {
        let id = self.hub.next_handler.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let handler: Handler<K> = Arc::new(handler);
        self.cache.handlers.lock().insert(id, handler.clone());
        let present: Vec<(Bytes, Arc<K>)> =
            self.cache.state.read().objects.iter().map(|(key, object)| (key.clone(), object.clone())).collect();
        for (bytes, object) in present {
            if let Some(key) = ObjectKey::decode(&bytes) {
                handler(&Change { key, old: None, new: Some(object) });
            }
        }
        let cache = Arc::downgrade(&self.cache);
        Registration {
            remove: Some(Box::new(move || drop(cache.upgrade().map(|cache| cache.handlers.lock().remove(&id))))),
        }
    }

    /// The keys of everything that is there, then of everything that changes. Changes of one object
    /// that come between two reads are one, so the stream never overflows.
    #[must_use]
    pub fn subscribe(&self) -> Changes<K> {
        let pending = Arc::new(Pending { keys: Mutex::new(BTreeSet::new()), more: Notify::new() });
        let sink = pending.clone();
        let registration = self.on_change(move |change| {
            sink.keys.lock().insert(change.key.clone());
            sink.more.notify_one();
        });
        Changes { pending, _registration: registration, _kind: PhantomData }
    }

    /// The revision that all caches show at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.hub.seen.borrow()
    }

    /// Waits until all caches show `revision` or later. Cancel-safe.
    pub async fn wait_for(&self, revision: Revision) {
        Informers { hub: self.hub.clone() }.wait_for(revision).await;
    }
}

/// Ends the calls to a handler when dropped.
#[must_use = "dropping it ends the calls"]
pub struct Registration {
    remove: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(remove) = self.remove.take() {
            remove();
        }
    }
}

struct Pending {
    keys: Mutex<BTreeSet<ObjectKey>>,
    more: Notify,
}

/// A stream of changed keys; see [`Informer::subscribe`].
pub struct Changes<K> {
    pending: Arc<Pending>,
    _registration: Registration,
    _kind: PhantomData<fn() -> K>,
}

impl<K> Changes<K> {
    /// The keys that changed since the last call; waits until there is one. Look each up in the
    /// informer: a key that is not found there is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> BTreeSet<ObjectKey> {
        loop {
            let more = self.pending.more.notified();
            let keys = std::mem::take(&mut *self.pending.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            more.await;
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
