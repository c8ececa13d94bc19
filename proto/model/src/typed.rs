//! Stored objects as k8s-openapi's types.

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
/// Upstream prints the zero of a time as `null` and reads it back as zero; k8s-openapi's conditions
/// do not. So where a type refuses, the object is read again with that zero in its conditions, and
/// without its other nulls, which say nothing that absence does not.
///
/// # Errors
/// It is not JSON, or not of this type.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).or_else(|_| {
        let mut value = serde_json::from_slice(json)?;
        settle_nulls(&mut value);
        serde_json::from_value(value)
    })
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
    fn a_null_time_is_no_reason_to_lose_an_object() {
        let condition = r#"{"type": "x", "status": "True", "lastTransitionTime": null, "reason": "r", "message": ""}"#;
        let json = format!(r#"{{"metadata": {{"name": "a"}}, "status": {{"conditions": [{condition}]}}}}"#);
        assert!(serde_json::from_str::<Service>(&json).is_err(), "or this module is not needed any more");
        let service: Service = read(json.as_bytes()).expect("readable");
        assert_eq!(service.metadata.name.as_deref(), Some("a"));
        assert!(read::<Service>(b"{").is_err() && read::<Service>(br#"{"spec": 7}"#).is_err());
    }
}
