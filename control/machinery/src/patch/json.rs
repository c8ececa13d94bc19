//! JSON patch (RFC 6902) with the liberties of the library that upstream uses (evanphx/json-patch v4): `replace` of a
//! missing map key sets it, `test` for null passes and `copy` takes null where nothing is, a missing value is null,
//! negative indices count from the end, `add` cannot replace the whole document, `1` is not `1.0`.

use serde_json::{Map, Value};

use super::PatchError;
use crate::decode::{Decoded, Findings};

/// As upstream limits a patch.
const MAX_OPERATIONS: usize = 10_000;

/// How much `copy` operations may add in all: copies of copies would double with each one.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// What is said of a test that does not hold begins so.
pub(super) const UNTRUE: &str = "testing value ";

type Outcome<T = ()> = Result<T, String>;

/// Applies the operations of `patch` in order. Upon an error `target` is not to be used.
///
/// # Errors
/// The patch is no list of operations, or one of them does not apply.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        let found = crate::decode::type_name(patch);
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        let text =
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(PatchError::TooMany(text));
    }
    if let Some(other) = operations.iter().find(|operation| !operation.is_object()) {
        let found = crate::decode::type_name(other);
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {found} into Go value of type jsonpatch.Operation"
        )));
    }
    let mut copied = 0;
    for operation in operations {
        apply(target, operation, &mut copied).map_err(PatchError::Rejected)?;
    }
    Ok(())
}

/// What strict validation finds in the operations themselves.
#[must_use]
pub fn json_patch_findings(decoded: &Decoded) -> Findings {
    let mut out = Vec::new();
    let quote = crate::field_error::quote;
    for path in &decoded.duplicates {
        let (index, field) = path.split_once('.').unwrap_or((path, ""));
        if ["op", "path", "from", "value"].contains(&field) && index.starts_with('[') {
            out.push(format!("json patch duplicate field {}", quote(path)));
        }
    }
    for (index, operation) in decoded.value.as_array().into_iter().flatten().enumerate() {
        for key in operation.as_object().into_iter().flat_map(Map::keys) {
            if !["op", "path", "from", "value"].contains(&key.as_str()) {
                out.push(format!("json patch unknown field {}", quote(&format!("[{index}].{key}"))));
            }
        }
    }
    Findings::of_fields(out)
}

/// One operation, by the rules of the library that upstream uses.
fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Outcome {
    let text = |field: &str| operation.get(field).and_then(Value::as_str).ok_or(format!("operation has no {field}"));
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let path = text("path");
    match operation["op"].as_str().unwrap_or("unknown") {
        "add" => add(target, path?, value()),
        "remove" => remove(target, path?),
        "replace" => replace(target, path?, value()),
        "move" => {
            let (container, key) = locate(target, text("from")?)?;
            let moved = get(container, &key)?.cloned().unwrap_or(Value::Null);
            take(container, &key)?;
            add(target, path?, moved)
        }
        "copy" => {
            let (container, key) = locate(target, text("from")?)?;
            let source = get(container, &key)?.cloned().unwrap_or(Value::Null);
            *copied += weight(&source);
            if *copied > MAX_COPIED {
                return Err("copies too much".into());
            }
            add(target, path?, source)
        }
        "test" => test(target, path?, &value()),
        other => Err(format!("unexpected kind: {other}")),
    }
}

/// The container of what a pointer names, and its key there. Whatever stands before the first slash is passed over.
fn locate<'a>(target: &'a mut Value, pointer: &str) -> Outcome<(&'a mut Value, String)> {
    let missing = || format!("doc is missing path: {pointer:?}");
    let mut tokens: Vec<String> =
        pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
    let key = tokens.pop().ok_or_else(missing)?;
    let mut value = target;
    for token in tokens {
        value = match value {
            Value::Object(map) => map.get_mut(&token),
            Value::Array(items) => index(&token, items.len(), false).ok().and_then(|at| items.get_mut(at)),
            _ => None,
        }
        .ok_or_else(missing)?;
    }
    if value.is_object() || value.is_array() { Ok((value, key)) } else { Err(missing()) }
}

/// The position in a list of `length` items; `-` and `length` itself only where one may be added.
fn index(token: &str, length: usize, adding: bool) -> Outcome<usize> {
    let out_of_range = || format!("index {token} is out of range");
    if token == "-" && adding {
        return Ok(length);
    }
    let number: i64 = token.parse().map_err(|_| out_of_range())?;
    let end = i64::try_from(length).unwrap_or(i64::MAX) + i64::from(adding);
    let at = if number < 0 { number + end } else { number };
    if (0..end).contains(&at) { usize::try_from(at).map_err(|_| out_of_range()) } else { Err(out_of_range()) }
}

