//! The one place where k8s-openapi's schemas become [`Schema`]s.
//!
//! A new kind is served by adding its type to `roots!`; what it refers to comes along.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use k8s_openapi::{api, apimachinery::pkg::apis::meta};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::{Body, Field, Merge, Presence, Schema, Type};

/// How lists and maps merge, per type and field.
pub(super) const MERGE_KEYS: &str = include_str!("../../data/merge-keys.json");
/// Which fields are always printed (`always`; `null`: as null if need be) and which only when not zero (`zero`).
pub(super) const PRESENCE: &str = include_str!("../../data/presence.json");

const REF: &str = "#/definitions/";

struct Registry {
    definitions: Map<String, Value>,
    schemas: HashMap<String, Schema>,
    merge_keys: Value,
}

/// The JSON schemas by full name, as k8s-openapi gives them: refs point into `#/definitions/`.
#[must_use]
pub fn definitions() -> &'static Map<String, Value> {
    &registry().definitions
}

/// The facts about merging a type's fields: `{field: {patchMergeKey, patchStrategy, listType, …}}`.
pub(crate) fn merge_facts(name: &str) -> Option<&'static Map<String, Value>> {
    registry().merge_keys.get(name).and_then(Value::as_object)
}

/// The type called `name`.
#[must_use]
pub fn get(name: &str) -> Option<&'static Schema> {
    registry().schemas.get(name)
}

/// The type called `name`, which is one of the built-in ones.
///
/// # Panics
/// It is not: a fault of the table, which a test of it would find.
#[must_use]
pub fn known(name: &str) -> Schema {
    get(name).unwrap_or_else(|| panic!("there is no type {name}")).clone()
}

/// Full name of the type of a kind.
pub(crate) fn name_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let package = match group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    let name = format!("io.k8s.api.{package}.{version}.{kind}");
    definitions().get_key_value(&name).map(|(name, _)| name.as_str())
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(build)
}

macro_rules! roots {
    ($generator:ident: $($module:path => $($kind:ident)+;)+) => {
        $({ use $module as module; $($generator.subschema_for::<module::$kind>();)+ })+
    };
}

fn generate() -> Map<String, Value> {
    let mut generator: SchemaGenerator = SchemaSettings::draft07().into_generator();
    roots! { generator:
        api::core::v1 => Namespace Node Pod ConfigMap Secret ServiceAccount Service Endpoints Event Binding PodTemplate
            ReplicationController LimitRange ResourceQuota PersistentVolume PersistentVolumeClaim;
        api::apps::v1 => Deployment ReplicaSet StatefulSet DaemonSet ControllerRevision;
        api::autoscaling::v1 => Scale;
        api::authentication::v1 => TokenRequest TokenReview SelfSubjectReview;
        api::authorization::v1 => SelfSubjectAccessReview SubjectAccessReview LocalSubjectAccessReview SelfSubjectRulesReview;
        api::coordination::v1 => Lease;
        api::discovery::v1 => EndpointSlice;
        api::events::v1 => Event;
        api::node::v1 => RuntimeClass;
        api::policy::v1 => Eviction PodDisruptionBudget;
        api::scheduling::v1 => PriorityClass;
        meta::v1 => DeleteOptions Status ListMeta LabelSelector APIResourceList APIGroup APIGroupList APIVersions;
    }
    generator.take_definitions(false)
}

fn build() -> Registry {
    let definitions = generate();
    let merge_keys: Value = serde_json::from_str(MERGE_KEYS).expect("the facts are JSON");
    let presence: Value = serde_json::from_str(PRESENCE).expect("the facts are JSON");
    let structs = definitions.iter().filter(|(name, json)| special(name).is_none() && json.get("properties").is_some());
    let schemas: HashMap<String, Schema> = structs
        .map(|(name, _)| (name.clone(), Schema(Arc::new(Body { name: name.clone(), fields: OnceLock::new() }))))
        .collect();
    for (name, schema) in &schemas {
        let reader = Reader { schemas: &schemas, merge: &merge_keys[name], presence: &presence[name] };
        let properties = definitions[name]["properties"].as_object();
        let fields: BTreeMap<String, Field> =
            properties.into_iter().flatten().map(|(field, json)| (field.clone(), reader.field(field, json))).collect();
        // Each schema is visited once, so this cannot have been set before.
        let _ = schema.0.fields.set(fields);
    }
    Registry { definitions, schemas, merge_keys }
}

/// Types with a form of their own.
fn special(name: &str) -> Option<Type> {
    Some(match name.strip_prefix("io.k8s.apimachinery.pkg.")? {
        "api.resource.Quantity" => Type::Quantity,
        "util.intstr.IntOrString" => Type::IntOrString,
        "apis.meta.v1.Time" => Type::Time,
        "apis.meta.v1.MicroTime" => Type::MicroTime,
        "apis.meta.v1.FieldsV1" | "runtime.RawExtension" => Type::Any,
        _ => return None,
    })
}

struct Reader<'a> {
    schemas: &'a HashMap<String, Schema>,
    merge: &'a Value,
    presence: &'a Value,
}

impl Reader<'_> {
    fn field(&self, name: &str, json: &Value) -> Field {
        Field { ty: self.ty(json), presence: self.presence(name), merge: self.merge(name) }
    }

    fn presence(&self, name: &str) -> Presence {
        let listed = |list: &str| self.presence[list].as_array().is_some_and(|names| names.iter().any(|n| n == name));
        match (listed("always"), listed("zero")) {
            _ if listed("null") => Presence::Null,
            (true, _) => Presence::Always,
            (_, true) => Presence::NotZero,
            _ => Presence::Set,
        }
    }

    fn merge(&self, name: &str) -> Merge {
        let facts = &self.merge[name];
        let strategy = facts["patchStrategy"].as_str().unwrap_or_default();
        Merge {
            merge: strategy.split(',').any(|part| part == "merge"),
            retain_keys: strategy.split(',').any(|part| part == "retainKeys"),
            key: facts["patchMergeKey"].as_str().map(str::to_owned),
        }
    }

    fn ty(&self, json: &Value) -> Type {
        if let Some(name) = json["$ref"].as_str().and_then(|path| path.strip_prefix(REF)) {
            return special(name).or_else(|| self.schemas.get(name).cloned().map(Type::Struct)).unwrap_or(Type::Any);
        }
        match (json["type"].as_str().unwrap_or_default(), json["format"].as_str().unwrap_or_default()) {
            ("boolean", _) => Type::Bool,
            ("integer", "int32") => Type::Int32,
            ("integer", _) => Type::Int64,
            ("number", _) => Type::Float,
            ("string", "byte") => Type::Bytes,
            ("string", "date-time") => Type::Time,
            ("string", _) => Type::String,
            ("array", _) => Type::List(Box::new(self.ty(&json["items"]))),
            ("object", _) if json.get("additionalProperties").is_some() => {
                Type::Map(Box::new(self.ty(&json["additionalProperties"])))
            }
            _ => Type::Any,
        }
    }
}
