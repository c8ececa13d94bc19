//! The objects of one kind, as of one revision.
//!
//! Invariants
//! - What is shown is a state that the store had: the changes of one revision come together.
//! - It never goes back: a change that it has seen already is skipped.
//! - Whoever is told of a change finds it shown.
//! - Objects are read while others may look; only the change itself is made alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_machinery::ResourceDef;
use kontiki_model::Revision;
use kontiki_store::{Entry, Event, EventKind};
use parking_lot::{Mutex, RwLock, RwLockUpgradableReadGuard};

use crate::backend::Snapshot;
use crate::dispatch::{Change, Dispatch, Interest, Queue};
use crate::filter::Filter;
use crate::index::{Extract, Index, Path, by_facts};
use crate::object::{Held, Object};
use crate::vault::unreadable;

/// Paths that selectors may have made indexes of. Objects are looked at one by one for others.
const SELECTED_PATHS: usize = 64;

/// Stored bytes of objects of which something read is kept, beyond which who walks through all of them leaves nothing
/// behind.
const FULL: usize = 32 << 20;

pub(crate) type Handler = Arc<dyn Fn(&Change) + Send + Sync>;

/// Tells all of each change, in order.
pub(crate) fn tell_each(handlers: &[Handler], changes: &[Arc<Change>]) {
    for change in changes {
        handlers.iter().for_each(|handler| handler(change));
    }
}

/// In the order of their keys.
fn in_order(mut objects: Vec<Arc<Object>>) -> Vec<Arc<Object>> {
    objects.sort_unstable_by(|a, b| a.entry().key.cmp(&b.entry().key));
    objects
}

#[derive(Default)]
struct State {
    /// Everything up to here is shown.
    seen: Revision,
    numbers: BTreeMap<Bytes, u32>,
    /// By number.
    objects: Vec<Option<Arc<Object>>>,
    /// Numbers of objects that are gone.
    free: Vec<u32>,
    /// Keys of objects that nobody can read.
    unreadable: BTreeSet<Bytes>,
    indexes: HashMap<Path, Index>,
}

impl State {
    fn get(&self, key: &[u8]) -> Option<&Arc<Object>> {
        self.objects[*self.numbers.get(key)? as usize].as_ref()
    }

    fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let old = self.take(&object.entry().key);
        let number = self.free.pop().unwrap_or_else(|| {
            self.objects.push(None);
            u32::try_from(self.objects.len() - 1).expect("four billion objects of a kind do not fit into a master")
        });
        for index in self.indexes.values_mut() {
            let values = (index.extract)(&object);
            index.add(number, &values);
        }
        if unreadable(&object.entry().value).is_some() {
            self.unreadable.insert(object.entry().key.clone());
        }
        self.numbers.insert(object.entry().key.clone(), number);
        self.objects[number as usize] = Some(object);
        old
    }

    fn take(&mut self, key: &[u8]) -> Option<Arc<Object>> {
        let number = self.numbers.remove(key)?;
        let old = self.objects[number as usize].take()?;
        for index in self.indexes.values_mut() {
            let values = (index.extract)(&old);
            index.remove(number, &values);
        }
        self.free.push(number);
        self.unreadable.remove(key);
        Some(old)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.iter().flatten()
    }

    /// Those whose keys begin with `prefix`, in order.
    fn under<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Arc<Object>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let after = self.numbers.range::<[u8], _>(from);
        let under = after.take_while(move |(key, _)| key.starts_with(prefix));
        under.filter_map(|(_, number)| self.objects[*number as usize].as_ref())
    }

    fn found(&self, path: &Path, value: &str) -> Vec<Arc<Object>> {
        let numbers = self.indexes.get(path).into_iter().flat_map(|index| index.get(value));
        numbers.filter_map(|number| self.objects[number as usize].clone()).collect()
    }

    /// Has every index look at an object, so that it is read already when it is put in or taken out.
    fn read(&self, object: &Object) {
        self.indexes.values().for_each(|index| drop((index.extract)(object)));
    }
}

