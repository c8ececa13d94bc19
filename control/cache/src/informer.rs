//! Typed views of collections, as controllers, the scheduler and the node gateway read them.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_model::{GroupResource, ObjectKey, Revision, key};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::collection::{Collection, Handler};
use crate::contain::contained;
use crate::dispatch::Change;
use crate::follow::Cache;
use crate::index::{Extract, Path};
use crate::object::{Cached, Object, PartialObjectMetadata, ROOT};

/// A change of an object that can be read as a `K`.
pub struct TypedChange<K> {
    /// Its address.
    pub key: ObjectKey,
    /// As it was.
    pub old: Option<Arc<K>>,
    /// As it is; `None` once it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> TypedChange<K> {
    /// The object before and after, where it was or is there.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

impl<K: Cached> TypedChange<K> {
    /// `None` if neither version can be read.
    fn of(change: &Change) -> Option<Self> {
        let read = |object: &Option<Arc<Object>>| object.as_ref().and_then(|object| object.get::<K>());
        let (old, new) = (read(&change.old), read(&change.new));
        (old.is_some() || new.is_some()).then_some(())?;
        Some(Self { key: change.key()?, old, new })
    }
}

impl Cache {
    /// The objects of `K`. The first call for a kind fills its collection. Must be called within a tokio runtime.
    #[must_use]
    pub fn get<K: Cached>(&self) -> Informer<K> {
        let prefix = K::prefix(None);
        if prefix.as_bytes() == ROOT {
            self.follow_all();
            return Informer::of_all(self.clone());
        }
        Informer::of_one(self.clone(), self.collection(prefix.as_bytes()))
    }
}

impl Cache {
    /// Tells of every object of a resource that is there, then after each change what is there now, as it is stored
    /// (`None`: it is gone), until the registration is dropped. What was told of an object last is how it is shown.
    /// `told` runs on the task that follows the store: it must be quick, never block, and never ask for a kind.
    pub fn on_stored(
        &self,
        resource: GroupResource<'_>,
        told: impl Fn(&ObjectKey, Option<&Bytes>) + Send + Sync + 'static,
    ) -> Registration {
        let collection = self.collection(key::prefix(resource, None).as_bytes());
        let informer = Informer::<PartialObjectMetadata>::of_one(self.clone(), Arc::clone(&collection));
        let (shown, turn) = (Arc::downgrade(&collection), Mutex::new(()));
        informer.tell(
            &(Arc::new(move |change: &Change| {
                let (Some(collection), Some(key)) = (shown.upgrade(), change.key()) else { return };
                // Looked up and told in one go: an older state is never told after a newer one.
                let _turn = turn.lock();
                let object = collection.get(change.store_key());
                let stored = object.as_ref().map(|object| &object.entry().value);
                let _ = contained("a follower", change.store_key(), || told(&key, stored));
            }) as Handler),
        )
    }
}

enum Scope {
    One(Arc<Collection>),
    /// All kinds.
    All,
}

/// The objects of a kind, or of all kinds, each as a `K`. Cheap to clone.
pub struct Informer<K> {
    cache: Cache,
    scope: Arc<Scope>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), scope: Arc::clone(&self.scope), kind: PhantomData }
    }
}

impl<K: Cached> Informer<K> {
    pub(crate) fn of_one(cache: Cache, collection: Arc<Collection>) -> Self {
        Self { cache, scope: Arc::new(Scope::One(collection)), kind: PhantomData }
    }

    pub(crate) fn of_all(cache: Cache) -> Self {
        Self { cache, scope: Arc::new(Scope::All), kind: PhantomData }
    }

    fn collections(&self) -> Vec<Arc<Collection>> {
        match &*self.scope {
            Scope::One(collection) => vec![Arc::clone(collection)],
            Scope::All => self.cache.collections(),
        }
    }

    fn object(&self, key: &[u8]) -> Option<Arc<Object>> {
        match &*self.scope {
            Scope::One(collection) => collection.get(key),
            Scope::All => self.cache.known(key)?.get(key),
        }
    }

