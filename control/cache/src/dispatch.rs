//! Who of all watchers wants a change: found by what they ask for, not by asking each.
//!
//! Invariants
//! - A watcher is entered under one thing that each of its objects must have (its *anchor*): a key, a value of a field or
//!   label, a namespace. A change concerns the anchors of the object as it was and as it is.
//! - Queues are bounded. A watcher whose queue is full is ended and told so; nothing is skipped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use kontiki_machinery::ResourceDef;
use kontiki_model::{ObjectKey, Revision};
use kontiki_store::{Event, EventKind};
use tokio::sync::mpsc;

use crate::filter::Filter;
use crate::index::{Extract, Path, by_facts};
use crate::object::{Held, Object};

/// Changes that may wait for one watcher. At a thousand a second, seconds.
const QUEUE: usize = 4096;

/// How a watcher sees a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// The object came, or came to pass the filter.
    Added,
    /// It passed before and still does.
    Modified,
    /// It went, or passes no more: shown as it last was.
    Deleted,
}

/// One object came, changed or went.
pub struct Change {
    /// When.
    pub revision: Revision,
    /// As it was.
    pub old: Option<Arc<Object>>,
    /// As it is; `None` once it is gone.
    pub new: Option<Arc<Object>>,
    lines: [OnceLock<Bytes>; 3],
    /// In the forms that are seldom asked for.
    others: OnceLock<Box<[[OnceLock<Bytes>; 3]; FORMS - 1]>>,
}

/// How many forms an event may have whose text is kept with it.
const FORMS: usize = 6;

impl Change {
    pub(crate) fn new(revision: Revision, old: Option<Arc<Object>>, new: Option<Arc<Object>>) -> Self {
        Self { revision, old, new, lines: Default::default(), others: OnceLock::new() }
    }

    /// Of an event that no collection has seen.
    pub(crate) fn of_event(event: &Event) -> Self {
        let held = Held::default();
        let object = |entry: &Arc<_>| Arc::new(Object::new(Arc::clone(entry), &held));
        let new = (event.kind == EventKind::Put).then(|| object(&event.entry));
        Self::new(event.entry.mod_revision, event.prev.as_ref().map(object), new)
    }

    /// The object before and after, where it was or is there.
    pub fn both(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.old.iter().chain(self.new.iter())
    }

    /// The key of the object in the store.
    #[must_use]
    pub fn store_key(&self) -> &[u8] {
        self.both().next().map_or(b"", |object| &object.entry().key)
    }

    /// The address of the object.
    #[must_use]
    pub fn key(&self) -> Option<ObjectKey> {
        ObjectKey::decode(self.store_key())
    }

    /// The version that is shown.
    #[must_use]
    pub fn shown(&self, shown: Shown) -> Option<&Arc<Object>> {
        match shown {
            Shown::Added | Shown::Modified => self.new.as_ref(),
            Shown::Deleted => self.old.as_ref(),
        }
    }

    /// The change in a form, made by the first who asks for it. Callers number the forms, the most frequent one 0; beyond
    /// six of them nothing is kept. `None`: it could not be made.
    pub fn line(&self, shown: Shown, form: usize, encode: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let lines = match form.checked_sub(1) {
            None => Some(&self.lines),
            Some(other) => self.others.get_or_init(Default::default).get(other),
        };
        let Some(line) = lines.map(|lines| &lines[shown as usize]) else { return encode() };
        if let Some(line) = line.get() {
            return Some(line.clone());
        }
        let made = encode()?;
        Some(line.get_or_init(|| made).clone())
    }
}

/// What a watcher asks for.
pub(crate) struct Interest {
    pub def: Arc<ResourceDef>,
    /// Of the keys.
    pub prefix: Bytes,
    pub filter: Filter,
}

impl Interest {
    /// How it sees a change; `None`: not at all.
    pub fn sees(&self, change: &Change) -> Option<Shown> {
        if !change.store_key().starts_with(&self.prefix) {
            return None;
        }
        let passes =
            |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|object| self.filter.passes(&self.def, object));
        match (passes(&change.old), passes(&change.new)) {
            (false, false) => None,
            (false, true) => Some(Shown::Added),
            (true, true) => Some(Shown::Modified),
            (true, false) => Some(Shown::Deleted),
        }
    }

    fn anchor(&self) -> Anchor {
        let namespaced = self.filter.namespace().filter(|_| self.def.namespaced());
        let own = namespace_of(&self.prefix).is_some();
        let namespace = namespaced.filter(|_| !own).map(|name| [&self.prefix, name.as_bytes(), b"/"].concat());
        let prefix = namespace.map_or_else(|| self.prefix.clone(), Bytes::from);
        let one_place = !self.def.namespaced() || namespace_of(&prefix).is_some();
        if let Some(name) = self.filter.name().filter(|_| one_place) {
            return Anchor::Key([&prefix, name.as_bytes()].concat().into());
        }
        match self.filter.needs(&self.def).into_iter().next() {
            Some((path, value)) => Anchor::Value(path, value.into()),
            None if namespace_of(&prefix).is_some() => Anchor::Namespace(prefix),
            None => Anchor::Any,
        }
    }
}

