//! Strategic merge patch: lists merge by key, directives delete, replace and order.
//!
//! Invariants
//! - Merged lists keep the order that upstream gives them: items of the patch in the patch's order
//!   (or in that of `$setElementOrder`), the others where the server had them.
//! - No directive is left in the result.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{PatchError, go_print};
use crate::schema::{Merge, Schema, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;
type Outcome<T> = Result<T, PatchError>;

fn contradiction<T>(text: impl Into<String>) -> Outcome<T> {
    Err(PatchError::Unprocessable(text.into()))
}

fn bad_format<T>(of: &str) -> Outcome<T> {
    Err(PatchError::BadFormat(format!("invalid patch format of {of}")))
}

/// Applies `patch` to `original`, an object of type `schema`.
///
/// # Errors
/// The patch is not an object, or its directives are malformed or contradict the type.
pub fn strategic_merge(original: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            Ok(Value::Object(merge_map(original.clone(), patch.clone(), &Kind::of(&Type::Struct(schema.clone())))?))
        }
        (_, other) => {
            let found = crate::decode::type_name(other);
            Err(PatchError::BadFormat(format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )))
        }
    }
}

/// What is known of the fields of a map being merged.
enum Kind {
    Struct(Schema),
    /// A map with free keys; its values' type.
    Map(Type),
    /// Nothing: maps merge, lists are replaced.
    Unknown,
}

impl Kind {
    fn of(ty: &Type) -> Self {
        match ty {
            Type::Struct(schema) => Self::Struct(schema.clone()),
            Type::Map(item) => Self::Map((**item).clone()),
            _ => Self::Unknown,
        }
    }

    /// Type and merge rule of a field. Upstream refuses to merge into what the type does not have.
    fn field(&self, name: &str) -> Outcome<(Type, Merge)> {
        match self {
            Self::Struct(schema) => match schema.field(name) {
                Some(field) => Ok((field.ty.clone(), field.merge.clone())),
                None => contradiction(format!(
                    "unable to find api field in struct {} for the json field {name:?}",
                    schema.short_name()
                )),
            },
            Self::Map(item) => Ok((item.clone(), Merge::default())),
            Self::Unknown => Ok((Type::Any, Merge::default())),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Struct(schema) => schema.short_name(),
            _ => "map",
        }
    }
}

fn item_kind(list: &Type) -> Kind {
    match list {
        Type::List(item) => Kind::of(item),
        _ => Kind::Unknown,
    }
}

fn merge_map(mut original: Object, mut patch: Object, kind: &Kind) -> Outcome<Object> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => contradiction(format!(
                "unknown patch type: {} in map: {}",
                go_print(directive),
                go_print(&Value::Object(patch))
            )),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, kind)?;
    for (key, value) in patch {
        match key.strip_prefix(DELETE_FROM) {
            Some(rest) => match rest.strip_prefix('/') {
                Some(list) => delete_from(&mut original, list, &value)?,
                None => return bad_format("primitive list"),
            },
            None => merge_field(&mut original, key, value, kind)?,
        }
    }
    Ok(original)
}

fn merge_field(original: &mut Object, key: String, value: Value, kind: &Kind) -> Outcome<()> {
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let merged = match (original.remove(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let (ty, _) = kind.field(&key)?;
            Some(Value::Object(merge_map(old, new, &Kind::of(&ty))?))
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let (ty, merge) = kind.field(&key)?;
            let list = if merge.merge { merge_list(old, new, &item_kind(&ty), merge.key.as_deref())? } else { new };
            Some(Value::Array(list))
        }
        (_, mut new) => {
            drop_nulls(&mut new);
            without_directives(new)
        }
    };
    if let Some(value) = merged {
        original.insert(key, value);
    }
    Ok(())
}

/// `$retainKeys`: of a union, only the named fields stay.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Outcome<()> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return bad_format("retainKeys") };
    let kept: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let foreign = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(ORDER) && !kept.contains(key.as_str())
    });
    if foreign {
        return bad_format("retainKeys");
    }
    original.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

