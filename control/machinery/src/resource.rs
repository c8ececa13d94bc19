//! What a kind is ([`ResourceDef`]) and what it does on its way into the store ([`Strategy`]).
//!
//! Order of a create: decode, [`crate::schema`] check and normalisation, [`Strategy::default`], mutating admission,
//! system metadata filled in, [`Strategy::prepare_create`], [`validate_create`], [`Strategy::allocate`], validating
//! admission, write. Of an update: the same with [`Strategy::prepare_update`] and [`validate_update`]; it is written
//! unless nothing changed.
//!
//! Metadata is checked here, once for all kinds: a strategy's `validate` looks only at the rest.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{
    FieldError, Handler, Subresource, Table, Verbs,
    access::User,
    allocation::Pool,
    apply::{Counted, Element, Set},
    conversion::Conversion,
    measured::Origin,
    meta, schema,
    schema::Schema,
    table::Cell,
};

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
    /// Kind of a list of its objects.
    pub list_kind: Name,
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
    /// Whether objects are brought into form when they are read: the type may have changed since they were stored.
    pub settles_on_read: bool,
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
    /// For a kind whose objects are not stored but measured: where they come from.
    pub measured: Option<Origin>,
    /// Its behaviour.
    pub strategy: Arc<dyn Strategy>,
}

