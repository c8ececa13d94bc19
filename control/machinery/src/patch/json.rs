//! JSON patch (RFC 6902) with the liberties of the library that upstream uses: `replace` of a
//! missing map key sets it, `test` for null passes where nothing is, negative indices count from
//! the end.

use serde_json::{Map, Value};

use super::PatchError;
use crate::decode::{Decoded, Findings};

/// As upstream limits a patch.
const MAX_OPERATIONS: usize = 10_000;

/// How much `copy` operations may add in all: copies of copies would double with each one.
const MAX_COPIED: usize = 3 * 1024 * 1024;

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

fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Outcome {
    let pointer = |field: &str| match operation.get(field) {
        Some(Value::String(text)) => parse_pointer(text),
        _ => Err(format!("operation has no {field}")),
    };
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let path = pointer("path")?;
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(target, &path, value()),
        "remove" => remove(target, &path).map(drop),
        "replace" => replace(target, &path, value()),
        "move" => {
            let from = pointer("from")?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err("cannot move a value into itself".into());
            }
            let moved = remove(target, &from)?;
            add(target, &path, moved)
        }
        "copy" => {
            let source = find(target, &pointer("from")?).ok_or("nothing to copy")?.clone();
            *copied += weight(&source);
            if *copied > MAX_COPIED {
                return Err("copies too much".into());
            }
            add(target, &path, source)
        }
        "test" => {
            let wanted = value();
            match find(target, &path) {
                Some(found) if same(found, &wanted) => Ok(()),
                None if wanted.is_null() => Ok(()),
                _ => Err("testing value failed".into()),
            }
        }
        other => Err(format!("unexpected kind: {other}")),
    }
}

fn parse_pointer(text: &str) -> Outcome<Vec<String>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or("a path must start with a slash")?;
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
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

fn step<'a>(value: &'a Value, token: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(token),
        Value::Array(items) => items.get(index(token, items.len(), false).ok()?),
        _ => None,
    }
}

fn find<'a>(target: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(target, |value, token| step(value, token))
}

/// The container of the last token, and that token.
fn parent<'a, 'p>(target: &'a mut Value, path: &'p [String]) -> Outcome<(&'a mut Value, &'p str)> {
    let (last, parents) = path.split_last().ok_or("the path names the whole document")?;
    let mut value = target;
    for token in parents {
        value = match value {
            Value::Object(map) => map.get_mut(token),
            Value::Array(items) => {
                let at = index(token, items.len(), false)?;
                items.get_mut(at)
            }
            _ => None,
        }
        .ok_or_else(|| format!("{token} does not exist"))?;
    }
    Ok((value, last))
}

fn add(target: &mut Value, path: &[String], value: Value) -> Outcome {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    match parent(target, path)? {
        (Value::Object(map), key) => {
            map.insert(key.to_owned(), value);
        }
        (Value::Array(items), token) => {
            let at = index(token, items.len(), true)?;
            items.insert(at, value);
        }
        _ => return Err("the parent is neither a map nor a list".into()),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &[String]) -> Outcome<Value> {
    match parent(target, path)? {
        (Value::Object(map), key) => map.remove(key).ok_or_else(|| format!("{key} does not exist")),
        (Value::Array(items), token) => {
            let at = index(token, items.len(), false)?;
            Ok(items.remove(at))
        }
        _ => Err("the parent is neither a map nor a list".into()),
    }
}

fn replace(target: &mut Value, path: &[String], value: Value) -> Outcome {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    match parent(target, path)? {
        (Value::Object(map), key) => {
            map.insert(key.to_owned(), value);
        }
        (Value::Array(items), token) => {
            let at = index(token, items.len(), false)?;
            items[at] = value;
        }
        _ => return Err("the parent is neither a map nor a list".into()),
    }
    Ok(())
}

/// Equal as JSON: `1` and `1.0` are the same number.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len() && left.iter().all(|(key, l)| right.get(key).is_some_and(|r| same(l, r)))
        }
        _ => left == right,
    }
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
                json!([{"op": "test", "path": "/n", "value": 1.0}, {"op": "test", "path": "/none", "value": null}]),
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
