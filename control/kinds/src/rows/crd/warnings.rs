//! What is legal in a schema and without effect.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{schema, spec::Spec};
use crate::rows::value::{get, text};

/// Formats of texts, without hyphens, as upstream compares them.
const FORMATS: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Warnings for a spec; of an updated one, those that are new.
pub(super) fn of(spec: &Value, old: Option<&Value>) -> Vec<String> {
    let (mut formats, mut sets) = (formats(spec), sets(spec));
    if let Some(old) = old {
        let (known, warned) = (self::formats(old), self::sets(old));
        formats.retain(|format| !known.contains(format));
        sets.retain(|set| !warned.contains(set));
    }
    formats.into_iter().map(|format| format!("unrecognized format \"{format}\"")).chain(sets).collect()
}

fn formats(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for schema in Spec::of(spec).schemas() {
        schema::each(schema, &mut |schema| {
            let format = text(schema, "format");
            let known = match text(schema, "type") {
                _ if format.is_empty() => true,
                "" | "string" => FORMATS.contains(&format.replace('-', "").as_str()),
                "integer" => ["int32", "int64"].contains(&format),
                "number" => ["float", "double"].contains(&format),
                _ => false,
            };
            if !known {
                found.push(format.to_owned());
            }
        });
    }
    found
}

fn sets(spec: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for schema in Spec::of(spec).schemas() {
        schema::each(schema, &mut |schema| {
            let item = text(get(schema, "items"), "type");
            if text(schema, "x-kubernetes-list-type") == "set" && ["object", "array"].contains(&item) {
                found.insert(format!(
                    "x-kubernetes-list-type: set for items of type \"{item}\" is not supported by server-side apply or CEL validation rules"
                ));
            }
        });
    }
    found
}
