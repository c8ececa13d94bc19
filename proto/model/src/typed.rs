//! Stored objects as k8s-openapi's types.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::GroupResource;

/// A part of the objects of one kind, which is read without the rest.
pub trait Part: DeserializeOwned + Send + Sync + 'static {
    /// The kind.
    const RESOURCE: GroupResource<'static>;
}

/// Reads an object, as a typed reader upstream would.
///
/// Who owns what of it (`metadata.managedFields`) is left out: it is as long as the rest, and for the API alone.
///
/// Upstream prints the zero of a time as `null` and reads it back as zero; k8s-openapi's conditions
/// do not. So where a type refuses, the object is read again with that zero in its conditions, and
/// without its other nulls, which say nothing that absence does not.
///
/// # Errors
/// It is not JSON, or not of this type.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let json = &*without_owners(json);
    serde_json::from_slice(json).or_else(|_| {
        let mut value = serde_json::from_slice(json)?;
        settle_nulls(&mut value);
        serde_json::from_value(value)
    })
}

/// A stored object without `metadata.managedFields`. One whose first inner value is not its metadata is left as it is.
#[must_use]
pub fn without_owners(json: &[u8]) -> Cow<'_, [u8]> {
    const NAME: &[u8] = b"\"managedFields\"";
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at);
                if depth == 2 && &json[at..end] == NAME && json[end..].starts_with(b":[") {
                    return without(json, at, value_end(json, end + 1)).into();
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 2 => break,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    json.into()
}

/// Without the field from `from` to `to`, and one of the commas beside it.
fn without(json: &[u8], from: usize, to: usize) -> Vec<u8> {
    let (before, after) = (&json[..from], &json[to..]);
    match after.strip_prefix(b",") {
        Some(after) => [before, after].concat(),
        None => [before.strip_suffix(b",").unwrap_or(before), after].concat(),
    }
}

/// Offset after the list or map that begins at `at`.
fn value_end(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at = string_end(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return at + 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    json.len()
}

/// Offset after the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = json.get(end) {
        match byte {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    json.len()
}

/// The only time that is not optional in these types.
const CONDITION_TIME: &str = "lastTransitionTime";
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

fn settle_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(time @ Value::Null) = fields.get_mut(CONDITION_TIME) {
                *time = ZERO_TIME.into();
            }
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(settle_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(settle_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    #[test]
    fn owners_are_cut_out() {
        for (before, after) in [
            (
                r#"{"kind":"A","metadata":{"managedFields":[{"a":"}]"}],"name":"x"},"d":1}"#,
                r#"{"kind":"A","metadata":{"name":"x"},"d":1}"#,
            ),
            (r#"{"metadata":{"labels":{"a":"b"},"managedFields":[]}}"#, r#"{"metadata":{"labels":{"a":"b"}}}"#),
            (r#"{"metadata":{"managedFields":[[1]]}}"#, r#"{"metadata":{}}"#),
        ] {
            assert_eq!(without_owners(before.as_bytes()), after.as_bytes());
        }
        for same in [
            r#"{"metadata":{"annotations":{"managedFields":"\\\"managedFields\":["}},"spec":{"managedFields":[1]}}"#,
            r#"{"metadata":{"managedFields":"no list"}}"#,
            r#"{"metadata":{"labels":{"managedFields":[1]}}}"#,
            r#"{"metadata":{"managedFields":["#,
            r#"{"metadata":{"a\"#,
            "",
            "]]",
        ] {
            let cut = without_owners(same.as_bytes());
            assert!(cut == same.as_bytes() || same.ends_with('['), "{same}");
        }
    }

    #[test]
    fn a_null_time_is_no_reason_to_lose_an_object() {
        let condition = r#"{"type": "x", "status": "True", "lastTransitionTime": null, "reason": "r", "message": ""}"#;
        let json = format!(r#"{{"metadata": {{"name": "a"}}, "status": {{"conditions": [{condition}]}}}}"#);
        assert!(serde_json::from_str::<Service>(&json).is_err(), "or this module is not needed any more");
        let service: Service = read(json.as_bytes()).expect("readable");
        assert_eq!(service.metadata.name.as_deref(), Some("a"));
        assert!(read::<Service>(b"{").is_err() && read::<Service>(br#"{"spec": 7}"#).is_err());
    }
}
