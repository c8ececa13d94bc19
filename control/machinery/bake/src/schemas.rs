//! From JSON schemas to lines of data.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

include!(concat!(env!("OUT_DIR"), "/roots.rs"));

const REF: &str = "#/definitions/";

/// All types by full name.
pub fn definitions() -> Map<String, Value> {
    let mut generator = SchemaSettings::draft07().into_generator();
    add_all(&mut generator);
    generator.take_definitions(false)
}

/// The line of a type. A struct has `fields`; anything else is a `type` in one word.
pub fn of_type(name: &str, json: &Value) -> Value {
    if let Some(word) = own_form(name) {
        return json!({"type": word});
    }
    let Some(properties) = json["properties"].as_object() else {
        let word = word(json);
        return if word == "object" { json!({"fields": {}}) } else { json!({"type": word}) };
    };
    // k8s-openapi's objects cannot be without metadata; upstream's schemas do not ask for them.
    let object = properties.contains_key("apiVersion");
    let required = json["required"].as_array().cloned().unwrap_or_default();
    let required = |field: &str| required.iter().any(|name| name == field) && !(object && field == "metadata");
    let fields: Map<String, Value> =
        properties.iter().map(|(name, json)| (name.clone(), of_field(json, required(name)))).collect();
    json!({"fields": fields})
}

/// Types whose form their JSON schema does not say: free-form objects look like structs without fields there.
fn own_form(name: &str) -> Option<&'static str> {
    Some(match name.strip_prefix("io.k8s.")? {
        "apimachinery.pkg.api.resource.Quantity" => "quantity",
        "apimachinery.pkg.util.intstr.IntOrString" => "int-or-string",
        "apimachinery.pkg.apis.meta.v1.Time" => "time",
        "apimachinery.pkg.apis.meta.v1.MicroTime" => "micro-time",
        "apimachinery.pkg.apis.meta.v1.FieldsV1"
        | "apimachinery.pkg.apis.meta.v1.Patch"
        | "apimachinery.pkg.runtime.RawExtension" => "object",
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => "any",
        _ => return None,
    })
}

fn of_field(json: &Value, required: bool) -> Value {
    let mut field = json!({"type": word(json)});
    if required {
        field["required"] = true.into();
    }
    field
}

/// A type in one word: `string`, `[]io.k8s.api.core.v1.Container`, `map[string]bytes`.
fn word(json: &Value) -> String {
    for key in json.as_object().into_iter().flat_map(Map::keys) {
        let known = ["$ref", "additionalProperties", "description", "format", "items", "oneOf", "required", "type"];
        assert!(known.contains(&key.as_str()), "{key} would be lost: {json}");
    }
    if let Some(name) = json["$ref"].as_str() {
        return name.strip_prefix(REF).expect("references are to definitions").to_owned();
    }
    let words = (json["type"].as_str().unwrap_or_default(), json["format"].as_str().unwrap_or_default());
    match words {
        ("boolean", "") => "bool".to_owned(),
        ("integer", "int32" | "int64") => words.1.to_owned(),
        ("number", "double") => "double".to_owned(),
        ("string", "") => "string".to_owned(),
        ("string", "byte") => "bytes".to_owned(),
        ("array", "") => format!("[]{}", word(&json["items"])),
        ("object", "") => match json.get("additionalProperties") {
            Some(item) => format!("map[string]{}", word(item)),
            None => "object".to_owned(),
        },
        // Unions (`JSONSchemaPropsOrBool`): upstream's own documents say nothing about their form either.
        ("", "") if json.get("oneOf").is_some() => "any".to_owned(),
        _ => panic!("a form without a word: {json}"),
    }
}
