//! What was written: the objects as of now, what was made and removed how often, and which rules were broken.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kontiki_model::ObjectKey;
use kontiki_store::{Event, EventKind, Store, WatchItem};
use parking_lot::Mutex;
use serde_json::Value;

use crate::rules::{self, Change, Made};

pub type Objects = BTreeMap<ObjectKey, Value>;

/// See the module.
pub struct History {
    pub objects: Objects,
    /// Of generated names, what they were generated from.
    pub names: HashMap<String, String>,
    /// Of uids, whose they are.
    pub uids: HashMap<String, String>,
    /// How often an object of this kind and name was made, and removed.
    pub made: BTreeMap<String, [usize; 2]>,
    /// What rules remember.
    seen: Made,
    /// Rules that were broken.
    pub broken: Vec<String>,
    /// When something changed last.
    pub changed: Instant,
    /// A digest of all writes, in order.
    pub trace: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            objects: Objects::new(),
            names: HashMap::new(),
            uids: HashMap::new(),
            made: BTreeMap::new(),
            seen: Made::default(),
            broken: Vec::new(),
            changed: Instant::now(),
            trace: 0,
        }
    }
}

/// What is beside the work: events for people, signs of life.
pub fn aside(key: &ObjectKey) -> bool {
    matches!(key.resource.as_str(), "events" | "leases")
}

impl History {
    /// The name of an object, without what is random in it.
    pub fn plain(&self, key: &ObjectKey) -> String {
        let name = self.names.get(&key.name).unwrap_or(&key.name);
        let name = if name.parse::<std::net::IpAddr>().is_ok() { "an address" } else { name };
        let space = key.namespace.as_ref().map_or(String::new(), |space| format!("{space}/"));
        format!("{} {space}{name}", key.resource)
    }

    fn note(&mut self, event: &Event) -> Option<Change> {
        let key = ObjectKey::decode(&event.entry.key)?;
        let mut hasher = DefaultHasher::new();
        (self.trace, &event.entry.key, &event.entry.value, event.entry.mod_revision.0).hash(&mut hasher);
        self.trace = hasher.finish();
        let new = match event.kind {
            EventKind::Put => Some(serde_json::from_slice::<Value>(&event.entry.value).ok()?),
            EventKind::Delete => None,
        };
        let old = match &new {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(&key),
        };
        if aside(&key) {
            return None;
        }
        self.changed = Instant::now();
        if let Some(made) = new.as_ref().filter(|_| old.is_none()) {
            if let Some(base) = made["metadata"]["generateName"].as_str() {
                self.names.insert(key.name.clone(), format!("{base}*"));
            }
            let whose = self.plain(&key);
            self.uids.insert(made["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), whose);
        }
        let plain = self.plain(&key);
        let counts = self.made.entry(plain).or_default();
        counts[0] += usize::from(old.is_none());
        counts[1] += usize::from(new.is_none());
        Some(Change { key, old, new })
    }

    /// Takes in one revision.
    fn see(&mut self, events: &[Event]) {
        let changes: Vec<Change> = events.iter().filter_map(|event| self.note(event)).collect();
        for change in &changes {
            let broken = rules::broken(&self.objects, &mut self.seen, change);
            self.broken.extend(broken.into_iter().map(|why| format!("{}: {why}", change.key)));
        }
    }

    /// Forgets what was before, but not what there is.
    pub fn begin(&mut self) {
        self.made.clear();
        self.broken.clear();
        self.trace = 0;
    }
}

/// Follows the store until the run ends.
pub async fn follow(store: Store, history: Arc<Mutex<History>>) {
    let Ok(mut watch) = store.watch(Bytes::new(), None) else {
        history.lock().broken.push("the store cannot be watched".to_owned());
        return;
    };
    while let Some(item) = watch.next().await {
        match item {
            WatchItem::Events(events) => history.lock().see(&events),
            WatchItem::Progress(_) => {}
            WatchItem::Lagged => history.lock().broken.push("the watch fell behind".to_owned()),
        }
    }
}