/// See the module.
pub struct Collection {
    /// `/registry/<group>/<resource>/`.
    prefix: Bytes,
    state: RwLock<State>,
    handlers: Mutex<HashMap<u64, Handler>>,
    dispatch: Mutex<Dispatch>,
    held: Held,
}

impl Collection {
    pub(crate) fn new(prefix: Bytes) -> Self {
        let (state, handlers, dispatch) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self { prefix, state, handlers, dispatch, held: Held::default() }
    }

    /// One object by its key in the store.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Arc<Object>> {
        self.state.read().get(key).cloned()
    }

    /// For each entry its object, if it is shown in just that version.
    #[must_use]
    pub fn of(&self, entries: &[Arc<Entry>]) -> Vec<Option<Arc<Object>>> {
        let state = self.state.read();
        let same =
            |entry: &Arc<Entry>| state.get(&entry.key).filter(|known| known.revision() == entry.mod_revision).cloned();
        entries.iter().map(same).collect()
    }

    /// Those whose keys begin with `prefix`, in order.
    #[must_use]
    pub fn under(&self, prefix: &[u8]) -> Vec<Arc<Object>> {
        self.state.read().under(prefix).cloned().collect()
    }

    /// Those under `prefix` that nobody can read, in order: no selector finds them.
    #[must_use]
    pub fn unreadable(&self, prefix: &[u8]) -> Vec<Arc<Entry>> {
        let state = self.state.read();
        let under = state.unreadable.iter().filter(|key| key.starts_with(prefix));
        under.filter_map(|key| state.get(key).map(|object| Arc::clone(object.entry()))).collect()
    }

    /// All, in order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.under(&self.prefix)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.read().numbers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of `def` under `prefix` that pass, in the order of their keys, and the revision as of which that is
    /// so. What they must have to pass is looked up in an index, which the first who asks by it makes.
    #[must_use]
    pub fn select(&self, def: &Arc<ResourceDef>, prefix: &[u8], filter: &Filter) -> (Revision, Vec<Arc<Object>>) {
        let mut needs = filter.needs(def);
        needs.retain(|(path, _)| self.has_selected(def, path));
        let (seen, mut found) = {
            let state = self.state.read();
            let count = |(path, value): &(Path, &str)| state.indexes.get(path).map_or(0, |index| index.count(value));
            let found = match needs.iter().min_by_key(|need| count(need)) {
                Some((path, value)) => state.found(path, value),
                None => state.under(prefix).cloned().collect(),
            };
            (state.seen, found)
        };
        found.retain(|object| object.entry().key.starts_with(prefix) && filter.passes(def, object));
        (seen, in_order(found))
    }

    /// Whether there is an index for selectors, now.
    fn has_selected(&self, def: &Arc<ResourceDef>, path: &Path) -> bool {
        let known = {
            let state = self.state.read();
            let selected = state.indexes.keys().filter(|path| !matches!(path, Path::Named(_))).count();
            if state.indexes.contains_key(path) { Some(true) } else { (selected >= SELECTED_PATHS).then_some(false) }
        };
        known.unwrap_or_else(|| {
            self.add_index(path.clone(), &by_facts(def, path));
            true
        })
    }

    /// Adds an index, unless there is one.
    pub(crate) fn add_index(&self, path: Path, extract: &Extract) {
        if self.state.read().indexes.contains_key(&path) {
            return;
        }
        // Reading them takes long; nobody has to wait for it, and it is done once.
        let objects = self.state.read().objects.clone();
        let value = |object: &Arc<Object>| {
            let values = extract(object);
            if self.is_full() {
                object.forget();
            }
            values
        };
        let known: Vec<_> = objects.iter().map(|object| object.as_ref().map(value)).collect();
        let mut state = self.state.write();
        let mut index = Index::new(Arc::clone(extract));
        for (at, object) in state.objects.iter().enumerate() {
            let Some(object) = object else { continue };
            let same = objects.get(at).and_then(Option::as_ref).is_some_and(|known| Arc::ptr_eq(known, object));
            let number = u32::try_from(at).expect("numbers are made so");
            match known.get(at).and_then(Option::as_ref).filter(|_| same) {
                Some(values) => index.add(number, values),
                None => index.add(number, &extract(object)),
            }
        }
        state.indexes.entry(path).or_insert(index);
    }

    /// The objects that an index has under a value, in the order of their keys.
    pub(crate) fn find(&self, path: &Path, value: &str) -> Vec<Arc<Object>> {
        in_order(self.state.read().found(path, value))
    }

    /// From now on `handler` is called after each change.
    pub(crate) fn add_handler(&self, id: u64, handler: Handler) {
        self.handlers.lock().insert(id, handler);
    }

    pub(crate) fn remove_handler(&self, id: u64) {
        self.handlers.lock().remove(&id);
    }

    /// From now on a watcher is told of changes: of all after the revision given.
    pub(crate) fn join(&self, interest: &Arc<Interest>) -> (u64, Queue, Revision) {
        let mut dispatch = self.dispatch.lock();
        let (id, queue) = dispatch.join(interest);
        (id, queue, dispatch.seen)
    }

    pub(crate) fn leave(&self, id: u64) {
        self.dispatch.lock().leave(id);
    }

    /// Makes the changes of one revision, and tells of them.
    pub(crate) fn apply(&self, revision: Revision, events: &[&Event]) -> Vec<Arc<Change>> {
        let state = self.state.upgradable_read();
        if revision <= state.seen {
            return Vec::new();
        }
        let new = |event: &Event| Arc::new(Object::new(event.entry.clone(), &self.held));
        let object = |event: &Event| (event.kind == EventKind::Put).then(|| new(event));
        let news: Vec<_> = events.iter().map(|event| (&event.entry.key, object(event))).collect();
        for (key, new) in &news {
            state.get(key).into_iter().chain(new).for_each(|object| state.read(object));
        }
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        let change = |(key, new): (&Bytes, Option<Arc<Object>>)| {
            let old = match &new {
                Some(object) => state.put(Arc::clone(object)),
                None => state.take(key),
            };
            Arc::new(Change::new(revision, old, new))
        };
        let changes: Vec<_> = news.into_iter().map(change).filter(|change| change.both().next().is_some()).collect();
        state.seen = revision;
        drop(state);
        self.tell(&changes);
        changes
    }

    fn tell(&self, changes: &[Arc<Change>]) {
        let mut dispatch = self.dispatch.lock();
        changes.iter().for_each(|change| dispatch.tell(change));
        drop(dispatch);
        self.tell_handlers(changes);
    }

    fn tell_handlers(&self, changes: &[Arc<Change>]) {
        let handlers: Vec<Handler> = self.handlers.lock().values().cloned().collect();
        tell_each(&handlers, changes);
    }

    /// Shows what a snapshot has. Handlers are told of the difference as of ordinary changes; watchers, who must miss
    /// nothing between, read on from history.
    pub(crate) fn replace(&self, snapshot: &Snapshot) -> Vec<Arc<Change>> {
        let revision = snapshot.revision();
        let mut changes = Vec::new();
        let mut change = |old, new| changes.push(Arc::new(Change::new(revision, old, new)));
        let mut state = self.state.write();
        let mut gone: BTreeSet<Bytes> = state.numbers.keys().cloned().collect();
        for entry in snapshot.range(&self.prefix) {
            gone.remove(&entry.key);
            if state.get(&entry.key).is_some_and(|known| known.revision() == entry.mod_revision) {
                continue;
            }
            let new = Arc::new(Object::new(entry, &self.held));
            change(state.put(Arc::clone(&new)), Some(new));
        }
        gone.iter().for_each(|key| change(state.take(key), None));
        state.seen = revision;
        drop(state);
        self.dispatch.lock().replace(revision);
        self.tell_handlers(&changes);
        changes
    }

    /// Whether so much is kept of what was read that no more should be.
    pub(crate) fn is_full(&self) -> bool {
        self.held.bytes() > FULL
    }

    /// Lets go of what was read and is not asked for.
    pub(crate) fn tire(&self) {
        if self.held.is_nothing() {
            return;
        }
        let objects: Vec<_> = self.state.read().all().cloned().collect();
        objects.iter().for_each(|object| object.tire());
    }
}

