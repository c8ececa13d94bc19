//! What a kind is ([`ResourceDef`]) and what it does on its way into the store ([`Strategy`]).
//!
//! Order of a create: decode, [`crate::schema`] check and normalisation, [`Strategy::default`], mutating admission,
//! system metadata filled in, [`Strategy::prepare_create`], [`validate_create`], [`Strategy::allocate`], validating
//! admission, write. Of an update: the same with [`Strategy::prepare_update`] and [`validate_update`]; it is written
//! unless nothing changed.
//!
//! Metadata is checked here, once for all kinds: a strategy's `validate` looks only at the rest.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{FieldError, Handler, Subresource, Verbs, allocation::Pool, meta, schema, schema::Schema, table::Cell};

/// A name of a row: fixed for a built-in kind, of its own for one that came at run time.
pub type Name = Cow<'static, str>;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// Where and as what objects are stored: equal to their own row's names except for second views of one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storage {
    /// API group.
    pub group: Name,
    /// Plural name.
    pub plural: Name,
    /// `apiVersion` of the stored form.
    pub api_version: Name,
    /// Kind of the stored form.
    pub kind: Name,
}

/// What becomes of an object that is POSTed to the collection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Creation {
    /// It is stored.
    Stored,
    /// It is a question, which is answered.
    Review(Review),
    /// It goes to the subresource of the object of the same name: `(plural, subresource)`, in the same group version.
    OnObject(Name, Name),
}

/// Questions that the judges of requests answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Review {
    /// Whose token is this?
    Token,
    /// Who am I?
    SelfSubject,
    /// May I do this?
    SelfAccess,
    /// May somebody do this?
    Access,
    /// What may I do?
    SelfRules,
}

/// Objects that nobody may delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Protected {
    /// Their names.
    pub names: Vec<Name>,
    /// What is answered to whoever tries.
    pub why: Name,
}

/// One kind as served in one group and version.
pub struct ResourceDef {
    /// API group; empty for core.
    pub group: Name,
    /// API version.
    pub version: Name,
    /// Plural name, as in paths.
    pub plural: Name,
    /// Singular name.
    pub singular: Name,
    /// Kind.
    pub kind: Name,
    /// Namespaced or not.
    pub scope: Scope,
    /// Its verbs. A virtual kind has only `create`.
    pub verbs: Verbs,
    /// Short names.
    pub short: Vec<Name>,
    /// Categories (`all`).
    pub categories: Vec<Name>,
    /// Subresources, sorted by name.
    pub subresources: Vec<Arc<Subresource>>,
    /// Its type.
    pub schema: Schema,
    /// Where and as what its objects are stored.
    pub storage: Storage,
    /// Paths of fields that selectors may name besides name and namespace, sorted.
    pub fields: Vec<Name>,
    /// How long an object lives after it was written last.
    pub time_to_live: Option<Duration>,
    /// The warning that every request for it gets.
    pub deprecation: Option<Name>,
    /// Objects that nobody may delete.
    pub protected: Option<Protected>,
    /// Whether a delete answers with the object even when it is gone at once.
    pub delete_returns_object: bool,
    /// What becomes of an object that is POSTed to the collection.
    pub creation: Creation,
    /// Its behaviour.
    pub strategy: Arc<dyn Strategy>,
}

