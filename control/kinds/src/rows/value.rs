//! Reading JSON objects as upstream reads its structs: what is absent has the zero value.

use serde_json::{Map, Value};

/// Stands in for anything absent.
pub static NULL: Value = Value::Null;

/// The value of a field; null where absent.
pub fn get<'a>(v: &'a Value, key: &str) -> &'a Value {
    v.get(key).unwrap_or(&NULL)
}

/// The value at the end of a chain of fields; null where absent.
pub fn at<'a>(v: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(v, |v, key| get(v, key))
}

/// A field that is present and not null: upstream's non-nil pointer.
pub fn some<'a>(v: &'a Value, key: &str) -> Option<&'a Value> {
    v.get(key).filter(|v| !v.is_null())
}

/// Whether a field is present and not null.
pub fn has(v: &Value, key: &str) -> bool {
    some(v, key).is_some()
}

/// A text; empty where absent.
pub fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or("")
}

/// A number, if present.
pub fn int(v: &Value, key: &str) -> Option<i64> {
    v.get(key).and_then(Value::as_i64)
}

/// A number; 0 where absent.
pub fn num(v: &Value, key: &str) -> i64 {
    int(v, key).unwrap_or(0)
}

/// A flag, if present.
pub fn flag(v: &Value, key: &str) -> Option<bool> {
    v.get(key).and_then(Value::as_bool)
}

/// Whether a flag is set.
pub fn on(v: &Value, key: &str) -> bool {
    flag(v, key).unwrap_or(false)
}

/// A list; empty where absent.
pub fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub fn texts<'a>(v: &'a Value, key: &str) -> Vec<&'a str> {
    list(v, key).iter().filter_map(Value::as_str).collect()
}

/// The entries of a map; none where absent.
pub fn entries<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    v.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// The entries of a map of texts.
pub fn text_entries<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    entries(v, key).map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")))
}

/// Number of entries of a map.
pub fn count(v: &Value, key: &str) -> usize {
    v.get(key).and_then(Value::as_object).map_or(0, Map::len)
}

/// An annotation, if present.
pub fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    at(obj, &["metadata", "annotations"]).get(key).and_then(Value::as_str)
}

/// The fields of an object, to change them. A value of another type becomes an object.
pub fn fields(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    match v {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// Sets a field.
pub fn set(v: &mut Value, key: &str, value: impl Into<Value>) {
    fields(v).insert(key.to_owned(), value.into());
}

/// Removes a field.
pub fn unset(v: &mut Value, key: &str) {
    if let Some(map) = v.as_object_mut() {
        map.remove(key);
    }
}

/// Sets a field that is absent, null or an empty text.
pub fn default_text(v: &mut Value, key: &str, value: &str) {
    if text(v, key).is_empty() {
        set(v, key, value);
    }
}

/// Sets a field that is absent or null.
pub fn default_to(v: &mut Value, key: &str, value: impl Into<Value>) {
    if !has(v, key) {
        set(v, key, value);
    }
}

/// The child object of a field, made where absent.
pub fn child<'a>(v: &'a mut Value, key: &str) -> &'a mut Value {
    let map = fields(v);
    let entry = map.entry(key.to_owned()).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry
}

/// A field to change, if present and not null.
pub fn some_mut<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    v.get_mut(key).filter(|v| !v.is_null())
}

/// The items of a list, to change them.
pub fn items_mut<'a>(v: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Gives `to` the field that `from` has, or none.
pub fn copy(to: &mut Value, from: &Value, key: &str) {
    match some(from, key) {
        Some(value) => set(to, key, value.clone()),
        None => unset(to, key),
    }
}

/// Sets `metadata.generation`.
pub fn set_generation(obj: &mut Value, generation: i64) {
    set(child(obj, "metadata"), "generation", generation);
}

/// `metadata.generation` of an object.
pub fn generation(obj: &Value) -> i64 {
    num(get(obj, "metadata"), "generation")
}

/// Takes over the generation of the stored object, raised by one if `changed`.
pub fn carry_generation(new: &mut Value, old: &Value, changed: bool) {
    let next = generation(old) + i64::from(changed);
    if next == 0 {
        unset(child(new, "metadata"), "generation");
    } else {
        set_generation(new, next);
    }
}

/// Takes over the generation of the stored object, raised by one if the spec changed.
pub fn spec_generation(new: &mut Value, old: &Value) {
    let changed = get(new, "spec") != get(old, "spec");
    carry_generation(new, old, changed);
}

/// Takes over the metadata that an update of a status may not change, where upstream keeps it
/// (`ResetObjectMetaForStatus`).
pub fn keep_meta(new: &mut Value, old: &Value) {
    let (meta, before) = (child(new, "metadata"), get(old, "metadata"));
    for field in ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"] {
        copy(meta, before, field);
    }
}
