//! Types as OpenAPI prints them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{custom, operations::PathItem, server};
use crate::{
    ResourceDef,
    schema::Presence,
    schema::registry::{self, Descriptions, FieldData, TypeData},
};

pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// The body of a patch: anything.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

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
    let package = def.schema.name().strip_suffix(def.schema.short_name()).unwrap_or_default();
    match def.schema.structural() {
        Some(_) => format!("{package}{}", def.list_kind),
        None => format!("{}List", def.schema.name()),
    }
}

/// The definitions that operations name.
pub(super) fn roots(items: &[PathItem]) -> BTreeSet<String> {
    let operations = items.iter().flat_map(|item| &item.operations);
    operations.flat_map(|op| [op.body.clone(), op.response.clone()]).flatten().collect()
}

/// All definitions that can be reached from `names`.
pub(super) fn closure(rows: &[Arc<ResourceDef>], names: BTreeSet<String>, flavor: Flavor) -> Map<String, Value> {
    let (kinds, descriptions) = (kinds(rows), Descriptions::read());
    let mut waiting: Vec<String> = names.into_iter().collect();
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    while let Some(name) = waiting.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let mut writer = Writer { flavor, descriptions: &descriptions, references: &mut waiting };
        let Some(mut definition) = writer.definition(rows, &name) else { continue };
        if let Some(gvks) = kinds.get(&name) {
            definition["x-kubernetes-group-version-kind"] = json!(gvks);
        }
        done.insert(name, definition);
    }
    done.into_iter().collect()
}

/// A definition in version 3, without descriptions.
pub(super) fn bare(rows: &[Arc<ResourceDef>], name: &str) -> Option<Value> {
    let (descriptions, mut references) = (Descriptions::none(), Vec::new());
    let mut writer = Writer { flavor: Flavor::V3, descriptions: &descriptions, references: &mut references };
    writer.definition(rows, name)
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
    add(super::operations::STATUS.to_owned(), json!({"group": "", "version": "v1", "kind": "Status"}));
    for kind in server::KINDS {
        add(server::definition(kind), json!({"group": "", "version": "v1", "kind": kind}));
    }
    for def in rows {
        let gvk = |kind: String| json!({"group": def.group, "version": def.version, "kind": kind});
        add(def.schema.name().to_owned(), gvk(def.kind.to_string()));
        add(list_name(def), gvk(def.list_kind.to_string()));
        add(super::operations::DELETE_OPTIONS.to_owned(), gvk("DeleteOptions".to_owned()));
        for sub in &def.subresources {
            if let Some(schema) = sub.handler.schema() {
                add(schema.name().to_owned(), json!({"group": sub.group, "version": sub.version, "kind": sub.kind}));
            }
        }
    }
    out
}

/// Writes definitions in a dialect.
struct Writer<'a> {
    flavor: Flavor,
    descriptions: &'a Descriptions,
    /// Names of the types that were met.
    references: &'a mut Vec<String>,
}

