//! JSON merge patch (RFC 7386), with upstream's liberty: nulls within a list go too, but for those that
//! are items, unless the list takes the place of an object.

use serde_json::{Map, Value};

use super::PatchError;

/// Applies `patch` to `target`.
///
/// # Errors
/// The patch is not an object: a whole object cannot be replaced by something else.
pub fn merge_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    match patch {
        Value::Object(_) => {
            merge(target, patch);
            Ok(())
        }
        other => {
            let found = crate::decode::type_name(other);
            Err(PatchError::Malformed(format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )))
        }
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        let replaces = target.is_object();
        *target = patch.clone();
        if !replaces {
            drop_nulls(target);
        }
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in fields {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// Upstream's library takes nulls for deletions in the objects of a list too.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn follows_the_rfc() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"a": 1, "e": null})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"a": 1}), json!({"a": {"b": null}}), json!({"a": {}})),
            (json!({}), json!({"a": [{"b": null, "c": [{"d": null}]}, null]}), json!({"a": [{"c": [{}]}, null]})),
            (json!({"a": {}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]})),
        ] {
            let mut value = target;
            assert_eq!(merge_patch(&mut value, &patch), Ok(()));
            assert_eq!(value, result, "{patch}");
        }
        for patch in [json!([1]), json!(3), json!(null), json!("x")] {
            assert!(merge_patch(&mut json!({}), &patch).is_err(), "{patch}");
        }
    }
}
