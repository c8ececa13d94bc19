//! The short hash that tells one pod template from another, in the alphabet that upstream uses for
//! names.
//!
//! Like upstream's it only has to be stable for one template and spread well: a ReplicaSet is
//! recognised by comparing templates, never by its hash, and a clash is solved by counting
//! `status.collisionCount` up.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::action::to_value;

const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
#[must_use]
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// FNV-1a, 64 bits.
#[must_use]
pub fn fnv64(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The value of the `pod-template-hash` label.
#[must_use]
pub fn pod_template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // Keys of a JSON value are sorted, so equal templates give equal bytes.
    let mut bytes = prune(to_value(template)).to_string().into_bytes();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    let digits = fnv32(&bytes).to_string();
    digits.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// Without what means the same as nothing: nulls, and empty lists.
#[must_use]
pub fn prune(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(key, value)| (key, prune(value)));
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        other => other,
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
        PodTemplateSpec { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), metadata: None }
    }

    #[test]
    fn a_hash_follows_the_template_and_the_collisions() {
        let one = pod_template_hash(&template("a"), None);
        assert_eq!(one, pod_template_hash(&template("a"), None));
        assert_ne!(one, pod_template_hash(&template("b"), None));
        assert_ne!(one, pod_template_hash(&template("a"), Some(1)));
        assert!(one.bytes().all(|byte| ALPHABET.contains(&byte)), "{one}");
    }
}
