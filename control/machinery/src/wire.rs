//! Numbers of fields in Kubernetes' protobuf messages: facts (`data/wire.json`). Everything else about a message comes
//! from the schema registry.
//!
//! `+Type` in the facts is a message whose fields stand in its parent's JSON (embedded structs).

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
};

const FACTS: &str = include_str!("../data/wire.json");

/// What every enveloped object starts with.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

/// What a field number of a message means.
pub(crate) enum Meaning {
    Field(String),
    Embedded(String),
}

pub(crate) type Numbers = HashMap<u64, Meaning>;

/// The type whose fields may be unions.
pub(crate) const JSON_SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// A value that is a JSON schema or something else: a message of its own, which has a field for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Union {
    /// The schema is field 1, schemas of a list are field 2 (`JSONSchemaPropsOrArray`).
    Schemas,
    /// Whether anything is allowed is field 1, the schema field 2 (`JSONSchemaPropsOrBool`).
    Allows,
    /// The schema is field 1, strings of a list are field 2 (`JSONSchemaPropsOrStringArray`).
    Strings,
}

/// What a field of a message is, or the values of its map are, if they are unions.
pub(crate) fn union_of(message: &str, field: &str) -> Option<Union> {
    let known = match field {
        "items" => Union::Schemas,
        "additionalItems" | "additionalProperties" => Union::Allows,
        "dependencies" => Union::Strings,
        _ => return None,
    };
    (message == JSON_SCHEMA).then_some(known)
}

/// The numbers of a message; `None` for a type without a protobuf form.
pub(crate) fn numbers(message: &str) -> Option<&'static Numbers> {
    table().get(message)
}

/// Every message.
pub(crate) fn messages() -> impl Iterator<Item = &'static str> {
    table().keys().map(String::as_str)
}

/// Names of the fields that a message can carry; `None` for a type without a protobuf form.
#[must_use]
pub fn message_fields(message: &str) -> Option<HashSet<&'static str>> {
    let (mut fields, mut tables) = (HashSet::new(), vec![message]);
    while let Some(table) = tables.pop() {
        for meaning in numbers(table)?.values() {
            match meaning {
                Meaning::Field(name) => drop(fields.insert(name.as_str())),
                Meaning::Embedded(table) => tables.push(table),
            }
        }
    }
    Some(fields)
}

fn table() -> &'static HashMap<String, Numbers> {
    static TABLE: OnceLock<HashMap<String, Numbers>> = OnceLock::new();
    TABLE.get_or_init(load)
}

fn load() -> HashMap<String, Numbers> {
    let facts: HashMap<String, HashMap<String, u64>> = serde_json::from_str(FACTS).expect("the facts are JSON");
    let meaning = |name: String| match name.strip_prefix('+') {
        Some(embedded) => Meaning::Embedded(embedded.to_owned()),
        None => Meaning::Field(name),
    };
    let table =
        |fields: HashMap<String, u64>| fields.into_iter().map(|(name, number)| (number, meaning(name))).collect();
    facts.into_iter().map(|(message, fields)| (message, table(fields))).collect()
}
