//! The types of all kinds: what a typed decoder of upstream's would accept, drop and print.
//!
//! Built-in types are data (`registry`): fields with their types, how lists merge, which fields are always
//! printed and which are dropped when zero. Types of kinds that came at run time are structural schemas (`structural`).
//!
//! Invariants
//! - [`Schema::check`] reads only; [`Schema::normalize`] is idempotent and never fails.
//! - After `check` found no type error, `normalize` leaves exactly what upstream would answer.

mod conform;
pub mod duration;
pub(crate) mod registry;
pub mod shape;
pub mod structural;
pub mod time;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

pub use conform::{Problems, TypeError};
pub use kontiki_model::amount as quantity;
pub use kontiki_regexp::check as check_pattern;
pub use registry::{get, known, of_kind};
use serde::Deserialize;
use serde_json::Value;
use shape::Shape;
use structural::Structural;

/// The type of objects, or a struct within one. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Arc<Body>);

enum Body {
    /// A type of upstream's.
    Built(Built),
    /// The type of a kind that came at run time, the name under which documents have it, and a number that changes with it.
    Custom(Box<str>, Structural, u64),
}

struct Built {
    name: &'static str,
    /// What the fields are read from when they are first asked for: types may refer to each other in circles.
    line: &'static str,
    fields: OnceLock<BTreeMap<String, Field>>,
    shape: OnceLock<Shape>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a value may be.
#[derive(Clone, Debug)]
pub enum Type {
    /// Anything, kept as it is.
    Any,
    /// A boolean.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// Any number.
    Float,
    /// A string.
    String,
    /// Bytes in base64.
    Bytes,
    /// A time, whole seconds.
    Time,
    /// A time, microseconds.
    MicroTime,
    /// A quantity.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// A list.
    List(Box<Type>),
    /// A map with free keys.
    Map(Box<Type>),
    /// A struct.
    Struct(Schema),
}

/// When a field is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// When it is set (a pointer), or not empty (a list or map).
    #[default]
    Set,
    /// When it is not zero.
    #[serde(rename = "zero")]
    NotZero,
    /// Always, with the zero value of its type.
    Always,
    /// Always, as null when it is not set (a pointer that is not left out).
    Null,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Merge {
    /// Lists are merged (by `key`, or as sets of scalars) instead of replaced.
    pub merge: bool,
    /// Fields that the patch does not name are dropped (unions).
    pub retain_keys: bool,
    /// The key by which items are the same.
    pub key: Option<String>,
}

/// How the parts of a field are told apart, where its type does not say so: who applies a part owns it alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Topology {
    /// A map or struct by its keys; a list not at all.
    #[default]
    Plain,
    /// As one value.
    Atomic,
    /// A list by its items, which are scalars.
    Set,
    /// A list by what its items have at these keys.
    Keyed(Vec<String>),
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its type.
    pub ty: Type,
    /// When it is printed.
    pub presence: Presence,
    /// How it merges.
    pub merge: Merge,
    /// How its parts are told apart.
    pub topology: Topology,
    /// Whether it has to be there.
    pub required: bool,
    /// What a text that is a key of its list is when it is not there.
    pub default: Option<String>,
}

impl Schema {
    /// A built-in type.
    pub(crate) fn built(name: &'static str, line: &'static str) -> Self {
        Self(Arc::new(Body::Built(Built { name, line, fields: OnceLock::new(), shape: OnceLock::new() })))
    }

    /// The type of a kind that came at run time. `name`: how documents call it; `digest`: another number for another type.
    #[must_use]
    pub fn custom(name: &str, schema: Structural, digest: u64) -> Self {
        Self(Arc::new(Body::Custom(name.into(), schema, digest)))
    }

