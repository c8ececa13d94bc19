//! OpenAPI documents for clients: `kubectl explain`, `apply` and `create --validate` read them.
//!
//! Everything is derived from the rows and the schema registry; nothing is written by hand per kind.
//! Documents belong to a table of rows: another table has others.
//!
//! Invariants
//! - A version 3 document with kinds that came at run time is made when it is asked for, and not kept; its hash is that
//!   of what it would be made of. The others are made once.

mod custom;
mod definitions;
mod merge;
mod operations;
mod render;
mod resolve;
mod server;

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
pub use self::{
    merge::{merge, narrow},
    resolve::resolved,
};
use crate::{
    ResourceDef,
    encode::{self, EncodeError},
};

/// The documents of one table.
pub struct Documents {
    /// Version 3, by name.
    v3: BTreeMap<String, Arc<Document>>,
    rows: Vec<Arc<ResourceDef>>,
    v2: OnceLock<Arc<Document>>,
    v3_index: OnceLock<Arc<Document>>,
}

/// Makes the value of a document.
type Make = Box<dyn Fn() -> Value + Send + Sync>;

/// A document, in the forms in which it is served.
pub struct Document {
    json: OnceLock<Bytes>,
    make: Option<Make>,
    hash: String,
    protobuf: OnceLock<Result<Bytes, EncodeError>>,
}

impl Document {
    /// The document that says this.
    #[must_use]
    pub fn new(value: &Value) -> Self {
        let text = value.to_string();
        Self { hash: hash(&text), json: OnceLock::from(Bytes::from(text)), make: None, protobuf: OnceLock::new() }
    }

    /// One that is made when its text is asked for. `hash`: another one for another text.
    fn later(hash: String, make: Make) -> Self {
        Self { hash, json: OnceLock::new(), make: Some(make), protobuf: OnceLock::new() }
    }

    /// The same, to be made anew: what was made of it goes with whoever asked.
    fn anew(self: &Arc<Self>) -> Arc<Self> {
        if self.make.is_none() {
            return Arc::clone(self);
        }
        let again = Arc::clone(self);
        let make = move || again.make.as_ref().map(|make| make()).unwrap_or_default();
        Arc::new(Self::later(self.hash.clone(), Box::new(make)))
    }

    /// As JSON text.
    #[must_use]
    pub fn json(&self) -> Bytes {
        let make = || self.make.as_ref().map(|make| make().to_string()).unwrap_or_default();
        self.json.get_or_init(|| make().into()).clone()
    }

    /// A hash of the text, for ETags. It is that of all forms.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// In gnostic's protobuf, made when first asked for.
    ///
    /// # Errors
    /// It has no such form.
    pub fn protobuf(&self) -> Result<Bytes, EncodeError> {
        let make = || {
            let value: Value = serde_json::from_slice(&self.json()).map_err(|_| EncodeError::NotJson(0))?;
            encode::openapi::document(&value).map(Bytes::from)
        };
        self.protobuf.get_or_init(make).clone()
    }
}

/// `api/v1` or `apis/<group>/<version>`: how the index names a document.
#[must_use]
pub fn document_name(def: &ResourceDef) -> String {
    if def.group.is_empty() { format!("api/{}", def.version) } else { format!("apis/{}/{}", def.group, def.version) }
}

/// Version 3 documents of built-in kinds alone, which tables share that differ in others.
pub type Fixed = OnceLock<BTreeMap<String, Arc<Document>>>;

