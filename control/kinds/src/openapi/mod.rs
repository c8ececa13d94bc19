//! OpenAPI documents for clients: `kubectl explain`, `apply` and `create --validate` read them.
//!
//! Everything is derived from the rows and the schema registry; nothing is written by hand per kind.
//! Documents are built on first use and kept, because their hashes are part of the index.

mod definitions;
mod operations;
mod render;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::OnceLock,
};

use serde_json::{Map, Value, json};

use self::{
    definitions::Flavor,
    operations::{PathItem, paths_of},
};
use crate::ResourceDef;

struct Document {
    text: String,
    hash: String,
}

/// `api/v1` or `apis/<group>/<version>`: how the index names a document.
#[must_use]
pub fn document_name(def: &ResourceDef) -> String {
    if def.group.is_empty() { format!("api/{}", def.version) } else { format!("apis/{}/{}", def.group, def.version) }
}

/// The version 3 document called `name` in the index, as JSON text.
#[must_use]
pub fn v3_text(name: &str) -> Option<&'static str> {
    documents().get(name).map(|document| document.text.as_str())
}

/// The hash of that document: the `hash` parameter of its URL.
#[must_use]
pub fn v3_hash(name: &str) -> Option<&'static str> {
    documents().get(name).map(|document| document.hash.as_str())
}

/// The version 3 document called `name`.
#[must_use]
pub fn v3(name: &str) -> Option<Value> {
    let defs: Vec<&'static ResourceDef> =
        crate::resources().iter().copied().filter(|def| document_name(def) == name).collect();
    (!defs.is_empty()).then(|| build_v3(&defs))
}

/// The index of version 3 documents.
#[must_use]
pub fn v3_index() -> Value {
    let paths: Map<String, Value> = documents()
        .iter()
        .map(|(name, document)| {
            (name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={}", document.hash)}))
        })
        .collect();
    json!({"paths": paths})
}

/// The version 2 document (`/openapi/v2`) as JSON text, with its hash for the ETag.
/// `version` is that of the server.
#[must_use]
pub fn v2(version: &str) -> Value {
    let items: Vec<PathItem> = crate::resources().iter().flat_map(|def| paths_of(def)).collect();
    let definitions = definitions::closure(definitions::roots(&items), Flavor::V2);
    let paths: Map<String, Value> = items.iter().map(|item| (item.path.clone(), render::path_v2(item))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// A hash of a document's text, for ETags.
#[must_use]
pub fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    format!("{:016X}", hasher.finish())
}

fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let names: BTreeSet<String> = crate::resources().iter().map(|def| document_name(def)).collect();
        let build = |name: String| {
            let text = v3(&name)?.to_string();
            let hash = hash(&text);
            Some((name, Document { text, hash }))
        };
        names.into_iter().filter_map(build).collect()
    })
}

fn build_v3(defs: &[&'static ResourceDef]) -> Value {
    let items: Vec<PathItem> = defs.iter().flat_map(|def| paths_of(def)).collect();
    let schemas = definitions::closure(definitions::roots(&items), Flavor::V3);
    let paths: Map<String, Value> = items.iter().map(|item| (item.path.clone(), render::path_v3(item))).collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        },
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in `value`.
    fn refs<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    out.push(target);
                }
                map.values().for_each(|value| refs(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| refs(value, out)),
            _ => {}
        }
    }

    #[test]
    fn no_reference_dangles() {
        let mut documents: Vec<Value> = documents().keys().filter_map(|name| v3(name)).collect();
        documents.push(v2("v1.37.0"));
        for document in &documents {
            let mut found = Vec::new();
            refs(document, &mut found);
            for target in found {
                assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
        }
    }

    #[test]
    fn every_row_can_be_explained_and_patched() {
        for def in crate::resources() {
            let document = v3(&document_name(def)).expect("a row has a document");
            let gvk = json!({"group": def.group, "version": def.version, "kind": def.kind});
            let schema = &document["components"]["schemas"][def.schema];
            let known = schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|list| list.contains(&gvk));
            assert!(known && schema["properties"].is_object(), "{}", def.kind);
            let scope = if def.namespaced() { "/namespaces/{namespace}" } else { "" };
            let path = format!("/{}{scope}/{}", document_name(def), def.plural);
            if def.verbs.contains(&"list") {
                let list = &document["paths"][&path]["get"];
                assert_eq!(
                    (&list["x-kubernetes-group-version-kind"], &list["x-kubernetes-action"]),
                    (&gvk, &json!("list")),
                    "{path}"
                );
            }
            if def.verbs.contains(&"patch") {
                let patch = &document["paths"][format!("{path}/{{name}}")]["patch"];
                assert!(
                    patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object(),
                    "{path}"
                );
                let named = |name: &str| {
                    patch["parameters"].as_array().is_some_and(|list| list.iter().any(|p| p["name"] == name))
                };
                assert!(named("fieldValidation") && named("dryRun"), "{path}");
            }
        }
    }

    #[test]
    fn merge_keys_are_published() {
        let Some(document) = v3("apis/apps/v1") else { return };
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    }

    #[test]
    fn the_index_names_every_document() {
        for (name, entry) in v3_index()["paths"].as_object().expect("an object") {
            let hash = v3_hash(name).expect("a document");
            assert_eq!(entry["serverRelativeURL"], format!("/openapi/v3/{name}?hash={hash}"));
        }
    }
}