    /// A number that is another one for another type of a kind that came at run time.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        match &*self.0 {
            Body::Built(_) => None,
            Body::Custom(_, _, digest) => Some(*digest),
        }
    }

    /// The structural schema of a kind that came at run time.
    #[must_use]
    pub fn structural(&self) -> Option<&Structural> {
        match &*self.0 {
            Body::Built(_) => None,
            Body::Custom(_, schema, _) => Some(schema),
        }
    }

    /// Full name, e.g. `io.k8s.api.core.v1.Pod`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &*self.0 {
            Body::Built(built) => built.name,
            Body::Custom(name, ..) => name,
        }
    }

    /// The last part of the name: upstream's Go type.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name().rsplit('.').next().unwrap_or(self.name())
    }

    /// The field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().get(name)
    }

    /// All fields of a built-in type, sorted by name; of another one, those that every object has.
    #[must_use]
    pub fn fields(&self) -> &BTreeMap<String, Field> {
        match &*self.0 {
            Body::Built(built) => built.fields.get_or_init(|| registry::fields(built.line)),
            Body::Custom(..) => registry::of_objects(),
        }
    }

    /// How values of this type are divided among those who own parts of them.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        match &*self.0 {
            Body::Built(built) => built.shape.get_or_init(|| shape::of_schema(self)),
            Body::Custom(_, schema, _) => schema.shape(),
        }
    }

    /// Whether it is one value to those who own parts of what it is in.
    pub(crate) fn is_atomic(&self) -> bool {
        matches!(&*self.0, Body::Built(built) if registry::is_atomic(built.line))
    }

    /// The line of a built-in type.
    pub(crate) fn line(&self) -> Option<&'static str> {
        match &*self.0 {
            Body::Built(built) => Some(built.line),
            Body::Custom(..) => None,
        }
    }

    /// What a typed decoder would say of `value`: unknown fields and wrong types.
    #[must_use]
    pub fn check(&self, value: &Value) -> Problems {
        match &*self.0 {
            Body::Built(_) => conform::check(value, self),
            Body::Custom(_, schema, _) => schema.check(value),
        }
    }

    /// `unknown field "spec.foo"` for each field that the type does not have.
    #[must_use]
    pub fn unknown_fields(&self, value: &Value) -> Vec<String> {
        self.check(value).unknown_fields()
    }

    /// Brings `value` into the form in which upstream would print it: unknown fields, nulls and
    /// empty optional fields go, fields that are always printed come, quantities and times get
    /// their canonical form. What has the wrong type is left alone.
    pub fn normalize(&self, value: &mut Value) {
        match &*self.0 {
            Body::Built(_) => conform::normalize_struct(value, self),
            Body::Custom(_, schema, _) => schema.normalize(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(name: &str) -> &'static Schema {
        get(name).unwrap_or_else(|| panic!("{name} is not in the registry"))
    }

    #[test]
    fn every_type_normalizes_nothing_to_a_fixed_point() {
        for name in registry::names() {
            let Some(schema) = get(name) else { continue };
            let mut once = json!({});
            schema.normalize(&mut once);
            let problems = schema.check(&once);
            assert!(problems.unknown.is_empty() && problems.error.is_none(), "{name}: {once} {:?}", problems.error);
            let mut twice = once.clone();
            schema.normalize(&mut twice);
            assert_eq!(once, twice, "{name}");
        }
    }

    #[test]
    fn answers_have_upstreams_form() {
        for (what, name, before, after) in [
            (
                "a container prints its resources and drops what is empty",
                "io.k8s.api.core.v1.Container",
                json!({"name": "a", "image": "", "args": [], "stdin": false, "env": null, "foo": 1, "resources": {"limits": {"cpu": "0.1", "memory": 1024}}}),
                json!({"name": "a", "resources": {"limits": {"cpu": "100m", "memory": "1024"}}}),
            ),
            (
                "pointers keep zero",
                "io.k8s.api.apps.v1.Deployment",
                json!({"spec": {"replicas": 0, "paused": false, "minReadySeconds": 0, "selector": {}, "template": {"metadata": {"creationTimestamp": null}, "spec": {"hostNetwork": false, "automountServiceAccountToken": false, "containers": []}}}}),
                json!({"metadata": {}, "status": {}, "spec": {"replicas": 0, "selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"automountServiceAccountToken": false, "containers": null}}}}),
            ),
            (
                "maps keep empty values, lists keep empty items",
                "io.k8s.api.core.v1.ConfigMap",
                json!({"data": {"a": "", "b": null}, "metadata": {"labels": {}, "annotations": {"a": ""}, "finalizers": [""]}}),
                json!({"data": {"a": "", "b": ""}, "metadata": {"annotations": {"a": ""}, "finalizers": [""]}}),
            ),
            (
                "times",
                "io.k8s.api.coordination.v1.Lease",
                json!({"metadata": {"creationTimestamp": "2001-02-03T04:05:06.789+01:00"}, "spec": {"renewTime": "2001-02-03T04:05:06.000007Z"}}),
                json!({"metadata": {"creationTimestamp": "2001-02-03T03:05:06Z"}, "spec": {"renewTime": "2001-02-03T04:05:06.000007Z"}}),
            ),
            (
                "a service port always has a target",
                "io.k8s.api.core.v1.ServicePort",
                json!({"port": 80}),
                json!({"port": 80, "targetPort": 0}),
            ),
            (
                "free-form parts are kept",
                "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry",
                json!({"fieldsV1": {"f:a": {"x": null}}}),
                json!({"fieldsV1": {"f:a": {"x": null}}}),
            ),
        ] {
            let mut value = before;
            schema(name).normalize(&mut value);
            assert_eq!(value, after, "{what}");
        }
    }

    #[test]
    fn wrong_types_are_named() {
        let pod = schema("io.k8s.api.core.v1.Pod");
        for (value, expect) in [
            (
                json!({"spec": {"containers": [{"name": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                json!({"metadata": {"labels": []}}),
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
            ),
            (
                json!({"metadata": {"generation": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field ObjectMeta.metadata.generation of type int64",
            ),
            (
                json!({"spec": {"priority": 4_294_967_296u64}}),
                "json: cannot unmarshal number 4294967296 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (json!({"spec": "x"}), "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
            (
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            assert_eq!(pod.check(&value).error.map(|e| e.to_string()).as_deref(), Some(expect), "{value}");
        }
        assert!(pod.check(&json!({"spec": null, "metadata": {"labels": {"a": null}}})).error.is_none());
        assert_eq!(
            pod.unknown_fields(
                &json!({"foo": 1, "spec": {"containers": [{"prots": []}], "nodeSelector": {"free": "x"}}})
            ),
            [r#"unknown field "foo""#, r#"unknown field "spec.containers[0].prots""#]
        );
    }
}