/// Fixed names of a row.
#[must_use]
pub fn names(names: &[&'static str]) -> Vec<Name> {
    names.iter().map(|name| Cow::Borrowed(*name)).collect()
}

impl ResourceDef {
    /// A namespaced kind with all verbs and nothing special, of the built-in type called `schema`.
    ///
    /// # Panics
    /// There is no such type: a fault of the table, which a test of it would find.
    #[must_use]
    pub fn new(
        (group, version): (&'static str, &'static str),
        (plural, singular, kind): (&'static str, &'static str, &'static str),
        schema: &str,
        strategy: impl Strategy + 'static,
    ) -> Self {
        let api_version =
            if group.is_empty() { Cow::Borrowed(version) } else { Cow::Owned(format!("{group}/{version}")) };
        Self {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            singular: singular.into(),
            kind: kind.into(),
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            short: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            schema: schema::known(schema),
            storage: Storage { group: group.into(), plural: plural.into(), api_version, kind: kind.into() },
            fields: Vec::new(),
            time_to_live: None,
            deprecation: None,
            protected: None,
            delete_returns_object: false,
            creation: Creation::Stored,
            strategy: Arc::new(strategy),
        }
    }

    /// The same with one more subresource.
    #[must_use]
    pub fn with(mut self, sub: Subresource) -> Self {
        self.subresources.push(Arc::new(sub));
        self.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// The same with one more part that can be written on its own.
    #[must_use]
    pub fn with_part(self, name: &'static str, verbs: Verbs) -> Self {
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.with(Subresource { name: name.into(), group, version, kind, verbs, handler: Handler::Part })
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Group and plural, as errors name it.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.plural }
    }

    /// What its objects are filed under.
    #[must_use]
    pub fn stored_as(&self) -> GroupResource<'_> {
        GroupResource { group: &self.storage.group, resource: &self.storage.plural }
    }

    /// Whether it shows objects that are stored in another form.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.stored_as() != self.group_resource()
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource called `name`.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Arc<Subresource>> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// The behaviour of one kind. Every method has a default that suits a kind without rules of its own.
///
/// `sub` names the subresource of an update (`status`, `finalize`, …); `None` is the object itself.
pub trait Strategy: Send + Sync {
    /// Upstream's versioned defaulting. Idempotent; also run on what an update sends.
    fn default(&self, _obj: &mut Value) {}

    /// Fields a client may not set when creating: drops status, sets generation 1 where upstream does.
    fn prepare_create(&self, _obj: &mut Value) {}

    /// Copies from `old` what this update may not change (status on a spec update, everything
    /// but status on a status update) and raises the generation when the spec changed.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _sub: Option<&str>) {}

    /// Checks a new object, metadata excepted. Upstream's wording, order and paths.
    fn validate(&self, _obj: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Checks an update, metadata excepted. Where upstream's own update validation checks the
    /// new object in full once more, the strategy calls [`meta::validate_object_meta`] and
    /// `validate` itself, at the place where upstream does, so that repeated causes agree.
    fn validate_update(&self, _new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Why a name (`prefix`: a `generateName`) is not legal for this kind; empty if it is.
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_dns_subdomain(name, prefix)
    }

    /// Whether `prepare_create`/`prepare_update` manage `metadata.generation`. For other kinds
    /// the generation a client sends on create is kept, as upstream does.
    fn managed_generation(&self) -> bool {
        false
    }

    /// Warnings for a created or updated object (`old` is `None` on create).
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether a PUT to a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without resourceVersion is allowed.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds between the delete and the end of the object. `None`: deleted at once.
    /// `requested` is the client's `gracePeriodSeconds`. Pods answer here.
    fn grace_period(&self, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What garbage collection does by default when the client asks for no policy: `true` orphans
    /// the dependents (upstream: only old API versions do), `false` deletes in the background.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// The cells of its Table row, in the order of [`crate::table::columns`].
    fn row(&self, _obj: &Value) -> Vec<Cell> {
        Vec::new()
    }

    /// Value of a field that selectors may name: by default what lies at the path, empty where nothing does.
    fn field(&self, obj: &Value, path: &str) -> String {
        match path.split('.').fold(obj, |value, key| value.get(key).unwrap_or(&Value::Null)) {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// For a kind that ends in phases of its own: brings an object that is deleted on its way, and says whether
    /// nothing holds it any more. `None`: it ends as grace and finalizers say.
    fn terminate(&self, _obj: &mut Value, _now: &str) -> Option<bool> {
        None
    }

    /// Whether an object on its way out, whose last finalizer an update takes away, is gone with that.
    fn ends_with_update(&self, _new: &Value, old: &Value) -> bool {
        old["metadata"]["deletionGracePeriodSeconds"].as_i64() == Some(0)
    }

    /// What there is only one of and this object has. It is given back when the object goes.
    fn claims(&self, _obj: &Value) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Gives a valid object what there is only one of.
    ///
    /// # Errors
    /// What it cannot have.
    fn allocate(&self, _obj: &mut Value, _pool: &mut Pool<'_>) -> Result<(), Vec<FieldError>> {
        Ok(())
    }

    /// Turns the served form into the stored form.
    fn to_storage(&self, _obj: &mut Value) {}

    /// Turns the stored form into the served form.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the opposite of `to_storage`; the object converts, not the strategy"
    )]
    fn from_storage(&self, _obj: &mut Value) {}
}

/// Checks a new object: metadata, then the kind's own rules. Kinds that are asked rather than stored
/// (reviews, bindings) need no name of their own.
#[must_use]
pub fn validate_create(def: &ResourceDef, obj: &Value) -> Vec<FieldError> {
    if def.verbs == Verbs::CREATE {
        return def.strategy.validate(obj);
    }
    let mut errors =
        meta::validate_object_meta(obj, def.namespaced(), &|name, prefix| def.strategy.name_errors(name, prefix));
    errors.extend(def.strategy.validate(obj));
    errors
}

/// Checks an update. Upstream judges the metadata twice (generic code, then the kind's), and both
/// findings are in its answer; so are they here.
#[must_use]
pub fn validate_update(def: &ResourceDef, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
    let mut errors = meta::validate_object_meta_update(new, old);
    errors.extend(meta::validate_kind_meta_update(new, old));
    errors.extend(def.strategy.validate_update(new, old, sub));
    errors
}
