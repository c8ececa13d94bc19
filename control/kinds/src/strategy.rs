//! What a kind is ([`ResourceDef`]) and what it does on its way into the store ([`Strategy`]).
//!
//! Order of a create, as in upstream's `rest.BeforeCreate`: decode, [`crate::schema`] check and
//! normalisation, [`Strategy::default`], system metadata filled in, [`Strategy::prepare_create`],
//! admission, [`validate_create`], write. An update: decode, normalise, default,
//! [`Strategy::prepare_update`], admission, [`validate_update`], write unless nothing changed.
//!
//! Metadata is checked here, once for all kinds: a strategy's `validate` looks only at the rest.

use jiff::Timestamp;
use kontiki_model::GroupResource;
use serde_json::Value;

use crate::{FieldError, meta};

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In none.
    Cluster,
}

/// A subresource, as discovery shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subresource {
    /// Name, e.g. `status`.
    pub name: &'static str,
    /// Group of its kind where that differs from the parent's (`autoscaling` for Scale, `policy` for Eviction); else the parent's.
    pub group: &'static str,
    /// Version of its kind.
    pub version: &'static str,
    /// Its kind, e.g. `Pod`, `Scale`.
    pub kind: &'static str,
    /// Its verbs, sorted.
    pub verbs: &'static [&'static str],
}

/// One kind as served in one group and version.
pub struct ResourceDef {
    /// API group; empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Plural name, as in paths.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs, sorted. A virtual kind (reviews, bindings) has only `create`.
    pub verbs: &'static [&'static str],
    /// Short names.
    pub short: &'static [&'static str],
    /// Categories (`all`).
    pub categories: &'static [&'static str],
    /// Subresources, sorted by name.
    pub subresources: &'static [Subresource],
    /// Name of its type in the schema registry, e.g. `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
    /// Where its objects are stored; equal to its own group and plural except for second views
    /// of one store (`events.k8s.io/events` are the core events).
    pub storage: GroupResource<'static>,
    /// `(apiVersion, kind)` of the stored form.
    pub storage_kind: (&'static str, &'static str),
    /// Its behaviour.
    pub strategy: &'static dyn Strategy,
}

impl ResourceDef {
    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Group and plural, as errors name it.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource<'static> {
        GroupResource { group: self.group, resource: self.plural }
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource called `name`.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// The behaviour of one kind. Every method has a default that suits a kind without rules of its own.
///
/// `sub` names the subresource of an update (`status`, `finalize`, …); `None` is the object itself.
pub trait Strategy: Sync {
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
    fn row(&self, _obj: &Value, _now: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    /// Value of a supported field selector path besides `metadata.name` and `metadata.namespace`.
    /// `Some("")` for a supported field that is not set; `None` if selecting by it is not supported.
    fn field(&self, _obj: &Value, _path: &str) -> Option<String> {
        None
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
    if def.verbs == ["create"] {
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
