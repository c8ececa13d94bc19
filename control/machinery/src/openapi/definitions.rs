//! Schemas as OpenAPI prints them: k8s-openapi's, with refs, merge rules and kinds filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::operations::PathItem;
use crate::{ResourceDef, schema::registry as facts};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// The body of a patch: anything.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const SOURCE_REF: &str = "#/definitions/";

/// The two dialects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    V2,
    V3,
}

impl Flavor {
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// A reference to a definition.
pub(super) fn reference(name: &str, flavor: Flavor) -> Value {
    json!({"$ref": format!("{}{name}", flavor.prefix())})
}

/// Name of the list type of a kind.
pub(super) fn list_name(def: &ResourceDef) -> String {
    format!("{}List", def.schema.name())
}

/// The definitions that operations name.
pub(super) fn roots(items: &[PathItem]) -> BTreeSet<String> {
    let operations = items.iter().flat_map(|item| &item.operations);
    operations.flat_map(|op| [op.body.clone(), op.response.clone()]).flatten().collect()
}

/// All definitions that can be reached from `names`.
pub(super) fn closure(rows: &[Arc<ResourceDef>], names: BTreeSet<String>, flavor: Flavor) -> Map<String, Value> {
    let kinds = kinds(rows);
    let mut waiting: Vec<String> = names.into_iter().collect();
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    while let Some(name) = waiting.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let Some(mut source) = source(rows, &name) else { continue };
        collect_refs(&source, &mut waiting);
        annotate(&name, &mut source);
        relax(&mut source);
        render(&mut source, flavor);
        special(&name, &mut source, flavor);
        if let Some(gvks) = kinds.get(&name) {
            source["x-kubernetes-group-version-kind"] = json!(gvks);
        }
        done.insert(name, source);
    }
    done.into_iter().collect()
}

/// Which kinds a definition stands for.
fn kinds(rows: &[Arc<ResourceDef>]) -> BTreeMap<String, Vec<Value>> {
    let mut out: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut add = |name: String, gvk: Value| {
        let list = out.entry(name).or_default();
        if !list.contains(&gvk) {
            list.push(gvk);
        }
    };
    for def in rows {
        let gvk = |kind: String| json!({"group": def.group, "version": def.version, "kind": kind});
        add(def.schema.name().to_owned(), gvk(def.kind.to_string()));
        add(list_name(def), gvk(format!("{}List", def.kind)));
        add(super::operations::DELETE_OPTIONS.to_owned(), gvk("DeleteOptions".to_owned()));
        for sub in &def.subresources {
            if let Some(schema) = sub.handler.schema() {
                add(schema.name().to_owned(), json!({"group": sub.group, "version": sub.version, "kind": sub.kind}));
            }
        }
    }
    out
}

/// The plain schema of a name: from the registry, or a list, or the patch body.
fn source(rows: &[Arc<ResourceDef>], name: &str) -> Option<Value> {
    if let Some(found) = facts::definitions().get(name) {
        return Some(found.clone());
    }
    if name == PATCH {
        let description = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
        return Some(json!({"description": description, "type": "object"}));
    }
    let def = rows.iter().find(|def| list_name(def) == name)?;
    let inherited = |field: &str| facts::definitions()[def.schema.name()]["properties"][field].clone();
    Some(json!({
        "description": format!("{0}List is a list of {0} objects.", def.kind),
        "type": "object",
        "properties": {
            "apiVersion": inherited("apiVersion"),
            "items": {"description": format!("Items is the list of {} objects.", def.kind), "type": "array",
                      "items": {"$ref": format!("{SOURCE_REF}{}", def.schema.name())}},
            "kind": inherited("kind"),
            "metadata": {"$ref": format!("{SOURCE_REF}{OBJECT_META}"), "description": "Standard list metadata."},
        },
        "required": ["items"],
    }))
}

fn collect_refs(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix(SOURCE_REF)) {
                out.push(name.to_owned());
            }
            map.values().for_each(|value| collect_refs(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_refs(value, out)),
        _ => {}
    }
}

/// Adds the merge rules of a type and its fields.
fn annotate(name: &str, schema: &mut Value) {
    for (field, rules) in facts::merge_facts(name).into_iter().flatten() {
        let target = if field == "(itself)" { Some(&mut *schema) } else { schema["properties"].get_mut(field) };
        let Some(Value::Object(target)) = target else { continue };
        for (rule, extension) in [
            ("patchMergeKey", "x-kubernetes-patch-merge-key"),
            ("patchStrategy", "x-kubernetes-patch-strategy"),
            ("listType", "x-kubernetes-list-type"),
            ("listMapKeys", "x-kubernetes-list-map-keys"),
            ("mapType", "x-kubernetes-map-type"),
        ] {
            if let Some(value) = rules.get(rule) {
                target.insert(extension.to_owned(), value.clone());
            }
        }
    }
}

/// k8s-openapi's objects cannot be without metadata; upstream's schemas do not ask for them.
fn relax(schema: &mut Value) {
    if schema["properties"].get("apiVersion").is_none() {
        return;
    }
    let Value::Object(map) = schema else { return };
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            map.remove("required");
        }
    }
}

/// Turns refs into the dialect's form. Beside a ref, version 3 wants `allOf`.
fn render(value: &mut Value, flavor: Flavor) {
    match value {
        Value::Object(map) => {
            map.remove("$schema");
            map.values_mut().for_each(|value| render(value, flavor));
            let Some(Value::String(path)) = map.get("$ref") else { return };
            let Some(name) = path.strip_prefix(SOURCE_REF) else { return };
            let target = reference(name, flavor);
            match flavor {
                Flavor::V2 => {
                    map.extend(target.as_object().cloned().unwrap_or_default());
                }
                Flavor::V3 => {
                    map.remove("$ref");
                    map.insert("allOf".to_owned(), json!([target]));
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|value| render(value, flavor)),
        _ => {}
    }
}

/// Types that JSON schema cannot say in one word.
fn special(name: &str, schema: &mut Value, flavor: Flavor) {
    let (types, format) = match name.rsplit('.').next() {
        Some("Quantity") => (["string", "number"], None),
        Some("IntOrString") => (["integer", "string"], Some("int-or-string")),
        _ => return,
    };
    let Value::Object(map) = schema else { return };
    map.remove("x-kubernetes-int-or-string");
    if let Some(format) = format {
        map.insert("format".to_owned(), format.into());
    }
    match flavor {
        Flavor::V2 => map.insert("type".to_owned(), "string".into()),
        Flavor::V3 => map.insert("oneOf".to_owned(), types.iter().map(|name| json!({"type": name})).collect()),
    };
}