#[cfg(test)]
mod tests {
    use kontiki_model::selector::Selector;
    use serde_json::json;

    use super::*;
    use crate::facts::tests::row;
    use crate::filter::Term;
    use crate::object::tests::entry;

    const KIND: &str = "/registry/core/things/";

    fn thing(name: &str, revision: u64, place: &str) -> Arc<Entry> {
        let stored = json!({"metadata": {"labels": {"n": name}}, "spec": {"place": place}});
        entry(&format!("{KIND}{name}"), revision, &stored)
    }

    fn put(entry: &Arc<Entry>) -> Event {
        Event { kind: EventKind::Put, entry: entry.clone(), prev: None }
    }

    fn delete(entry: &Arc<Entry>) -> Event {
        Event { kind: EventKind::Delete, entry: entry.clone(), prev: None }
    }

    fn names(objects: &[Arc<Object>]) -> Vec<String> {
        let name = |object: &Arc<Object>| String::from_utf8_lossy(&object.entry().key[KIND.len()..]).into_owned();
        objects.iter().map(name).collect()
    }

    fn at(place: &str) -> Filter {
        let term = Term { path: "spec.place".into(), value: place.into(), equal: true };
        Filter::new(Selector::default(), vec![term])
    }

    #[test]
    fn what_is_selected_follows_the_changes() {
        let (collection, def) = (Collection::new(KIND.into()), Arc::new(row()));
        let (a, b, c) = (thing("ns/a", 2, "here"), thing("ns/b", 2, "there"), thing("other/c", 2, "here"));
        collection.apply(Revision(2), &[&put(&c), &put(&b), &put(&a)]);
        let select = |prefix: &str, filter: &Filter| {
            let (seen, found) = collection.select(&def, format!("{KIND}{prefix}").as_bytes(), filter);
            (seen.0, names(&found))
        };
        let known = |revision, names: &[&str]| (revision, names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(select("", &at("here")), known(2, &["ns/a", "other/c"]));
        assert_eq!(select("ns/", &at("here")), known(2, &["ns/a"]));
        assert_eq!(select("", &at("nowhere")), known(2, &[]));
        collection.apply(Revision(3), &[&put(&thing("ns/b", 3, "here")), &delete(&a)]);
        assert_eq!(select("", &at("here")), known(3, &["ns/b", "other/c"]));
        collection.apply(Revision(3), &[&put(&thing("ns/z", 3, "here"))]);
        assert_eq!(select("", &at("here")), known(3, &["ns/b", "other/c"]), "a revision comes once");
        let labels = Filter::new(Selector::parse("n=ns/b").expect("a selector"), Vec::new());
        assert_eq!(select("", &labels), known(3, &["ns/b"]));
        let negative = Filter::new(Selector::parse("n!=ns/b").expect("a selector"), Vec::new());
        assert_eq!(select("", &negative), known(3, &["other/c"]), "no index helps");
    }

    #[test]
    fn changes_of_one_object_in_one_revision_come_in_order() {
        let (collection, a) = (Collection::new(KIND.into()), thing("ns/a", 2, "here"));
        let changes = collection.apply(Revision(2), &[&put(&a), &delete(&a)]);
        let seen: Vec<_> = changes.iter().map(|change| (change.old.is_some(), change.new.is_some())).collect();
        assert_eq!(seen, [(false, true), (true, false)]);
        assert!(collection.is_empty());
    }

    #[test]
    fn numbers_are_used_again() {
        let collection = Collection::new(KIND.into());
        for revision in 1..100 {
            collection.apply(Revision(revision * 2), &[&put(&thing("ns/a", revision * 2, "here"))]);
            collection.apply(Revision(revision * 2 + 1), &[&delete(&thing("ns/a", revision * 2 + 1, "here"))]);
        }
        assert_eq!(collection.state.read().objects.len(), 1);
    }
}
