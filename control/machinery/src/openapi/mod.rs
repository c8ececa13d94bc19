//! OpenAPI documents for clients: `kubectl explain`, `apply` and `create --validate` read them.
//!
//! Everything is derived from the rows and the schema registry; nothing is written by hand per kind.
//! Documents belong to a table of rows: another table has others.

mod definitions;
mod operations;
mod render;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::{
    definitions::Flavor,
    operations::{PathItem, paths_of},
};
use crate::ResourceDef;

/// The documents of one table.
pub struct Documents {
    /// Version 3, by name.
    v3: BTreeMap<String, Document>,
    rows: Vec<Arc<ResourceDef>>,
    v2: OnceLock<Bytes>,
    v3_index: OnceLock<Bytes>,
}

struct Document {
    text: Bytes,
    hash: String,
}

/// `api/v1` or `apis/<group>/<version>`: how the index names a document.
#[must_use]
pub fn document_name(def: &ResourceDef) -> String {
    if def.group.is_empty() { format!("api/{}", def.version) } else { format!("apis/{}/{}", def.group, def.version) }
}

impl Documents {
    /// Builds the documents of `rows`.
    #[must_use]
    pub fn new(rows: &[Arc<ResourceDef>]) -> Self {
        let names: BTreeSet<String> = rows.iter().map(|def| document_name(def)).collect();
        let build = |name: String| {
            let text = build_v3(rows, &name).to_string();
            let hash = hash(&text);
            (name, Document { text: text.into(), hash })
        };
        Self {
            v3: names.into_iter().map(build).collect(),
            rows: rows.to_vec(),
            v2: OnceLock::new(),
            v3_index: OnceLock::new(),
        }
    }

    /// The version 3 document called `name` in the index, as JSON text.
    #[must_use]
    pub fn v3(&self, name: &str) -> Option<Bytes> {
        self.v3.get(name).map(|document| document.text.clone())
    }

    /// The index of version 3 documents, as JSON text: each with the hash of its text in its URL.
    #[must_use]
    pub fn v3_index(&self) -> Bytes {
        let url = |name: &str, hash: &str| json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")});
        let build = || {
            let paths: Map<String, Value> =
                self.v3.iter().map(|(name, document)| (name.clone(), url(name, &document.hash))).collect();
            json!({"paths": paths}).to_string().into()
        };
        self.v3_index.get_or_init(build).clone()
    }

    /// The version 2 document (`/openapi/v2`) as JSON text. `version` is that of the server, which stays the same.
    #[must_use]
    pub fn v2(&self, version: &str) -> Bytes {
        self.v2.get_or_init(|| build_v2(&self.rows, version).to_string().into()).clone()
    }
}

fn build_v2(rows: &[Arc<ResourceDef>], version: &str) -> Value {
    let items: Vec<PathItem> = rows.iter().flat_map(|def| paths_of(def)).collect();
    let definitions = definitions::closure(rows, definitions::roots(&items), Flavor::V2);
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

fn build_v3(rows: &[Arc<ResourceDef>], name: &str) -> Value {
    let items: Vec<PathItem> =
        rows.iter().filter(|def| document_name(def) == name).flat_map(|def| paths_of(def)).collect();
    let schemas = definitions::closure(rows, definitions::roots(&items), Flavor::V3);
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
