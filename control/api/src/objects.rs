//! A snapshot's objects, for those who judge by them.

use kontiki_cache::Snapshot;
use kontiki_machinery::GroupResource;
use kontiki_machinery::access::Objects;
use kontiki_model::{ObjectKey, key};
use serde_json::Value;

/// A snapshot.
pub(crate) struct Seen(pub Snapshot);

impl Objects for Seen {
    fn get(&self, resource: GroupResource<'_>, namespace: Option<&str>, name: &str) -> Option<Value> {
        let entry = self.0.get(&ObjectKey::new(resource, namespace, name).encode())?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn list<'a>(&'a self, resource: GroupResource<'_>, namespace: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
        let prefix = key::prefix(resource, Some(namespace));
        Box::new(self.0.range(prefix.as_bytes()).filter_map(|entry| serde_json::from_slice(&entry.value).ok()))
    }
}
