//! Files of options in the group `apiserver.config.k8s.io`, read as strictly as upstream reads them.

use kontiki_machinery::decode::{Findings, decode_yaml};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{FieldError, field_error::quote, status};

/// What a document may have.
pub(crate) enum Shape {
    /// No fields.
    Plain,
    /// These fields.
    Fields(&'static [(&'static str, Shape)]),
    /// Many of this.
    List(&'static Shape),
}

const GROUP: &str = "apiserver.config.k8s.io";
/// They differ in nothing that is read here.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// Reads a document of `kind`.
///
/// # Errors
/// What is wrong with it, in one line.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8], kind: &str, shape: &Shape) -> Result<T, String> {
    if text.is_empty() {
        return Err("empty config data".to_owned());
    }
    let decoded = decode_yaml(text).and_then(|decoded| decoded.into_object()).map_err(|why| line(&why.to_string()))?;
    let (version, found) = decoded.type_meta().map_err(|why| why.to_string())?;
    if found.is_empty() {
        return Err("Object 'Kind' is missing".to_owned());
    }
    let known = version.split_once('/').is_some_and(|(group, version)| group == GROUP && VERSIONS.contains(&version));
    if !known || found != kind {
        return Err(format!("no kind {} is registered for version {}", quote(found), quote(version)));
    }
    let mut unknown = Vec::new();
    let mut value = decoded.value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    unknown_fields(&value, shape, "", &mut unknown);
    let mut findings = decoded.duplicate_findings();
    findings.extend(Findings::of_fields(unknown));
    if let Some(why) = findings.strict_error() {
        return Err(line(&why));
    }
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(|why| line(&why.to_string()))
}

fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unknown_fields(value: &Value, shape: &Shape, at: &str, found: &mut Vec<String>) {
    match (value, shape) {
        (Value::Object(fields), Shape::Fields(known)) => {
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match known.iter().find(|(known, _)| known == name) {
                    Some((_, shape)) => unknown_fields(value, shape, &path, found),
                    None => found.push(format!("unknown field {}", quote(&path))),
                }
            }
        }
        (Value::Array(items), Shape::List(shape)) => {
            items.iter().enumerate().for_each(|(i, item)| unknown_fields(item, shape, &format!("{at}[{i}]"), found));
        }
        _ => {}
    }
}

/// A null is what is not said.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// All findings as one line.
pub(crate) fn said(errors: &[FieldError]) -> String {
    status::aggregate(errors.iter().map(ToString::to_string)).unwrap_or_default().replace('\n', " ")
}