/// `/registry/<group>/<resource>/<namespace>/` of a key or prefix that has it.
fn namespace_of(key: &[u8]) -> Option<&[u8]> {
    let (at, _) = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(4)?;
    Some(&key[..=at])
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Anchor {
    Any,
    Namespace(Bytes),
    Key(Bytes),
    Value(Path, Box<str>),
}

/// Why a queue was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The watcher was too slow.
    Lagged = 1,
    /// The collection was filled anew: what happened between is in history.
    Replaced = 2,
}

pub(crate) type Item = (Shown, Arc<Change>);

/// A watcher's end of its queue.
pub(crate) struct Queue {
    pub rx: mpsc::Receiver<Item>,
    end: Arc<AtomicU8>,
}

impl Queue {
    /// Why it ended, once it has.
    pub fn end(&self) -> Option<End> {
        match self.end.load(Ordering::Acquire) {
            1 => Some(End::Lagged),
            2 => Some(End::Replaced),
            _ => None,
        }
    }
}

struct Watcher {
    interest: Arc<Interest>,
    anchor: Anchor,
    tx: mpsc::Sender<Item>,
    end: Arc<AtomicU8>,
}

/// The watchers of one collection.
#[derive(Default)]
pub(crate) struct Dispatch {
    /// Everything up to here has been told.
    pub seen: Revision,
    next: u64,
    watchers: HashMap<u64, Watcher>,
    anchored: HashMap<Anchor, Vec<u64>>,
    /// How many watchers are anchored by each path, and how its values are found.
    paths: HashMap<Path, (usize, Extract)>,
}