impl Documents {
    /// Builds the documents of `rows`; those of built-in kinds alone are kept in `kept`.
    #[must_use]
    pub fn new(rows: &[Arc<ResourceDef>], kept: &Fixed) -> Self {
        let fixed: Vec<_> = rows.iter().filter(|def| is_fixed(def)).cloned().collect();
        let build = |rows: &[Arc<ResourceDef>], name: String| {
            let own: Vec<_> = rows.iter().filter(|def| document_name(def) == name).cloned().collect();
            // Types that all groups share name the kinds of all, but those that come and go.
            let all: Vec<_> = fixed.iter().chain(own.iter().filter(|def| !is_fixed(def))).cloned().collect();
            (name, Arc::new(document(own, move |own| build_v3(&items(own), &all))))
        };
        let of_server = || {
            let documents = server::documents(&fixed).into_iter();
            documents.map(|(name, item)| (name, Arc::new(Document::new(&build_v3(&[item], &fixed)))))
        };
        let names = |rows: &[Arc<ResourceDef>]| rows.iter().map(|def| document_name(def)).collect::<BTreeSet<String>>();
        let mut v3 = kept
            .get_or_init(|| names(&fixed).into_iter().map(|name| build(&fixed, name)).chain(of_server()).collect())
            .clone();
        let custom: Vec<_> = rows.iter().filter(|def| !is_fixed(def)).cloned().collect();
        v3.extend(names(&custom).into_iter().map(|name| build(rows, name)));
        Self { v3, rows: rows.to_vec(), v2: OnceLock::new(), v3_index: OnceLock::new() }
    }

    /// The version 3 document called `name` in the index.
    #[must_use]
    pub fn v3(&self, name: &str) -> Option<Arc<Document>> {
        self.v3.get(name).map(Document::anew)
    }

    /// The index of version 3 documents: each with the hash of its text in its URL.
    #[must_use]
    pub fn v3_index(&self) -> Arc<Document> {
        let url = |name: &str, hash: &str| json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")});
        let build = || {
            let paths: Map<String, Value> =
                self.v3.iter().map(|(name, document)| (name.clone(), url(name, &document.hash))).collect();
            Arc::new(Document::new(&json!({"paths": paths})))
        };
        Arc::clone(self.v3_index.get_or_init(build))
    }

    /// The version 2 document (`/openapi/v2`). `version` is that of the server, which stays the same.
    #[must_use]
    pub fn v2(&self, version: &str) -> Arc<Document> {
        let version = version.to_owned();
        let make = || document(self.rows.clone(), move |rows| build_v2(rows, &version));
        Arc::clone(self.v2.get_or_init(|| Arc::new(make())))
    }
}

/// The document that `build` makes of rows: now, or later if some came at run time.
fn document(
    rows: Vec<Arc<ResourceDef>>,
    build: impl Fn(&[Arc<ResourceDef>]) -> Value + Send + Sync + 'static,
) -> Document {
    if rows.iter().all(|def| is_fixed(def)) {
        return Document::new(&build(&rows));
    }
    let what = |def: &Arc<ResourceDef>| {
        let verbs: Vec<&str> = def.verbs.iter().map(crate::Verb::as_str).collect();
        format!("{}/{}/{:?}/{};", document_name(def), def.plural, def.schema.digest(), verbs.join(","))
    };
    let hash = hash(&rows.iter().map(what).collect::<String>());
    Document::later(hash, Box::new(move || build(&rows)))
}

/// Whether a kind is there at all times.
fn is_fixed(def: &ResourceDef) -> bool {
    def.schema.digest().is_none()
}

/// The paths of these kinds, and those where the versions of their groups say what they have.
fn items(rows: &[Arc<ResourceDef>]) -> Vec<PathItem> {
    let fixed = rows.iter().filter(|def| is_fixed(def));
    let versions: BTreeMap<String, PathItem> = fixed.map(|def| (document_name(def), server::version(def))).collect();
    rows.iter().flat_map(|def| paths_of(def)).chain(versions.into_values()).collect()
}

fn build_v2(rows: &[Arc<ResourceDef>], version: &str) -> Value {
    let fixed: Vec<_> = rows.iter().filter(|def| is_fixed(def)).cloned().collect();
    let items: Vec<PathItem> = items(rows).into_iter().chain(server::documents(&fixed).into_values()).collect();
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

/// Of these paths, whose kinds are among all.
fn build_v3(items: &[PathItem], all: &[Arc<ResourceDef>]) -> Value {
    let schemas = definitions::closure(all, definitions::roots(items), Flavor::V3);
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
    })
}
