//! One version of one object: its stored bytes, and what has been read from them.
//!
//! Invariants
//! - Read once, for all who ask in the same way.
//! - What was read is kept while it is asked for. [`Object::tire`] lets go of it after that: memory follows the bytes.

use std::any::{Any, TypeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata as HasMetadata, Resource};
use kontiki_machinery::table::Cells;
use kontiki_machinery::{Name, ResourceDef};
use kontiki_model::{GroupResource, ObjectKey, Revision, key, typed};
use kontiki_store::Entry;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tracing::warn;

use crate::contain::contained;
use crate::facts::{Facts, served};

/// Prefix of the keys of all objects.
pub(crate) const ROOT: &[u8] = b"/registry/";

/// A way to read an object.
pub trait Cached: Send + Sync + Sized + 'static {
    /// Prefix of the store's keys, of one namespace if given.
    fn prefix(namespace: Option<&str>) -> String;
    /// The key of one object.
    fn key(namespace: Option<&str>, name: &str) -> Bytes;
    /// Reads a stored object.
    ///
    /// # Errors
    /// The text says why it could not be read; typed views leave the object out.
    fn read(key: &ObjectKey, entry: &Entry) -> Result<Self, String>;
}

impl<K> Cached for K
where
    K: Resource + HasMetadata<Ty = ObjectMeta> + DeserializeOwned + Send + Sync + 'static,
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
pub struct PartialObjectMetadata {
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

impl PartialObjectMetadata {
    /// The owner that manages it.
    #[must_use]
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|owner| owner.controller == Some(true))
    }
}