/// `None`: a map has no such key.
fn get<'a>(container: &'a Value, key: &str) -> Outcome<Option<&'a Value>> {
    match container {
        Value::Array(items) => Ok(items.get(index(key, items.len(), false)?)),
        other => Ok(other.get(key)),
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Outcome {
    match locate(target, path)? {
        (Value::Array(items), token) => items.insert(index(&token, items.len(), true)?, value),
        (map, key) => map[key] = value,
    }
    Ok(())
}

fn take(container: &mut Value, key: &str) -> Outcome {
    match container {
        Value::Array(items) => drop(items.remove(index(key, items.len(), false)?)),
        Value::Object(map) => drop(map.remove(key).ok_or_else(|| format!("{key} does not exist"))?),
        _ => {}
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Outcome {
    let (container, key) = locate(target, path)?;
    take(container, &key)
}

/// A map need not have the key yet.
fn replace(target: &mut Value, path: &str, value: Value) -> Outcome {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".into());
        }
        *target = value;
        return Ok(());
    }
    match locate(target, path)? {
        (Value::Array(items), token) => {
            let at = index(&token, items.len(), false)?;
            items[at] = value;
        }
        (map, key) => map[key] = value,
    }
    Ok(())
}

/// Null is also what a map does not have. `1` and `1.0` are not the same.
fn test(target: &mut Value, path: &str, wanted: &Value) -> Outcome {
    let passes = if path.is_empty() {
        *target == *wanted
    } else {
        let (container, key) = locate(target, path)?;
        *get(container, &key)?.unwrap_or(&Value::Null) == *wanted
    };
    if passes { Ok(()) } else { Err(format!("{UNTRUE}{path} failed")) }
}

/// Roughly the bytes of a value.
fn weight(value: &Value) -> usize {
    8 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + weight(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order() {
        let start = json!({"a": "1", "l": ["x", "y"], "m": {"x/y": "z"}, "n": 1});
        for (patch, expect) in [
            (json!([]), Some(start.clone())),
            (
                json!([{"op": "add", "path": "/b", "value": 2}]),
                Some(json!({"a": "1", "b": 2, "l": ["x", "y"], "m": {"x/y": "z"}, "n": 1})),
            ),
            (
                json!([{"op": "remove", "path": "/m"}, {"op": "remove", "path": "/l"}, {"op": "remove", "path": "/n"}]),
                Some(json!({"a": "1"})),
            ),
            (
                json!([{"op": "replace", "path": "/m/x~1y", "value": 1}, {"op": "remove", "path": "/l/0"}]),
                Some(json!({"a": "1", "l": ["y"], "m": {"x/y": 1}, "n": 1})),
            ),
            (
                json!([{"op": "replace", "path": "/zzz", "value": 1}, {"op": "move", "from": "/zzz", "path": "/a"}]),
                Some(json!({"a": 1, "l": ["x", "y"], "m": {"x/y": "z"}, "n": 1})),
            ),
            (
                json!([{"op": "add", "path": "/l/-", "value": "z"}, {"op": "add", "path": "/l/0", "value": "w"}]),
                Some(json!({"a": "1", "l": ["w", "x", "y", "z"], "m": {"x/y": "z"}, "n": 1})),
            ),
            (
                json!([{"op": "copy", "from": "/a", "path": "/l/1"}, {"op": "replace", "path": "/l/-1", "value": 0}]),
                Some(json!({"a": "1", "l": ["x", "1", 0], "m": {"x/y": "z"}, "n": 1})),
            ),
            (
                json!([{"op": "test", "path": "/n", "value": 1}, {"op": "test", "path": "/none", "value": null}]),
                Some(start.clone()),
            ),
            (json!([{"op": "replace", "path": "", "value": {}}]), Some(json!({}))),
            (json!([{"op": "remove", "path": "/zzz"}]), None),
            (json!([{"op": "test", "path": "/a", "value": "0"}]), None),
            (json!([{"op": "add", "path": "/q/k", "value": 1}]), None),
            (json!([{"op": "add", "path": "/l/9", "value": 1}]), None),
            (json!([{"op": "replace", "path": "/l/2", "value": 1}]), None),
            (json!([{"op": "frob", "path": "/a"}]), None),
            (json!([{"op": "add", "value": 1}]), None),
            (json!([{"op": "add", "path": "a", "value": 1}]), None),
            (json!([{"op": "move", "from": "/m", "path": "/m/q"}]), None),
            (json!([{"op": "remove", "path": ""}]), None),
            (json!({"op": "add"}), None),
            (json!([1]), None),
        ] {
            let mut value = start.clone();
            let outcome = json_patch(&mut value, &patch);
            assert_eq!(outcome.is_ok().then_some(value), expect, "{patch} {outcome:?}");
        }
    }

    #[test]
    fn copies_cannot_explode() {
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(1000)]})];
        operations.extend((0..60).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        assert!(json_patch(&mut json!({}), &Value::Array(operations)).is_err());
    }

    #[test]
    fn operations_are_validated_strictly() {
        let text = br#"[{"op":"add","op":"add","path":"/data/z","value":{"x":1,"x":2},"foo":2}]"#;
        let findings = json_patch_findings(&crate::decode::decode_json(text).expect("JSON"));
        assert_eq!(
            findings.strict_error().as_deref(),
            Some("strict decoding error: json patch duplicate field \"[0].op\", json patch unknown field \"[0].foo\"")
        );
    }

    proptest! {
        #[test]
        fn any_patch_is_answered(op in "(add|remove|replace|move|copy|test)", path in "(/[abl0-9~-]{0,3}){0,3}", from in "(/[abl0-9-]{0,2}){0,2}") {
            let mut value = json!({"a": {"b": [1, {"a": 2}]}, "l": [1, 2]});
            let _ = json_patch(&mut value, &json!([{"op": op, "path": path, "from": from, "value": 1}]));
        }
    }
}