fn delete_from(original: &mut Object, list: &str, gone: &Value) -> Outcome<()> {
    if let (Some(Value::Array(items)), Value::Array(gone)) = (original.get_mut(list), gone) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Handles each `$setElementOrder/<list>` together with its list, and takes both out of the patch.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, kind: &Kind) -> Outcome<()> {
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER)).cloned().collect();
    for directive in orders {
        let Some(list) = directive.strip_prefix(ORDER).and_then(|rest| rest.strip_prefix('/')) else {
            return bad_format("setElementOrder list");
        };
        let order = as_list(patch.remove(&directive).unwrap_or_default())?;
        let old = original.remove(list).map(as_list).transpose()?;
        let new = patch.remove(list).map(as_list).transpose()?;
        let (ty, merge) = kind.field(list)?;
        let key = merge.key.as_deref();
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let server = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if merge.merge => merge_list(old, new, &item_kind(&ty), key)?,
            (Some(_), Some(new)) => new,
        };
        let (ordered, rest): (Vec<Value>, Vec<Value>) = partition(merged, &order, key)?;
        original.insert(list.to_owned(), Value::Array(interleave(ordered, rest, &order, &server, key)?));
    }
    Ok(())
}

fn as_list(value: Value) -> Outcome<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => {
            let found = match other {
                Value::Object(_) => "map[string]interface {}",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(_) => "int64",
                _ => "%!s(<nil>)",
            };
            contradiction(format!("expected a []interface {{}}, but received a {found}"))
        }
    }
}

/// The items of the patch must follow the order that the patch sets.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Outcome<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let found = loop {
            let Some(next) = wanted.next() else { break false };
            if same_item(item, next, key)? {
                break true;
            }
        };
        if !found {
            let (patch, order) = (Value::from(patch.to_vec()), Value::from(order.to_vec()));
            let text = format!(
                "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}\n",
                go_print(&patch),
                go_print(&order)
            );
            return contradiction(text);
        }
    }
    Ok(())
}

fn same_item(left: &Value, right: &Value, key: Option<&str>) -> Outcome<bool> {
    Ok(match key {
        Some(key) => key_of(left, key)? == key_of(right, key)?,
        None => left == right,
    })
}

fn key_of<'a>(item: &'a Value, key: &str) -> Outcome<&'a Value> {
    match item {
        Value::Object(map) => match map.get(key) {
            Some(value) => Ok(value),
            None => contradiction(format!("map: {} does not contain declared merge key: {key}", go_print(item))),
        },
        other => contradiction(format!(
            "expected a map[string]interface {{}}, but received a {}",
            crate::decode::type_name(other)
        )),
    }
}

/// Merges a list whose items are merged by `key`, or as a set where they are scalars.
fn merge_list(original: Vec<Value>, patch: Vec<Value>, kind: &Kind, key: Option<&str>) -> Outcome<Vec<Value>> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let server = original.clone();
    let maps = element_is_map(&original, &patch)?;
    let (merged, order, key) = match (maps, key) {
        (false, _) => {
            let order = patch.clone();
            (distinct(original.into_iter().chain(patch)), order, None)
        }
        (true, None) => return contradiction(format!("cannot merge lists without merge key for {}", kind.name())),
        (true, Some(key)) => {
            let (kept, patch) = apply_item_directives(original, patch, key)?;
            (merge_items(kept, patch.clone(), kind, key)?, patch, Some(key))
        }
    };
    let (ordered, rest) = partition(merged, &order, key)?;
    interleave(ordered, rest, &order, &server, key)
}

fn element_is_map(original: &[Value], patch: &[Value]) -> Outcome<bool> {
    let mut kinds =
        original.iter().chain(patch).map(|item| (item.is_object(), item.is_array(), crate::decode::type_name(item)));
    let first = kinds.next().unwrap_or_default();
    if first.1 {
        return contradiction("lists of lists are not supported");
    }
    if kinds.any(|kind| kind != first) {
        let both = Value::from(vec![Value::from(original.to_vec()), Value::from(patch.to_vec())]);
        return contradiction(format!("list element types are not identical: {}", go_print(&both)));
    }
    Ok(first.0)
}

fn distinct(items: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

/// `$patch` on items: `delete` takes one out, `replace` empties the list first. What is left of
/// the patch has no directive.
fn apply_item_directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Outcome<(Vec<Value>, Vec<Value>)> {
    let (mut plain, mut replace) = (Vec::new(), false);
    for item in patch {
        match item.get(DIRECTIVE).cloned() {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let gone = key_of(&item, key)?;
                    original.retain(|item| item.get(key) != Some(gone));
                }
                Some("replace") => replace = true,
                Some("merge") => return contradiction("merging lists cannot yet be specified in the patch"),
                _ => {
                    return contradiction(format!(
                        "unknown patch type: {} in map: {}",
                        go_print(&directive),
                        go_print(&item)
                    ));
                }
            },
        }
    }
    if replace { Ok((plain, Vec::new())) } else { Ok((original, plain)) }
}

