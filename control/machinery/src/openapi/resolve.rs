//! The type of a kind as one schema, in which what it refers to stands in the place of each reference. Upstream: apiserver
//! `pkg/cel/openapi/resolver`.
//!
//! Invariant: a type within itself is an object of which nothing is known, so there is an end.

use std::{collections::HashMap, slice, sync::Arc};

use serde_json::{Value, json};

use super::definitions::{Flavor, OBJECT_META, bare, reference};
use crate::ResourceDef;

/// The schema of a kind's objects, with what every object has.
#[must_use]
pub fn resolved(def: &Arc<ResourceDef>) -> Value {
    let mut resolver = Resolver { def, known: HashMap::new(), within: Vec::new() };
    resolver.named(def.schema.name())
}

struct Resolver<'a> {
    def: &'a Arc<ResourceDef>,
    /// Definitions, with their references.
    known: HashMap<String, Value>,
    /// Names of the types that the one at hand is in.
    within: Vec<String>,
}

impl Resolver<'_> {
    fn named(&mut self, name: &str) -> Value {
        if self.within.iter().any(|outer| outer == name) {
            return json!({"type": "object"});
        }
        let read = || bare(slice::from_ref(self.def), name).unwrap_or_default();
        let mut schema = self.known.entry(name.to_owned()).or_insert_with(read).clone();
        self.within.push(name.to_owned());
        self.inner(&mut schema);
        self.within.pop();
        schema
    }

    fn replace(&mut self, schema: &mut Value) {
        match referred(schema).map(str::to_owned) {
            Some(name) => *schema = self.named(&name),
            None => self.inner(schema),
        }
    }

    /// Replaces the references in a schema that is none itself.
    fn inner(&mut self, schema: &mut Value) {
        let Value::Object(fields) = schema else { return };
        if fields.get("format").is_some_and(|format| format == "int-or-string") {
            fields.insert("x-kubernetes-int-or-string".into(), true.into());
        }
        if fields.get("x-kubernetes-embedded-resource") == Some(&true.into())
            && let Value::Object(properties) = fields.entry("properties").or_insert_with(|| json!({}))
        {
            properties.insert("metadata".into(), reference(OBJECT_META, Flavor::V3));
        }
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            properties.values_mut().for_each(|property| self.replace(property));
        }
        for name in ["items", "additionalProperties"] {
            if let Some(inner) = fields.get_mut(name) {
                self.replace(inner);
            }
        }
    }
}

/// The name of the type that a schema refers to, be it for the sake of a description beside it.
fn referred(schema: &Value) -> Option<&str> {
    let wrapped = || schema["allOf"].as_array()?.iter().find_map(referred);
    schema["$ref"].as_str().or_else(wrapped)?.rsplit('/').next()
}
