//! What Go's JSON encoder prints, how lists and maps merge, and the numbers of fields, from upstream's Go source.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    Lines,
    go::{Field, Shape, Source},
};

/// Adds the facts about `name` to its line.
pub fn join(source: &mut Source, name: &str, line: &mut Value) {
    let Some((fields, markers)) = source.get(name) else { panic!("{name} is not in upstream's source") };
    if let Some((_, atomic)) = markers.iter().find(|(marker, _)| marker == "structType") {
        line["mapType"] = atomic.as_str().into();
    }
    join_fields(source, name, fields, line);
}

fn join_fields(source: &mut Source, owner: &str, fields: Vec<Field>, line: &mut Value) {
    for field in fields {
        if field.json.is_empty() {
            if let Some(embedded) = embedded(source, owner, &field) {
                let (fields, _) = source.get(&embedded).unwrap_or_default();
                join_fields(source, &embedded, fields, line);
            }
            continue;
        }
        // Fields behind a gate of the build, and those that are gone (`selfLink`).
        let Some(target) = line["fields"].get_mut(&field.json) else { continue };
        if let Some(presence) = presence(source, owner, &field) {
            target["presence"] = presence.into();
        }
        for tag in ["patchMergeKey", "patchStrategy"] {
            if let Some(value) = field.tags.get(tag) {
                target[tag] = value.as_str().into();
            }
        }
        for (marker, value) in &field.markers {
            match marker.as_str() {
                "listType" | "mapType" => target[marker] = value.as_str().into(),
                "structType" => target["mapType"] = value.as_str().into(),
                "listMapKey" => add_key(target, value),
                // Some name a constant, which says nothing here.
                "default" => drop(serde_json::from_str(value).map(|value: Value| target["default"] = value)),
                _ => {}
            }
        }
    }
}

fn add_key(target: &mut Value, key: &str) {
    match &mut target["listMapKeys"] {
        Value::Array(keys) if keys.iter().any(|known| known == key) => {}
        Value::Array(keys) => keys.push(key.into()),
        none => *none = json!([key]),
    }
}

/// Says of a field that is a key of a list what it is when it is not there, where the source has a default for it.
pub fn default_keys(source: &mut Source, types: &mut Lines) {
    let fields = types.values().filter_map(|line| line["fields"].as_object()).flat_map(|fields| fields.values());
    let keyed = fields.filter_map(|field| Some((field["type"].as_str()?.strip_prefix("[]")?, &field["listMapKeys"])));
    let keys: Vec<(String, String)> = keyed
        .flat_map(|(item, keys)| keys.as_array().into_iter().flatten().map(move |key| (item, key.as_str())))
        .filter_map(|(item, key)| Some((item.to_owned(), key?.to_owned())))
        .collect();
    for (item, key) in keys {
        let (fields, _) = source.get(&item).unwrap_or_default();
        let markers = fields.into_iter().filter(|field| field.json == key).flat_map(|field| field.markers);
        if let Some((_, value)) = markers.into_iter().find(|(marker, value)| marker == "default" && !value.is_empty())
            && let Some(line) = types.get_mut(&item)
        {
            line["fields"][&key]["default"] = value.into();
        }
    }
}

/// The struct whose fields stand in the JSON of `owner`. That of `kind` and `apiVersion` says nothing.
fn embedded(source: &mut Source, owner: &str, field: &Field) -> Option<String> {
    let ty = field.ty.trim_start_matches('*');
    match source.shape(owner, ty) {
        Shape::Struct(name) if !name.ends_with(".TypeMeta") => Some(name),
        _ => None,
    }
}

/// When a field is printed: `always`, `null` (always, as null if need be), or `zero` (unless it is zero). Otherwise
/// when it is set. Go never leaves out a struct as empty; `omitzero` does.
fn presence(source: &mut Source, owner: &str, field: &Field) -> Option<&'static str> {
    let option = |name: &str| field.options.iter().any(|option| option == name);
    let shape = source.shape(owner, &field.ty);
    match (option("omitempty"), option("omitzero"), shape) {
        (false, false, Shape::Pointer) => Some("null"),
        (false, false, _) => Some("always"),
        (_, _, Shape::Scalar) => Some("zero"),
        (true, false, Shape::Struct(_)) => Some("always"),
        _ => None,
    }
}

/// Field numbers per message.
pub type Numbers = BTreeMap<String, Vec<(u64, String)>>;

/// Adds the numbers of `name`'s fields and of what it embeds: `+Type` is a message whose fields stand in its parent's
/// JSON.
pub fn number(source: &mut Source, name: &str, out: &mut Numbers) {
    let Some((fields, _)) = source.get(name) else { return };
    let (bare, mut table) = (fields.is_empty(), Vec::new());
    for field in fields {
        let Some(number) = field.number else { continue };
        if !field.json.is_empty() {
            table.push((number, field.json));
        } else if let Some(embedded) = embedded(source, name, &field) {
            number_embedded(source, &embedded, out);
            table.push((number, format!("+{embedded}")));
        }
    }
    table.sort();
    if bare || !table.is_empty() {
        out.insert(name.to_owned(), table);
    }
}

fn number_embedded(source: &mut Source, name: &str, out: &mut Numbers) {
    if !out.contains_key(name) {
        number(source, name, out);
    }
}