    /// One object.
    #[must_use]
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.object(&K::key(namespace, name))?.get()
    }

    /// One object by its full key.
    #[must_use]
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.object(&key.encode())?.get()
    }

    /// The objects of one resource.
    #[must_use]
    pub fn list_of(&self, resource: GroupResource<'_>) -> Vec<Arc<K>> {
        let known = self.cache.known(key::prefix(resource, None).as_bytes());
        known.map(|collection| typed(&collection.list())).unwrap_or_default()
    }

    /// All objects, those of a kind in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.collections().iter().flat_map(|collection| typed(&collection.list())).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.collections().iter().map(|collection| collection.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace, by name.
    #[must_use]
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let prefix = K::prefix(Some(namespace));
        self.collections().iter().flat_map(|collection| typed(&collection.under(prefix.as_bytes()))).collect()
    }

    /// Adds an index under `name`, unless there is one; see [`Self::by_index`]. It reads objects as a `T`, which may be
    /// less than a `K`: every change is read so on every master.
    pub fn add_index<T: Cached>(&self, name: &'static str, extract: fn(&T) -> Vec<String>) {
        let path = Path::Named(name);
        let extract: Extract = Arc::new(move |object| {
            let Some(read) = object.get::<T>() else { return Vec::new() };
            contained("an index", &object.entry().key, || extract(&read)).unwrap_or_default()
        });
        match &*self.scope {
            Scope::One(collection) => collection.add_index(path, &extract),
            Scope::All => self.cache.add_index_everywhere(&path, &extract),
        }
    }

    /// The objects that the index has under `value`, those of a kind in the order of their keys. Empty if there is no
    /// such index.
    #[must_use]
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let path = Path::Named(name);
        self.collections().iter().flat_map(|collection| typed(&collection.find(&path, value))).collect()
    }

    /// Calls `handler` for every object that is there (as newly come), then after every change, until the registration
    /// is dropped. It runs on the task that follows the store: it must be quick, never block, and never ask
    /// [`Cache::get`] for a kind; reading is fine. A change may be told twice around the registration, never missed.
    pub fn on_change(&self, handler: impl Fn(&TypedChange<K>) + Send + Sync + 'static) -> Registration {
        let tell: Handler = Arc::new(move |change| {
            if let Some(typed) = TypedChange::of(change) {
                // What it missed it finds when it next looks.
                let _ = contained("a handler", change.store_key(), || handler(&typed));
            }
        });
        self.tell(&tell)
    }

    fn tell(&self, tell: &Handler) -> Registration {
        let id = self.cache.next_handler();
        let remove = self.register(id, tell);
        for collection in self.collections() {
            for object in collection.list() {
                tell(&Change::new(object.revision(), None, Some(Arc::clone(&object))));
                if collection.is_full() {
                    object.forget();
                }
            }
        }
        Registration { remove: Some(remove) }
    }

    fn register(&self, id: u64, tell: &Handler) -> Box<dyn FnOnce() + Send + Sync> {
        let (cache, scope) = (self.cache.clone(), Arc::clone(&self.scope));
        match &*scope {
            Scope::One(collection) => {
                collection.add_handler(id, Arc::clone(tell));
                let collection = Arc::downgrade(collection);
                Box::new(move || {
                    if let Some(collection) = collection.upgrade() {
                        collection.remove_handler(id);
                    }
                })
            }
            Scope::All => {
                cache.add_handler_everywhere(id, Arc::clone(tell));
                Box::new(move || cache.remove_handler_everywhere(id))
            }
        }
    }

    /// The keys of everything that is there, then of everything that changes. Changes of one object that come between
    /// two reads are one, so the stream never overflows.
    #[must_use]
    pub fn subscribe(&self) -> Changes<K> {
        let pending = Arc::new(Pending::default());
        let sink = Arc::clone(&pending);
        let registration = self.on_change(move |change| {
            sink.keys.lock().insert(change.key.clone());
            sink.more.notify_one();
        });
        Changes { pending, _registration: registration, _kind: PhantomData }
    }

    /// The revision that all collections show at least.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cache.revision()
    }

    /// Waits until all collections show `revision` or later. Cancel-safe.
    pub async fn wait_for(&self, revision: Revision) {
        self.cache.wait_for(revision).await;
    }
}

fn typed<K: Cached>(objects: &[Arc<Object>]) -> Vec<Arc<K>> {
    objects.iter().filter_map(|object| object.get()).collect()
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

#[derive(Default)]
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
    /// The keys that changed since the last call; waits until there is one. Look each up in the informer: a key that is
    /// not found there is gone.
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
