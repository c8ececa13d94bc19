//! What a list or watch is narrowed to.

use kontiki_machinery::ResourceDef;
use kontiki_model::ObjectKey;
use kontiki_model::selector::{Operator, Requirement, Selector};
use kontiki_store::Entry;
use serde_json::Value;

use crate::facts::Facts;
use crate::index::Path;
use crate::object::Object;

/// Fields that the key of an object tells.
const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// `path=value` or `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field.
    pub path: String,
    /// What it is compared with.
    pub value: String,
    /// Whether it must be that, or must not.
    pub equal: bool,
}

/// A label selector and a field selector. Empty, it lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    labels: Selector,
    /// Terms that the key tells.
    names: Vec<Term>,
    /// Terms about the fields of the kind.
    fields: Vec<Term>,
}

impl Filter {
    /// Of both selectors.
    #[must_use]
    pub fn new(labels: Selector, fields: Vec<Term>) -> Self {
        let (names, fields) = fields.into_iter().partition(|term| [NAME, NAMESPACE].contains(&term.path.as_str()));
        Self { labels, names, fields }
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.names.is_empty() && self.fields.is_empty()
    }

    /// The one name that can pass, if it says so.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.exact(NAME)
    }

    /// The one namespace that can pass, if it says so.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.exact(NAMESPACE)
    }

    fn exact(&self, path: &str) -> Option<&str> {
        self.names.iter().find(|term| term.equal && term.path == path).map(|term| term.value.as_str())
    }

    /// What is demanded of labels.
    #[must_use]
    pub fn labels(&self) -> &[Requirement] {
        &self.labels.requirements
    }

    /// Fields with the values that they must have.
    #[must_use]
    pub fn exact_fields(&self) -> Vec<(&str, &str)> {
        let exact = self.names.iter().chain(&self.fields).filter(|term| term.equal);
        exact.map(|term| (term.path.as_str(), term.value.as_str())).collect()
    }

    /// What an object must have to pass, beside its name: values of fields, then labels. Any of them can be looked up
    /// in an index.
    pub(crate) fn needs(&self, def: &ResourceDef) -> Vec<(Path, &str)> {
        let fields = self.fields.iter().filter(|term| term.equal);
        let fields = fields.map(|term| (Path::field(def, &term.path), term.value.as_str()));
        let labels = self.labels.requirements.iter().filter_map(|requirement| match &requirement.operator {
            Operator::In(values) if values.len() == 1 => Some((Path::label(&requirement.key), values[0].as_str())),
            _ => None,
        });
        fields.chain(labels).collect()
    }

    /// Whether an object passes. What cannot be read passes no filter.
    #[must_use]
    pub fn passes(&self, def: &ResourceDef, object: &Object) -> bool {
        self.passes_names(&object.entry().key)
            && (self.is_told_by_key() || object.facts(def).is_some_and(|facts| self.passes_facts(&facts)))
    }

    /// As [`passes`](Self::passes), of a version that no cache has.
    #[must_use]
    pub fn passes_entry(&self, def: &ResourceDef, entry: &Entry) -> bool {
        self.passes_names(&entry.key)
            && (self.is_told_by_key() || Facts::of_entry(def, entry).is_some_and(|facts| self.passes_facts(&facts)))
    }

    /// As [`passes`](Self::passes), of an object that lies nowhere.
    #[must_use]
    pub fn passes_value(&self, def: &ResourceDef, object: &Value) -> bool {
        let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        self.names.iter().all(|term| term.fits(metadata(if term.path == NAME { "name" } else { "namespace" })))
            && self.labels.matches_with(|key| object["metadata"]["labels"][key].as_str())
            && self.fields.iter().all(|term| term.fits(&def.strategy.field(object, &term.path)))
    }

    /// Whether the key of an object tells that it passes.
    #[must_use]
    pub fn is_told_by_key(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// What of it the key of an object tells.
    #[must_use]
    pub fn by_key(&self) -> Self {
        Self { names: self.names.clone(), ..Self::default() }
    }

    fn passes_names(&self, key: &[u8]) -> bool {
        self.names.is_empty()
            || ObjectKey::decode(key).is_some_and(|key| self.names.iter().all(|term| term.fits_key(&key)))
    }

    fn passes_facts(&self, facts: &Facts) -> bool {
        self.labels.matches_with(|key| facts.label(key))
            && self.fields.iter().all(|term| term.fits(facts.field(&term.path)))
    }
}

impl Term {
    fn fits(&self, found: &str) -> bool {
        (found == self.value) == self.equal
    }

    fn fits_key(&self, key: &ObjectKey) -> bool {
        let found = if self.path == NAME { key.name.as_str() } else { key.namespace.as_deref().unwrap_or_default() };
        self.fits(found)
    }
}