fn merge_items(mut original: Vec<Value>, patch: Vec<Value>, kind: &Kind, key: &str) -> Outcome<Vec<Value>> {
    for item in patch {
        let id = key_of(&item, key)?.clone();
        let Value::Object(new) = item else { continue };
        match original.iter_mut().find(|old| old.get(key) == Some(&id)) {
            Some(slot) => {
                let Value::Object(old) = slot.take() else { continue };
                *slot = Value::Object(merge_map(old, new, kind)?);
            }
            None => {
                let mut new = Value::Object(new);
                drop_nulls(&mut new);
                original.extend(without_directives(new));
            }
        }
    }
    Ok(original)
}

/// Splits into what `list` names and the rest.
fn partition(items: Vec<Value>, list: &[Value], key: Option<&str>) -> Outcome<(Vec<Value>, Vec<Value>)> {
    let (mut named, mut rest) = (Vec::new(), Vec::new());
    for item in items {
        if let Some(key) = key {
            key_of(&item, key)?;
        }
        if position(list, &item, key).is_some() { named.push(item) } else { rest.push(item) }
    }
    Ok((named, rest))
}

fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    match key {
        Some(key) => list.iter().position(|other| other.get(key).is_some() && other.get(key) == item.get(key)),
        None => list.iter().position(|other| other == item),
    }
}

