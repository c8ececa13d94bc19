//! What selectors look at in one version of an object.

use kontiki_machinery::{Name, ResourceDef};
use kontiki_store::Entry;
use serde_json::Value;

/// Labels, and the fields that the row lets selectors name.
#[derive(Debug)]
pub struct Facts {
    /// Sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Name, Box<str>)]>,
}

impl Facts {
    /// The facts of a stored object as `def` shows it; `None` if it cannot be read.
    #[must_use]
    pub fn of_entry(def: &ResourceDef, entry: &Entry) -> Option<Self> {
        Some(Self::of(def, &served(def, &entry.value).ok()?))
    }

    fn of(def: &ResourceDef, object: &Value) -> Self {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        // The map is sorted by key already.
        let labels = labels.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect();
        let field = |path: &Name| (path.clone(), def.strategy.field(object, path).into_boxed_str());
        Self { labels, fields: def.fields.iter().map(field).collect() }
    }

    /// Whether it has all that selectors may ask of `def`, which may have come to serve more fields.
    pub(crate) fn covers(&self, def: &ResourceDef) -> bool {
        def.fields.iter().all(|path| self.fields.iter().any(|(known, _)| known == path))
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The value of a field that the row lets selectors name; empty for others.
    #[must_use]
    pub fn field(&self, path: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == path).map_or("", |(_, value)| value)
    }
}

/// A stored object in the form in which `def` shows it, without its version.
///
/// # Errors
/// It is not JSON.
pub fn served(def: &ResourceDef, stored: &[u8]) -> Result<Value, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(stored)?;
    if def.is_view() {
        def.strategy.from_storage(&mut value);
        value["apiVersion"] = def.api_version().into();
        value["kind"] = def.kind.as_ref().into();
    }
    Ok(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use kontiki_machinery::Strategy;
    use kontiki_machinery::resource::names;
    use serde_json::json;

    use super::*;
    use crate::object::tests::entry;
    use crate::object::{Held, Object};

    struct Plain;

    impl Strategy for Plain {}

    /// A kind whose objects can be selected by `spec.place`.
    pub(crate) fn row() -> ResourceDef {
        let names_of = ("things", "thing", "Thing");
        let row = ResourceDef::new(("", "v1"), names_of, "io.k8s.api.core.v1.ConfigMap", Plain);
        ResourceDef { fields: names(&["spec.place"]), ..row }
    }

    #[test]
    fn facts_are_of_a_version_and_of_what_selectors_may_ask() {
        let mut def = row();
        let stored = json!({"metadata": {"labels": {"b": "2", "a": "1"}}, "spec": {"place": "here"}});
        let object = Object::new(entry("/registry/core/things/x", 5, &stored), &Held::default());
        let facts = object.facts(&def).expect("readable");
        assert_eq!((facts.label("a"), facts.label("b"), facts.label("c")), (Some("1"), Some("2"), None));
        assert_eq!((facts.field("spec.place"), facts.field("spec.time")), ("here", ""));
        assert!(Arc::ptr_eq(&facts, &object.facts(&def).expect("readable")));
        def.fields = names(&["spec.place", "spec.time"]);
        assert!(!Arc::ptr_eq(&facts, &object.facts(&def).expect("readable")), "a field was added");
    }
}