/// Nothing else of an object is looked at: each change of each object is read so.
#[derive(Deserialize)]
struct OnlyMetadata {
    metadata: Header,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    uid: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl Cached for PartialObjectMetadata {
    fn prefix(_: Option<&str>) -> String {
        String::from_utf8_lossy(ROOT).into_owned()
    }

    /// Objects of all kinds have no key without a kind; see [`Informer::get_key`](crate::Informer::get_key).
    fn key(_: Option<&str>, _: &str) -> Bytes {
        Bytes::new()
    }

    fn read(key: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        let OnlyMetadata { metadata } = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
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

/// A part of the objects of one kind, read without the rest.
pub struct Part<T>(pub T);

impl<T: typed::Part> Cached for Part<T> {
    fn prefix(namespace: Option<&str>) -> String {
        key::prefix(T::RESOURCE, namespace)
    }

    fn key(namespace: Option<&str>, name: &str) -> Bytes {
        ObjectKey::new(T::RESOURCE, namespace, name).encode()
    }

    fn read(_: &ObjectKey, entry: &Entry) -> Result<Self, String> {
        serde_json::from_slice(&entry.value).map(Self).map_err(|error| error.to_string())
    }
}

/// What is kept of the objects of a collection.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Counts>);

#[derive(Default)]
struct Counts {
    read: AtomicUsize,
    shown: AtomicUsize,
}

impl Held {
    /// Stored bytes of the objects of which something read is kept. What is kept takes about ten times as much.
    pub fn bytes(&self) -> usize {
        self.0.read.load(Ordering::Relaxed)
    }

    /// Whether nothing is kept.
    pub fn is_nothing(&self) -> bool {
        self.bytes() == 0 && self.0.shown.load(Ordering::Relaxed) == 0
    }
}

/// Looks of [`Object::tire`] for which the cells of a row are kept though nobody asks: people and dashboards come back
/// after minutes, and cells are small.
const SHOWN_FOR: u8 = 60;

/// See the module.
pub struct Object {
    entry: Arc<Entry>,
    held: Held,
    read: Mutex<Option<Box<Read>>>,
    shown: Mutex<Option<Box<Shown>>>,
    /// The type that it was compared with, and whether that shows it as it is stored (the lowest bit); 0: none yet.
    compared: AtomicU64,
}

/// The cells of its row.
struct Shown {
    held: Held,
    /// Looks since somebody asked.
    idle: u8,
    def: Arc<ResourceDef>,
    cells: Arc<Cells>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.held.0.shown.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What has been read.
struct Read {
    held: Held,
    size: usize,
    /// Since the last [`Object::tire`].
    lately: bool,
    /// `None`: it cannot be read as that.
    typed: Vec<(TypeId, Option<Arc<dyn Any + Send + Sync>>)>,
    /// By the API group that shows it.
    facts: Vec<(Name, Option<Arc<Facts>>)>,
}

impl Read {
    fn new(held: &Held, size: usize) -> Self {
        held.0.read.fetch_add(size, Ordering::Relaxed);
        Self { held: held.clone(), size, lately: true, typed: Vec::new(), facts: Vec::new() }
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.held.0.read.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Object {
    pub(crate) fn new(entry: Arc<Entry>, held: &Held) -> Self {
        let (read, shown) = (Mutex::new(None), Mutex::new(None));
        Self { entry, held: held.clone(), read, shown, compared: AtomicU64::new(0) }
    }

    /// As it lies in the store.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Its version.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.entry.mod_revision
    }

    /// It as a `K`; `None` if it cannot be read as one.
    pub fn get<K: Cached>(&self) -> Option<Arc<K>> {
        let id = TypeId::of::<K>();
        let find = |read: &Read| read.typed.iter().find(|(known, _)| *known == id).map(|(_, value)| value.clone());
        let make = || self.read_as::<K>().map(|value| Arc::new(value) as Arc<dyn Any + Send + Sync>);
        let value = self.once(find, make, |read, value| read.typed.push((id, value)))?;
        value.downcast::<K>().ok()
    }

    /// What selectors of `def` look at; `None` if it cannot be read.
    pub fn facts(&self, def: &ResourceDef) -> Option<Arc<Facts>> {
        let find = |read: &Read| {
            let (_, facts) = read.facts.iter().find(|(group, _)| *group == def.group)?;
            facts.as_ref().is_none_or(|facts| facts.covers(def)).then(|| facts.clone())
        };
        self.once(
            find,
            || contained("facts", &self.entry.key, || Facts::of_entry(def, &self.entry)).flatten().map(Arc::new),
            |read, facts| {
                read.facts.retain(|(group, _)| *group != def.group);
                read.facts.push((def.group.clone(), facts));
            },
        )
    }

    /// The cells of its row as `def` shows it; `None` if it cannot be read. Nothing else of it is kept for that.
    pub fn cells(&self, def: &Arc<ResourceDef>) -> Option<Arc<Cells>> {
        if let Some(shown) = self.shown.lock().as_mut().filter(|shown| Arc::ptr_eq(&shown.def, def)) {
            shown.idle = 0;
            return Some(Arc::clone(&shown.cells));
        }
        let make = || served(def, &self.entry.value).ok().map(|object| Arc::new(Cells::of(def, &object)));
        let cells = contained("cells", &self.entry.key, make).flatten()?;
        let shown = Shown { held: self.held.clone(), idle: 0, def: Arc::clone(def), cells: Arc::clone(&cells) };
        self.held.0.shown.fetch_add(1, Ordering::Relaxed);
        *self.shown.lock() = Some(Box::new(shown));
        Some(cells)
    }

    /// Whether `def` shows it just as it is stored. Of a kind that came at run time that is found out once for each of its
    /// types: the definition may have changed since it was written.
    pub fn is_as_stored(&self, def: &ResourceDef) -> bool {
        if !def.is_view() {
            return true;
        }
        let Some(digest) = def.schema.digest().filter(|_| !def.is_converted()) else { return false };
        let type_ = digest | 1;
        let known = self.compared.load(Ordering::Relaxed);
        if known != 0 && known | 1 == type_ {
            return known == type_;
        }
        let same = contained("comparing", &self.entry.key, || is_settled(def, &self.entry.value)).unwrap_or_default();
        self.compared.store(if same { type_ } else { type_ - 1 }, Ordering::Relaxed);
        same
    }

    /// What `find` finds, else what `make` makes without the lock being held.
    fn once<T: Clone>(
        &self,
        find: impl Fn(&Read) -> Option<T>,
        make: impl FnOnce() -> T,
        keep: impl FnOnce(&mut Read, T),
    ) -> T {
        if let Some(read) = self.read.lock().as_mut() {
            read.lately = true;
            if let Some(found) = find(read) {
                return found;
            }
        }
        let made = make();
        let mut read = self.read.lock();
        let read = read.get_or_insert_with(|| Box::new(Read::new(&self.held, self.entry.value.len())));
        read.lately = true;
        // Another may have been quicker.
        if let Some(found) = find(read) {
            return found;
        }
        keep(read, made.clone());
        made
    }

    fn read_as<K: Cached>(&self) -> Option<K> {
        let key = ObjectKey::decode(&self.entry.key)?;
        contained("reading an object", &self.entry.key, || K::read(&key, &self.entry))?
            .map_err(|error| warn!(%key, %error, "an object does not have the shape of its kind; caches leave it out"))
            .ok()
    }

    /// Lets go of what was read and not asked for since the last time.
    pub(crate) fn tire(&self) {
        let mut read = self.read.lock();
        if read.as_mut().is_some_and(|read| !std::mem::take(&mut read.lately)) {
            *read = None;
        }
        let mut shown = self.shown.lock();
        if let Some(known) = shown.as_mut() {
            known.idle += 1;
            if known.idle > SHOWN_FOR {
                *shown = None;
            }
        }
    }

    /// Lets go of what was read.
    pub(crate) fn forget(&self) {
        *self.read.lock() = None;
    }
}

/// Whether an object is shown by `def` as it is stored.
fn is_settled(def: &ResourceDef, stored: &[u8]) -> bool {
    let Ok(shown) = served(def, stored) else { return false };
    serde_json::from_slice::<Value>(stored).is_ok_and(|stored| stored == shown)
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kontiki_machinery::Strategy;
    use kontiki_machinery::schema::{Schema, structural::Structural};
    use serde_json::json;

    use super::*;

    /// An object as the store has it.
    pub(crate) fn entry(key: &str, revision: u64, object: &serde_json::Value) -> Arc<Entry> {
        Arc::new(Entry {
            key: Bytes::from(key.to_owned()),
            value: serde_json::to_vec(object).expect("JSON").into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: 1,
            expires: None,
            lease: 0,
        })
    }

    #[test]
    fn an_object_is_read_once_until_nobody_asks_for_it() {
        let (held, stored) = (Held::default(), json!({"metadata": {"name": "x", "uid": "u"}, "data": {"a": "b"}}));
        let object = Object::new(entry("/registry/core/configmaps/ns/x", 7, &stored), &held);
        let typed = object.get::<ConfigMap>().expect("readable");
        assert_eq!(typed.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(object.get::<PartialObjectMetadata>().map(|m| m.uid.clone()).as_deref(), Some("u"));
        assert_eq!(held.bytes(), object.entry().value.len(), "counted once");
        object.tire();
        assert!(Arc::ptr_eq(&typed, &object.get::<ConfigMap>().expect("readable")), "asked for lately");
        object.tire();
        object.tire();
        assert!(object.read.lock().is_none(), "not asked for between two looks");
        assert_eq!(held.bytes(), 0);
        assert_eq!(object.get::<ConfigMap>().expect("readable"), typed);
    }

    #[test]
    fn cells_are_made_once_and_kept_for_minutes() {
        let (held, def) = (Held::default(), Arc::new(crate::facts::tests::row()));
        let stored = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let object = Object::new(entry("/registry/core/things/x", 7, &stored), &held);
        let cells = object.cells(&def).expect("readable");
        let mut text = String::new();
        cells.write(jiff::Timestamp::UNIX_EPOCH, &mut text).expect("a String takes everything");
        assert_eq!(text, r#"["x","2026-01-01T00:00:00Z"]"#);
        assert_eq!((held.bytes(), held.is_nothing()), (0, false), "nothing else is kept");
        for _ in 0..SHOWN_FOR {
            object.tire();
        }
        assert!(Arc::ptr_eq(&cells, &object.cells(&def).expect("kept")));
        let changed = Arc::new(crate::facts::tests::row());
        assert!(!Arc::ptr_eq(&cells, &object.cells(&changed).expect("readable")), "another row shows anew");
        for _ in 0..=SHOWN_FOR {
            object.tire();
        }
        assert!(held.is_nothing());
    }

    /// Gives objects a colour, and counts for how many.
    struct Painted(&'static str, Arc<AtomicUsize>);

    impl Strategy for Painted {
        fn from_storage(&self, obj: &mut Value) {
            self.1.fetch_add(1, Ordering::Relaxed);
            obj["color"] = self.0.into();
        }
    }

    #[test]
    fn an_object_is_compared_with_a_type_once() {
        let compared = Arc::new(AtomicUsize::new(0));
        let row = |color: &'static str, digest: u64| {
            let schema = Schema::custom("things", Structural::new(Arc::new(|| json!({"type": "object"}))), digest);
            let names = ("things", "thing", "Thing");
            let row =
                ResourceDef::new(("", "v1"), names, "io.k8s.api.core.v1.ConfigMap", Painted(color, compared.clone()));
            ResourceDef { schema, settles_on_read: true, ..row }
        };
        let stored = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "color": "red"});
        let object = Object::new(entry("/registry/core/things/x", 7, &stored), &Held::default());
        let (red, green, again) = (row("red", 6), row("green", 8), row("red", 10));
        for (what, def, expect, times) in [
            ("as it is", &red, true, 1),
            ("still", &red, true, 1),
            ("by another definition", &green, false, 2),
            ("still not", &green, false, 2),
            ("by one that says the same", &again, true, 3),
        ] {
            assert_eq!((object.is_as_stored(def), compared.load(Ordering::Relaxed)), (expect, times), "{what}");
        }
        let converted = ResourceDef { version: "v2".into(), ..row("red", 6) };
        assert!(!object.is_as_stored(&converted), "its type is another");
        assert!(object.is_as_stored(&crate::facts::tests::row()), "a kind that is shown as it is stored");
        let garbage =
            Object::new(Arc::new(Entry { value: "{".into(), ..Entry::clone(object.entry()) }), &Held::default());
        assert!(!garbage.is_as_stored(&red));
    }

    /// A reader with a mistake.
    #[derive(Debug)]
    struct Broken;

    impl Cached for Broken {
        fn prefix(_: Option<&str>) -> String {
            String::new()
        }
        fn key(_: Option<&str>, _: &str) -> Bytes {
            Bytes::new()
        }
        fn read(_: &ObjectKey, _: &Entry) -> Result<Self, String> {
            panic!("planted")
        }
    }

    #[test]
    fn a_reader_that_panics_costs_its_own_view_only() {
        let object = Object::new(
            entry("/registry/core/configmaps/ns/x", 7, &json!({"metadata": {"uid": "u"}})),
            &Held::default(),
        );
        assert!(object.get::<Broken>().is_none());
        assert_eq!(object.get::<PartialObjectMetadata>().map(|m| m.uid.clone()).as_deref(), Some("u"));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let object = Object::new(entry("/registry/core/configmaps/ns/x", 7, &json!({"metadata": 5})), &Held::default());
        assert!(object.get::<ConfigMap>().is_none() && object.get::<PartialObjectMetadata>().is_none());
    }
}
