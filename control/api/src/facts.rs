//! What selectors look at in an object, worked out once for each version of it and shared by all who list or watch.
//!
//! Invariants
//! - Facts belong to a key at a revision: whoever asks about another version gets facts of their own.
//! - Memory follows the objects that there are: of each key the two latest versions are kept (a watch compares an
//!   object with what it was), and keys that are gone are swept out once they outnumber the others.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use kontiki_machinery::{Name, ResourceDef};
use kontiki_store::{Entry, Revision, Snapshot};
use parking_lot::Mutex;
use serde_json::Value;

use crate::state::served;

const SHARDS: usize = 64;
/// Keys of a shard beyond which it is looked at for those that are gone.
const SWEEP_FROM: usize = 256;

/// What selectors look at.
pub(crate) struct Facts {
    /// Sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the fields that the row lets selectors name.
    fields: Box<[(Name, Box<str>)]>,
}

impl Facts {
    fn of(def: &ResourceDef, object: &Value) -> Self {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        // The map is sorted by key already.
        let labels = labels.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect();
        let field = |path: &Name| (path.clone(), def.strategy.field(object, path).into_boxed_str());
        Self { labels, fields: def.fields.iter().map(field).collect() }
    }

    /// Whether it has all that selectors may ask of `def`, which may have come to serve more fields.
    fn covers(&self, def: &ResourceDef) -> bool {
        def.fields.iter().all(|path| self.fields.iter().any(|(known, _)| known == path))
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The value of a field that the row lets selectors name.
    pub fn field(&self, path: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == path).map_or("", |(_, value)| value)
    }
}

type Versions = Vec<(Revision, Arc<Facts>)>;

#[derive(Default)]
struct Shard {
    known: HashMap<Box<[u8]>, Versions>,
    /// Keys after which it is swept next.
    sweep_at: usize,
}

/// Facts of the objects that selectors were asked about.
pub(crate) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

impl Default for Cache {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { known: HashMap::new(), sweep_at: SWEEP_FROM });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }
}

impl Cache {
    /// The facts of an object; `None` if it cannot be read. `now` says which keys there are.
    pub fn of(&self, def: &ResourceDef, entry: &Entry, now: impl FnOnce() -> Snapshot) -> Option<Arc<Facts>> {
        // Two views of one object have fields of their own.
        let key: Cow<'_, [u8]> = if def.is_view() {
            [def.group.as_bytes(), b"\0", &entry.key].concat().into()
        } else {
            entry.key.as_ref().into()
        };
        let shard = &self.shards[self.hasher.hash_one(&key) as usize % SHARDS];
        let revision = entry.mod_revision;
        let found = |shard: &Shard| {
            let versions = shard.known.get(key.as_ref())?;
            let (_, facts) = versions.iter().find(|(known, _)| *known == revision)?;
            facts.covers(def).then(|| Arc::clone(facts))
        };
        if let Some(facts) = found(&shard.lock()) {
            return Some(facts);
        }
        let facts = Arc::new(Facts::of(def, &served(def, entry).ok()?));
        let mut shard = shard.lock();
        let versions = shard.known.entry(key.into()).or_default();
        versions.retain(|(known, _)| *known != revision);
        if versions.len() == 2 {
            versions.remove(0);
        }
        versions.push((revision, Arc::clone(&facts)));
        versions.sort_by_key(|(revision, _)| *revision);
        if shard.known.len() >= shard.sweep_at {
            let now = now();
            // Of a view's key the object's follows the zero byte, which no key of an object has.
            let own = |key: &[u8]| key.iter().position(|byte| *byte == 0).map_or(0, |at| at + 1);
            shard.known.retain(|key, _| now.get(&key[own(key)..]).is_some());
            shard.sweep_at = (shard.known.len() * 2).max(SWEEP_FROM);
        }
        Some(facts)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kontiki_machinery::Strategy;
    use kontiki_machinery::resource::names;
    use serde_json::json;

    use super::*;

    struct Plain;

    impl Strategy for Plain {}

    fn row() -> ResourceDef {
        let names_of = ("things", "thing", "Thing");
        let row = ResourceDef::new(("", "v1"), names_of, "io.k8s.api.core.v1.ConfigMap", Plain);
        ResourceDef { fields: names(&["spec.place"]), ..row }
    }

    fn entry(name: &str, revision: u64, place: &str) -> Entry {
        let object = json!({"metadata": {"labels": {"b": "2", "a": "1"}}, "spec": {"place": place}});
        Entry {
            key: Bytes::from(format!("/registry/core/things/{name}")),
            value: serde_json::to_vec(&object).expect("JSON").into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            version: 1,
            expires: None,
            lease: 0,
        }
    }

    #[test]
    fn facts_are_of_a_version_and_of_what_selectors_may_ask() {
        let (cache, mut def) = (Cache::default(), row());
        let none = || -> Snapshot { unreachable!("there are few keys") };
        let old = cache.of(&def, &entry("x", 5, "here"), none).expect("readable");
        let new = cache.of(&def, &entry("x", 6, "there"), none).expect("readable");
        assert_eq!((old.field("spec.place"), new.field("spec.place")), ("here", "there"));
        assert_eq!((new.label("a"), new.label("b"), new.label("c")), (Some("1"), Some("2"), None));
        for (revision, known) in [(5, &old), (6, &new)] {
            let again = cache.of(&def, &entry("x", revision, "unread"), none).expect("readable");
            assert!(Arc::ptr_eq(&again, known), "{revision}");
        }
        def.fields = names(&["spec.place", "spec.time"]);
        let more = cache.of(&def, &entry("x", 6, "there"), none).expect("readable");
        assert!(!Arc::ptr_eq(&more, &new), "a field was added");
    }

    #[test]
    fn keys_that_are_gone_are_swept_out() {
        let (cache, def) = (Cache::default(), row());
        for n in 0..SHARDS * SWEEP_FROM * 4 {
            cache.of(&def, &entry(&n.to_string(), 5, ""), Snapshot::default);
        }
        let kept: usize = cache.shards.iter().map(|shard| shard.lock().known.len()).sum();
        assert!(kept < SHARDS * SWEEP_FROM, "{kept}");
    }
}