impl Writer<'_> {
    /// A type of the registry, or a list.
    fn definition(&mut self, rows: &[Arc<ResourceDef>], name: &str) -> Option<Value> {
        if let Some(data) = registry::data(name) {
            return Some(self.of_type(&data, &self.descriptions.of(name)));
        }
        let custom = rows.iter().find(|def| def.schema.structural().is_some() && def.schema.name() == name);
        if let Some(structural) = custom.and_then(|def| def.schema.structural()) {
            return Some(self.custom(structural.source()));
        }
        rows.iter().find(|def| list_name(def) == name).map(|def| self.list(def))
    }

    /// The type of a kind that came at run time, with what every object has.
    fn custom(&mut self, schema: Value) -> Value {
        let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
        let mut out = custom::definition(schema, self.flavor);
        if preserves && self.flavor == Flavor::V2 {
            return json!({"type": "object"});
        }
        let inherited = self.descriptions.of("io.k8s.api.core.v1.ConfigMap");
        for (name, word) in [("apiVersion", "string"), ("kind", "string"), ("metadata", OBJECT_META)] {
            let said = inherited.get(name).map(String::as_str);
            out["properties"][name] = self.described(word, said);
        }
        out
    }

    fn of_type(&mut self, data: &TypeData<'_>, descriptions: &HashMap<String, String>) -> Value {
        let describe = |name: &str| descriptions.get(name).map(String::as_str);
        let mut out = self.described(data.word.unwrap_or("object"), describe(""));
        insert(&mut out, "x-kubernetes-map-type", data.map_type);
        let fields: Map<String, Value> =
            data.fields.iter().map(|(name, field)| ((*name).to_owned(), self.field(field, describe(name)))).collect();
        if !fields.is_empty() {
            out["properties"] = fields.into();
        }
        // What has a default may be left out.
        let required = data.fields.iter().filter(|(_, data)| data.required && data.default.is_none());
        let required: Vec<&str> = required.map(|(name, _)| *name).collect();
        if !required.is_empty() {
            out["required"] = json!(required);
        }
        out
    }

    fn list(&mut self, def: &ResourceDef) -> Value {
        let described =
            if def.schema.structural().is_some() { "io.k8s.api.core.v1.ConfigMap" } else { def.schema.name() };
        let inherited = self.descriptions.of(described);
        let inherited = |field: &str| inherited.get(field).map(String::as_str);
        let mut metadata = self.described(LIST_META, Some("Standard list metadata."));
        if self.flavor == Flavor::V3 {
            metadata["default"] = json!({});
        }
        json!({
            "description": format!("{0}List is a list of {0} objects.", def.kind),
            "type": "object",
            "properties": {
                "apiVersion": self.described("string", inherited("apiVersion")),
                "items": self.described(
                    &format!("[]{}", def.schema.name()), Some(&format!("Items is the list of {} objects.", def.kind))),
                "kind": self.described("string", inherited("kind")),
                "metadata": metadata,
            },
            "required": ["items"],
        })
    }

    /// With the rules by which it merges.
    fn field(&mut self, data: &FieldData<'_>, description: Option<&str>) -> Value {
        let mut out = self.described(data.word, description);
        if self.flavor == Flavor::V3 {
            let zero = || (data.presence == Presence::Always).then(|| zero(data.word)).flatten();
            if let Some(default) = data.default.clone().or_else(zero) {
                out["default"] = default;
            }
        }
        insert(&mut out, "x-kubernetes-list-type", data.list_type);
        insert(&mut out, "x-kubernetes-map-type", data.map_type);
        insert(&mut out, "x-kubernetes-patch-strategy", data.patch_strategy);
        insert(&mut out, "x-kubernetes-patch-merge-key", data.patch_merge_key);
        if !data.list_map_keys.is_empty() {
            out["x-kubernetes-list-map-keys"] = json!(data.list_map_keys);
        }
        out
    }

    fn described(&mut self, word: &str, description: Option<&str>) -> Value {
        let mut out = self.form(word);
        insert(&mut out, "description", description);
        out
    }

    /// What lists and maps hold. Version 2 has no defaults, as upstream prunes them there.
    fn item(&mut self, word: &str) -> Value {
        let mut out = self.form(word);
        if let Some(default) = zero(word).filter(|_| self.flavor == Flavor::V3) {
            out["default"] = default;
        }
        out
    }

    /// A type in one word. Beside a reference, version 3 wants `allOf`.
    fn form(&mut self, word: &str) -> Value {
        if let Some(item) = word.strip_prefix("[]") {
            return json!({"type": "array", "items": self.item(item)});
        }
        if let Some(item) = word.strip_prefix("map[string]") {
            return json!({"type": "object", "additionalProperties": self.item(item)});
        }
        match (word, self.flavor) {
            ("any", _) => json!({}),
            ("object" | "string", _) => json!({"type": word}),
            ("bool", _) => json!({"type": "boolean"}),
            ("int32" | "int64", _) => json!({"type": "integer", "format": word}),
            ("double", _) => json!({"type": "number", "format": word}),
            ("bytes", _) => json!({"type": "string", "format": "byte"}),
            ("time" | "micro-time", _) => json!({"type": "string", "format": "date-time"}),
            ("quantity", Flavor::V2) => json!({"type": "string"}),
            ("quantity", Flavor::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ("int-or-string", Flavor::V2) => json!({"type": "string", "format": word}),
            ("int-or-string", Flavor::V3) => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": word})
            }
            (name, flavor) => {
                self.references.push(name.to_owned());
                match flavor {
                    Flavor::V2 => reference(name, flavor),
                    Flavor::V3 => json!({"allOf": [reference(name, flavor)]}),
                }
            }
        }
    }
}

/// What Go makes of an absent value that is neither a pointer nor a list, nor reads itself.
fn zero(word: &str) -> Option<Value> {
    match word {
        "bool" => Some(false.into()),
        "int32" | "int64" | "double" => Some(0.into()),
        "string" => Some("".into()),
        name => registry::data(name).filter(|data| data.word.is_none()).map(|_| json!({})),
    }
}

fn insert(schema: &mut Value, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        schema[key] = value.into();
    }
}