/// Fixed names of a row.
#[must_use]
pub fn names(names: &[&'static str]) -> Vec<Name> {
    names.iter().map(|name| Cow::Borrowed(*name)).collect()
}

/// All but what lies at these paths (`metadata.labels`) and below.
#[must_use]
pub fn without(paths: &[&str]) -> Counted {
    Counted::Without(Set::of(paths.iter().map(|path| path.split('.').map(Element::field).collect())))
}

/// What a write of the status counts for where metadata cannot be written with it.
#[must_use]
pub fn status_alone(sub: Option<&str>) -> Option<Counted> {
    (sub == Some("status")).then(|| without(&["metadata", "spec"]))
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
            list_kind: format!("{kind}List").into(),
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            short: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            schema: schema::known(schema),
            storage: Storage { group: group.into(), plural: plural.into(), api_version, kind: kind.into() },
            settles_on_read: false,
            fields: Vec::new(),
            time_to_live: None,
            deprecation: None,
            protected: None,
            delete_returns_object: false,
            creation: Creation::Stored,
            measured: None,
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

    /// Whether the kind came at run time.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.schema.structural().is_some()
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether `text` is the `apiVersion` of its objects.
    #[must_use]
    pub fn api_version_is(&self, text: &str) -> bool {
        match text.split_once('/') {
            Some((group, version)) => !group.is_empty() && group == self.group && version == self.version,
            None => self.group.is_empty() && text == self.version,
        }
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

    /// What a write of the object (`None`) or through a part of it counts for, if it is asked who owns what.
    #[must_use]
    pub fn counted(&self, sub: Option<&str>) -> Counted {
        if let Some(counted) = self.strategy.counted(sub) {
            return counted;
        }
        match sub {
            Some("status") => without(&["spec"]),
            _ if self.subresource("status").is_some() => without(&["status"]),
            _ => Counted::All,
        }
    }

    /// Whether it shows objects that may be stored in another form.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.settles_on_read || self.is_converted()
    }

    /// Whether its objects are stored as another version or kind than its own.
    #[must_use]
    pub fn is_converted(&self) -> bool {
        self.stored_as() != self.group_resource() || self.storage.api_version != self.api_version()
    }

    /// An object of this row as another row that shows the same objects has it, if nobody outside has to be asked: see
    /// [`crate::conversion::shown_as`].
    #[must_use]
    pub fn shown_as(&self, other: &ResourceDef, mut object: Value) -> Value {
        if self.is_view() {
            self.strategy.to_storage(&mut object);
            object["apiVersion"] = self.storage.api_version.as_ref().into();
            object["kind"] = self.storage.kind.as_ref().into();
        }
        if other.is_view() {
            other.strategy.from_storage(&mut object);
            object["apiVersion"] = other.api_version().into();
            object["kind"] = other.kind.as_ref().into();
        }
        object
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

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The user of the request.
    pub user: &'a User,
    /// The time of the request, RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// The behaviour of one kind. Every method has a default that suits a kind without rules of its own.
///
/// `sub` names the subresource of an update (`status`, `finalize`, …); `None` is the object itself.
pub trait Strategy: Send + Sync {
    /// Upstream's versioned defaulting. Idempotent; also run on what an update sends.
    fn default(&self, _obj: &mut Value) {}

    /// Paths of lists that defaults or validation tell from none when they were sent empty: fields joined by dots, `*` for
    /// each item of a list or map. Validation and [`Self::stamp`] see them so; nobody else does.
    fn tells_empty(&self) -> &'static [&'static str] {
        &[]
    }

    /// Fields a client may not set when creating: drops status, sets generation 1 where upstream does.
    fn prepare_create(&self, _obj: &mut Value) {}

    /// Copies from `old` what this update may not change (status on a spec update, everything
    /// but status on a status update) and raises the generation when the spec changed.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _sub: Option<&str>) {}

    /// Writes into a prepared object who writes it and when, for kinds that keep that. `old` is `None` on create.
    fn stamp(&self, _obj: &mut Value, _old: Option<&Value>, _sub: Option<&str>, _by: Author<'_>) {}

    /// What a write counts for, if it is asked who owns what, where that is not what is usual: `spec` but not `status` for
    /// the object, `status` but not `spec` for its status.
    fn counted(&self, _sub: Option<&str>) -> Option<Counted> {
        None
    }

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

    /// Whether finalizers may be without a domain, as those of operators often are.
    fn any_finalizers(&self) -> bool {
        false
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

    /// Warnings for an object whose status is written.
    fn status_warnings(&self, _obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// What is found out about a stored object by the types that are served, once for each generation of it: a part of its
    /// status. It may take long; whoever asks writes it down. `None`: nothing is.
    fn observed(&self, _obj: &Value, _table: &Table) -> Option<Value> {
        None
    }

    /// Whether a PUT to a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without resourceVersion is allowed.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The largest body of a request, in bytes, where the kind has no use for a large one.
    fn body_limit(&self) -> Option<usize> {
        None
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

    /// The warning for a delete that names no policy and so orphans the dependents.
    fn orphan_warning(&self) -> Option<&'static str> {
        None
    }

    /// Column definitions of its Table, for a kind that [`crate::table::columns`] does not know.
    fn columns(&self) -> Option<Value> {
        None
    }

    /// The cells of its Table row, in the order of its columns.
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

    /// For a kind that an object in the store defines: that object's name, and the object as it was when the row was made.
    fn defined_by(&self) -> Option<(&str, &Bytes)> {
        None
    }

    /// Who outside converts objects between the versions of the kind; `None`: they are the same in all, but for what
    /// [`Self::to_storage`] and [`Self::from_storage`] do.
    fn conversion(&self) -> Option<&Conversion> {
        None
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
    let rule = |name: &str, prefix: bool| def.strategy.name_errors(name, prefix);
    let validate = if def.strategy.any_finalizers() { meta::validate_generic_meta } else { meta::validate_object_meta };
    let mut errors = validate(obj, def.namespaced(), &rule);
    errors.extend(def.strategy.validate(obj));
    errors
}

/// Checks an update. Upstream judges the metadata twice (generic code, then the kind's), and both
/// findings are in its answer; so are they here.
#[must_use]
pub fn validate_update(def: &ResourceDef, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
    let mut errors = meta::validate_object_meta_update(new, old);
    errors.extend(errors.clone());
    if !def.strategy.any_finalizers() {
        errors.extend(meta::validate_kind_meta_update(new));
    }
    errors.extend(def.strategy.validate_update(new, old, sub));
    errors
}
