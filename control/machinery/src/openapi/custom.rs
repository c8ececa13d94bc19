//! Types of kinds that came at run time as OpenAPI prints them. Upstream: apiextensions-apiserver
//! `pkg/controller/openapi/builder` and `v2`.

use serde_json::{Map, Value, json};

use super::definitions::Flavor;

/// What a schema has that version 2 does not know, or that kubectl would take amiss there.
const NOT_IN_V2: [&str; 6] = ["nullable", "anyOf", "oneOf", "allOf", "not", "default"];

/// The definition of a schema.
pub(super) fn definition(mut schema: Value, flavor: Flavor) -> Value {
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    print(&mut schema, flavor);
    schema
}

fn print(schema: &mut Value, flavor: Flavor) {
    let Value::Object(fields) = schema else { return };
    if fields.get("x-kubernetes-int-or-string") == Some(&true.into())
        && flavor == Flavor::V3
        && !fields.contains_key("anyOf")
    {
        fields.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    if fields.get("x-kubernetes-embedded-resource") == Some(&true.into()) {
        embed(fields);
    }
    if flavor == Flavor::V2 {
        to_v2(fields);
    }
    for name in ["items", "additionalProperties", "not"] {
        if let Some(inner) = fields.get_mut(name) {
            print(inner, flavor);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(|inner| print(inner, flavor));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        if let Some(Value::Array(choices)) = fields.get_mut(name) {
            choices.iter_mut().for_each(|inner| print(inner, flavor));
        }
    }
}

/// What every object within an object has, where its schema does not say so.
fn embed(fields: &mut Map<String, Value>) {
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        if properties.get(name).is_none() {
            properties[name] = json!({"type": kind});
        }
    }
}

/// What may be anything is said to be nothing, so that clients judge less, not more.
fn to_v2(fields: &mut Map<String, Value>) {
    let on = |name: &str| fields.get(name) == Some(&true.into());
    let (any, nullable) = (on("x-kubernetes-preserve-unknown-fields"), on("nullable"));
    for name in NOT_IN_V2 {
        fields.remove(name);
    }
    if any || nullable {
        for name in ["type", "properties", "items", "required"] {
            fields.remove(name);
        }
    }
    if on_any(fields, "x-kubernetes-int-or-string") {
        fields.remove("type");
    }
}

fn on_any(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name) == Some(&true.into())
}