impl Dispatch {
    /// From now on a watcher is told what it asks for.
    pub fn join(&mut self, interest: &Arc<Interest>) -> (u64, Queue) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let (id, anchor, end) = (self.next, interest.anchor(), Arc::new(AtomicU8::new(0)));
        self.next += 1;
        if let Anchor::Value(path, _) = &anchor {
            let by = || (0, by_facts(&interest.def, path));
            self.paths.entry(path.clone()).or_insert_with(by).0 += 1;
        }
        self.anchored.entry(anchor.clone()).or_default().push(id);
        let watcher = Watcher { interest: Arc::clone(interest), anchor, tx, end: Arc::clone(&end) };
        self.watchers.insert(id, watcher);
        (id, Queue { rx, end })
    }

    /// A watcher is told no more.
    pub fn leave(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        if let Some(ids) = self.anchored.get_mut(&watcher.anchor) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.anchored.remove(&watcher.anchor);
            }
        }
        if let Anchor::Value(path, _) = &watcher.anchor
            && let Some((count, _)) = self.paths.get_mut(path)
        {
            *count -= 1;
            if *count == 0 {
                self.paths.remove(path);
            }
        }
    }

    /// Tells a change to those whom it concerns.
    pub fn tell(&mut self, change: &Arc<Change>) {
        self.seen = self.seen.max(change.revision);
        if self.watchers.is_empty() {
            return;
        }
        let mut slow = Vec::new();
        for id in self.concerned(change) {
            let Some(watcher) = self.watchers.get(&id) else { continue };
            let Some(shown) = watcher.interest.sees(change) else { continue };
            if watcher.tx.try_send((shown, Arc::clone(change))).is_err() {
                watcher.end.store(End::Lagged as u8, Ordering::Release);
                slow.push(id);
            }
        }
        slow.into_iter().for_each(|id| self.leave(id));
    }

    /// The watchers whose anchor the object has or had, each once.
    fn concerned(&self, change: &Change) -> Vec<u64> {
        let key = change.store_key();
        let mut anchors = vec![Anchor::Any, Anchor::Key(Bytes::copy_from_slice(key))];
        anchors.extend(namespace_of(key).map(|prefix| Anchor::Namespace(Bytes::copy_from_slice(prefix))));
        for (path, (_, extract)) in &self.paths {
            let mut values: Vec<String> = change.both().flat_map(|object| extract(object)).collect();
            values.sort_unstable();
            values.dedup();
            anchors.extend(values.into_iter().map(|value| Anchor::Value(path.clone(), value.into())));
        }
        anchors.iter().filter_map(|anchor| self.anchored.get(anchor)).flatten().copied().collect()
    }

    /// Ends all queues: what happened up to `seen` is in history.
    pub fn replace(&mut self, seen: Revision) {
        self.seen = self.seen.max(seen);
        for watcher in self.watchers.values() {
            watcher.end.store(End::Replaced as u8, Ordering::Release);
        }
        self.watchers.clear();
        self.anchored.clear();
        self.paths.clear();
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

    fn object(name: &str, revision: u64, place: &str, color: &str) -> Arc<Object> {
        let stored = json!({"metadata": {"labels": {"color": color}}, "spec": {"place": place}});
        Arc::new(Object::new(entry(&format!("{KIND}{name}"), revision, &stored), &Held::default()))
    }

    fn interest(prefix: &str, labels: &str, fields: &[(&str, &str, bool)]) -> Arc<Interest> {
        let term = |(path, value, equal): &(&str, &str, bool)| Term {
            path: (*path).to_owned(),
            value: (*value).to_owned(),
            equal: *equal,
        };
        let labels = Selector::parse(labels).expect("a selector");
        let filter = Filter::new(labels, fields.iter().map(term).collect());
        Arc::new(Interest { def: Arc::new(row()), prefix: prefix.to_owned().into(), filter })
    }

    #[test]
    fn a_change_reaches_those_who_saw_the_object_or_see_it() {
        let old = object("ns/x", 5, "here", "red");
        let new = object("ns/x", 6, "there", "red");
        let (moved, came, went) = (
            Arc::new(Change::new(Revision(6), Some(old.clone()), Some(new))),
            Arc::new(Change::new(Revision(5), None, Some(old.clone()))),
            Arc::new(Change::new(Revision(7), Some(old), None)),
        );
        let in_ns = format!("{KIND}ns/");
        let other = format!("{KIND}ns2/");
        use Shown::{Added, Deleted, Modified};
        for (name, interest, expect) in [
            ("all", interest(KIND, "", &[]), [Some(Modified), Some(Added), Some(Deleted)]),
            ("namespace", interest(&in_ns, "", &[]), [Some(Modified), Some(Added), Some(Deleted)]),
            ("another", interest(&other, "", &[]), [None; 3]),
            (
                "one",
                interest(&in_ns, "", &[("metadata.name", "x", true)]),
                [Some(Modified), Some(Added), Some(Deleted)],
            ),
            ("not it", interest(&in_ns, "", &[("metadata.name", "x", false)]), [None; 3]),
            (
                "one anywhere",
                interest(KIND, "", &[("metadata.name", "x", true)]),
                [Some(Modified), Some(Added), Some(Deleted)],
            ),
            (
                "place left",
                interest(KIND, "", &[("spec.place", "here", true)]),
                [Some(Deleted), Some(Added), Some(Deleted)],
            ),
            ("place reached", interest(KIND, "", &[("spec.place", "there", true)]), [Some(Added), None, None]),
            ("elsewhere", interest(KIND, "", &[("spec.place", "far", true)]), [None; 3]),
            ("label", interest(KIND, "color=red", &[]), [Some(Modified), Some(Added), Some(Deleted)]),
            ("other label", interest(KIND, "color!=red", &[]), [None; 3]),
            (
                "both",
                interest(&in_ns, "color=red", &[("spec.place", "here", true)]),
                [Some(Deleted), Some(Added), Some(Deleted)],
            ),
        ] {
            let mut dispatch = Dispatch::default();
            let (id, mut queue) = dispatch.join(&interest);
            for (change, expect) in [&moved, &came, &went].into_iter().zip(expect) {
                dispatch.tell(change);
                assert_eq!(queue.rx.try_recv().ok().map(|(shown, _)| shown), expect, "{name} {:?}", change.revision);
            }
            dispatch.leave(id);
            assert!(dispatch.anchored.is_empty() && dispatch.paths.is_empty(), "{name} is forgotten");
        }
    }

    #[test]
    fn only_those_concerned_are_asked() {
        let mut dispatch = Dispatch::default();
        let places: Vec<String> = (0..500).map(|n| format!("p{n}")).collect();
        let _queues: Vec<_> =
            places.iter().map(|place| dispatch.join(&interest(KIND, "", &[("spec.place", place, true)]))).collect();
        let change = Change::new(Revision(6), Some(object("ns/x", 5, "p7", "")), Some(object("ns/x", 6, "p8", "")));
        assert_eq!(dispatch.concerned(&change), [7, 8]);
    }

    #[test]
    fn who_is_slow_is_ended_and_who_is_replaced_is_told() {
        let mut dispatch = Dispatch::default();
        let (_, mut queue) = dispatch.join(&interest(KIND, "", &[]));
        for revision in 0..=QUEUE as u64 {
            dispatch.tell(&Arc::new(Change::new(Revision(revision), None, Some(object("ns/x", revision, "", "")))));
        }
        assert!((0..QUEUE).all(|_| queue.rx.try_recv().is_ok()), "what was queued is still there");
        assert_eq!((queue.rx.try_recv().is_err(), queue.end()), (true, Some(End::Lagged)));
        let (_, queue) = dispatch.join(&interest(KIND, "", &[]));
        dispatch.replace(Revision(9000));
        assert_eq!((queue.end(), dispatch.seen), (Some(End::Replaced), Revision(9000)));
    }
}