/// Puts the patch's items (sorted by `order`) and the server's own (sorted as they were) into one
/// list. A server item goes first only where it stood before the next item of the patch.
fn interleave(
    mut patch: Vec<Value>,
    mut rest: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: Option<&str>,
) -> Outcome<Vec<Value>> {
    patch.sort_by_key(|item| position(order, item, key).unwrap_or(usize::MAX));
    rest.sort_by_key(|item| position(server, item, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patch.len() + rest.len());
    let (mut patch, mut rest) = (patch.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), patch.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(left), Some(right)) => match (position(server, left, key), position(server, right, key)) {
                (Some(left), Some(right)) => left < right,
                _ => false,
            },
        };
        out.extend(if rest_first { rest.next() } else { patch.next() });
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without directives; `None` if it was nothing but one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let plain = map
                .into_iter()
                .filter(|(key, _)| key != RETAIN_KEYS && !key.starts_with(DELETE_FROM) && !key.starts_with(ORDER));
            Some(Value::Object(plain.filter_map(|(key, value)| Some((key, without_directives(value)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn apply(name: &str, original: &Value, patch: &Value) -> Result<Value, String> {
        let schema = schema::get(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
        strategic_merge(original, patch, schema).map_err(|e| e.to_string())
    }

    #[test]
    fn pod_specs_merge_as_upstream_merges_them() {
        let spec = json!({
            "containers": [
                {"name": "a", "image": "i/a:1", "env": [{"name": "E1", "value": "1"}, {"name": "E2", "value": "2"}],
                 "ports": [{"containerPort": 80}, {"containerPort": 90}], "args": ["x", "y"]},
                {"name": "b", "image": "i/b:1"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k1"}], "nodeSelector": {"a": "b", "c": "d"}});
        for (what, patch, pointer, expect) in [
            (
                "one image",
                json!({"containers": [{"name": "a", "image": "i/a:2"}]}),
                "/containers/0/image",
                json!("i/a:2"),
            ),
            ("others stay", json!({"containers": [{"name": "b", "image": "i/b:2"}]}), "/containers/0/name", json!("a")),
            ("a new one goes first", json!({"containers": [{"name": "c"}]}), "/containers/0/name", json!("c")),
            (
                "order",
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                "/containers/0/name",
                json!("b"),
            ),
            (
                "delete",
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                "/containers",
                json!([{"name": "b", "image": "i/b:1"}]),
            ),
            (
                "env merges",
                json!({"containers": [{"name": "a", "env": [{"name": "E2", "value": "two"}, {"name": "E3", "value": "3"}]}]}),
                "/containers/0/env",
                json!([{"name": "E1", "value": "1"}, {"name": "E2", "value": "two"}, {"name": "E3", "value": "3"}]),
            ),
            (
                "null in an item",
                json!({"containers": [{"name": "a", "env": [{"name": "E1", "value": null, "valueFrom": {}}]}]}),
                "/containers/0/env/0",
                json!({"name": "E1", "valueFrom": {}}),
            ),
            (
                "env replaced",
                json!({"containers": [{"name": "a", "env": [{"$patch": "replace"}, {"name": "O"}]}]}),
                "/containers/0/env",
                json!([{"name": "O"}]),
            ),
            (
                "keys that are numbers",
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 90, "$patch": "delete"}]}]}),
                "/containers/0/ports",
                json!([{"containerPort": 80}]),
            ),
            (
                "atomic lists",
                json!({"containers": [{"name": "a", "args": ["z"]}], "tolerations": [{"key": "k2"}]}),
                "/tolerations",
                json!([{"key": "k2"}]),
            ),
            (
                "retainKeys",
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
                "/volumes",
                json!([{"name": "v", "configMap": {"name": "c"}}]),
            ),
            ("maps", json!({"nodeSelector": {"a": null, "e": "f"}}), "/nodeSelector", json!({"c": "d", "e": "f"})),
            (
                "map replaced",
                json!({"nodeSelector": {"$patch": "replace", "e": "f"}}),
                "/nodeSelector",
                json!({"e": "f"}),
            ),
            ("list removed", json!({"volumes": null}), "/volumes", Value::Null),
            (
                "list added with directives",
                json!({"imagePullSecrets": [{"name": "s"}, {"name": "t", "$patch": "delete"}]}),
                "/imagePullSecrets",
                json!([{"name": "s"}]),
            ),
            (
                "added and ordered",
                json!({"$setElementOrder/volumes": [{"name": "w"}, {"name": "v"}], "volumes": [{"name": "w"}]}),
                "/volumes",
                json!([{"name": "w"}, {"name": "v", "emptyDir": {}}]),
            ),
        ] {
            let result = apply("io.k8s.api.core.v1.PodSpec", &spec, &patch).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(result.pointer(pointer).cloned().unwrap_or_default(), expect, "{what}");
        }
        for (patch, expect) in [
            (
                json!({"containers": [{"image": "i/a:3"}]}),
                "map: map[image:i/a:3] does not contain declared merge key: name",
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "frob"}]}),
                "unknown patch type: frob in map: map[$patch:frob name:a]",
            ),
            (
                json!({"containers": [{"name": "d", "image": "i/d"}], "$setElementOrder/containers": [{"name": "a"}]}),
                "The order in patch list:\n[map[image:i/d name:d]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
            ),
            (
                json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "secret": {}}]}),
                "invalid patch format of retainKeys",
            ),
            (json!({"$setElementOrder/containers": "a"}), "expected a []interface {}, but received a string"),
            (json!({"$setElementOrder": []}), "invalid patch format of setElementOrder list"),
        ] {
            assert_eq!(apply("io.k8s.api.core.v1.PodSpec", &spec, &patch), Err(expect.to_owned()));
        }
    }

    #[test]
    fn sets_of_scalars_merge() {
        let meta = json!({"finalizers": ["x/a", "x/b"]});
        for (patch, expect) in [
            (json!({"finalizers": ["x/c"]}), json!(["x/c", "x/a", "x/b"])),
            (json!({"$deleteFromPrimitiveList/finalizers": ["x/a"]}), json!(["x/b"])),
            (json!({"$setElementOrder/finalizers": ["x/b", "x/a"]}), json!(["x/b", "x/a"])),
            (
                json!({"$setElementOrder/finalizers": ["x/c", "x/b"], "finalizers": ["x/c"]}),
                json!(["x/c", "x/a", "x/b"]),
            ),
        ] {
            let result = apply("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &meta, &patch).expect("applies");
            assert_eq!(result["finalizers"], expect, "{patch}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(json!("a")),
            Just(json!(1)),
            Just(json!("delete")),
            Just(json!("replace"))
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let keys = prop_oneof![
                Just("name"),
                Just("spec"),
                Just("containers"),
                Just("env"),
                Just("$patch"),
                Just("$retainKeys"),
                Just("volumes"),
                Just("$setElementOrder/containers"),
                Just("$setElementOrder/volumes"),
                Just("$deleteFromPrimitiveList/finalizers")
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((keys, inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_patch_is_answered(patch in any_value(), spec in any_value()) {
            let _ = apply("io.k8s.api.core.v1.Pod", &json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}}), &json!({"spec": patch}));
            let _ = apply("io.k8s.api.core.v1.Pod", &json!({"spec": spec}), &json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}));
        }
    }
}
