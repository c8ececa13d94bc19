//! OpenAPI documents of servers behind, beside what is served here (kube-aggregator, `pkg/controllers/openapi` and
//! `openapiv3`).
//!
//! Invariants
//! - They are read in the background, when they have changed; no request waits for a server behind, but for one of its
//!   own documents of version 3, which it answers itself.
//! - Of a document only what its server serves here is believed: the paths of its version of its group.
//! - What is merged is kept until anything of it changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::ETAG;
use http::{Response, StatusCode};
use kontiki_machinery::Table;
use kontiki_machinery::delegate::Delegate;
use kontiki_machinery::openapi::{Document, hash, merge, narrow};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::Status;

type At = (String, String);

/// What is known of a server's documents.
#[derive(Clone, Default)]
pub(crate) struct Known {
    v2: Option<Spec>,
    /// Hash of its document of version 3; empty if it tells none.
    v3: Option<String>,
}

/// Its document of version 2, as far as it is believed.
#[derive(Clone)]
struct Spec {
    /// By what its server knows it.
    tag: Option<String>,
    hash: String,
    text: Bytes,
}

/// The documents of all servers behind.
#[derive(Default)]
pub(crate) struct Specs {
    known: Mutex<HashMap<At, Known>>,
    /// Whoever holds it merges, others wait for that.
    merged: tokio::sync::Mutex<Option<Merged>>,
}

/// The document of version 2 of all servers.
struct Merged {
    table: Weak<Table>,
    /// Hashes of what others added.
    added: Vec<String>,
    document: Arc<Document>,
}

fn at(delegate: &Delegate) -> At {
    (delegate.group.clone(), delegate.version.clone())
}

/// How the index of documents names that of a server.
pub(crate) fn name(delegate: &Delegate) -> String {
    format!("apis/{}/{}", delegate.group, delegate.version)
}

impl Specs {
    /// What is known of a server.
    pub fn of(&self, delegate: &Delegate) -> Known {
        self.known.lock().get(&at(delegate)).cloned().unwrap_or_default()
    }

    /// This is what is known of all now.
    pub fn replace<'a>(&self, known: impl Iterator<Item = (&'a Delegate, Known)>) {
        let known = known.map(|(delegate, known)| (at(delegate), known)).collect();
        *self.known.lock() = known;
    }

    /// The document of version 2 of what is served here, which is `own`, and by `delegates`.
    pub async fn merged(
        &self,
        table: &Arc<Table>,
        own: Arc<Document>,
        delegates: &[Arc<Delegate>],
    ) -> Result<Arc<Document>, Status> {
        let added: Vec<Spec> = delegates.iter().filter_map(|delegate| self.of(delegate).v2).collect();
        if added.is_empty() {
            return Ok(own);
        }
        let hashes: Vec<String> = added.iter().map(|spec| spec.hash.clone()).collect();
        let mut kept = self.merged.lock().await;
        if let Some(merged) = kept.as_ref().filter(|merged| merged.is_of(table, &hashes)) {
            return Ok(Arc::clone(&merged.document));
        }
        let document = tokio::task::spawn_blocking(move || merged(&own, &added)).await.map_err(Status::internal)?;
        let document = Arc::new(document);
        *kept = Some(Merged { table: Arc::downgrade(table), added: hashes, document: Arc::clone(&document) });
        Ok(document)
    }

    /// The index of documents of version 3, with those of `delegates`.
    pub fn index(&self, own: &Document, delegates: &[Arc<Delegate>]) -> Result<Document, Status> {
        let mut index: Value = serde_json::from_slice(&own.json()).map_err(Status::internal)?;
        for delegate in delegates.iter().filter(|delegate| delegate.available) {
            let (name, Some(hash)) = (name(delegate), self.of(delegate).v3) else { continue };
            let query = if hash.is_empty() { String::new() } else { format!("?hash={hash}") };
            index["paths"][&name] = json!({"serverRelativeURL": format!("/openapi/v3/{name}{query}")});
        }
        Ok(Document::new(&index))
    }
}

impl Merged {
    fn is_of(&self, table: &Arc<Table>, added: &[String]) -> bool {
        std::ptr::eq(self.table.as_ptr(), Arc::as_ptr(table)) && self.added == added
    }
}

fn merged(own: &Document, added: &[Spec]) -> Document {
    let mut all: Value = serde_json::from_slice(&own.json()).unwrap_or_default();
    for spec in added {
        merge(&mut all, serde_json::from_slice(&spec.text).unwrap_or_default());
    }
    Document::new(&all)
}

impl Known {
    /// By what its server knows the document of version 2 that is known.
    pub fn tag(&self) -> Option<&str> {
        self.v2.as_ref()?.tag.as_deref()
    }

    /// Whether it has a document of version 3.
    pub fn has_v3(&self) -> bool {
        self.v3.is_some()
    }

    /// After a server was asked for its document of version 2 and its index of those of version 3. What it did not answer
    /// is as it was.
    pub fn after(self, delegate: &Delegate, v2: Option<Response<Bytes>>, v3: Option<Response<Bytes>>) -> Self {
        let v3 = v3.map_or(self.v3, |answer| of_index(delegate, &answer));
        let v2 = match v2 {
            Some(answer) if answer.status() == StatusCode::OK => spec(delegate, &answer).or(self.v2),
            Some(answer) if answer.status() == StatusCode::NOT_FOUND => None,
            _ => self.v2,
        };
        Self { v2, v3 }
    }
}

/// What an index of documents says of a server's own one.
fn of_index(delegate: &Delegate, answer: &Response<Bytes>) -> Option<String> {
    if answer.status() != StatusCode::OK {
        return None;
    }
    let index: Value = serde_json::from_slice(answer.body()).ok()?;
    let url = index["paths"][name(delegate)]["serverRelativeURL"].as_str()?;
    let hash = url.split_once("?hash=").map(|(_, hash)| hash).unwrap_or_default();
    let plain = hash.len() <= 256 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
    Some(if plain { hash.to_owned() } else { String::new() })
}

/// The part of a document that its server is asked for here; `None`: it cannot be read.
fn spec(delegate: &Delegate, answer: &Response<Bytes>) -> Option<Spec> {
    let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let text = believed(answer.body(), &format!("/{}/", name(delegate)))?;
    Some(Spec { tag, hash: hash(&text), text: text.into() })
}

fn believed(text: &[u8], prefix: &str) -> Option<String> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    narrow(&mut document, |path| path.starts_with(prefix));
    document.is_object().then(|| document.to_string())
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::outcall::{Credentials, Place, Target};

    use super::*;

    fn delegate() -> Delegate {
        Delegate {
            group: "g.io".into(),
            version: "v1".into(),
            target: Target {
                place: Place::Url("https://h".into()),
                ca_bundle: Vec::new(),
                credentials: Credentials::default(),
            },
            insecure: false,
            available: true,
            group_priority: 1,
            version_priority: 1,
        }
    }

    #[test]
    fn of_an_index_only_the_hash_of_its_own_document_is_taken() {
        for (code, index, expect) in [
            (
                200_u16,
                json!({"paths": {"apis/g.io/v1": {"serverRelativeURL": "/openapi/v3/apis/g.io/v1?hash=AB0"}}}),
                Some("AB0"),
            ),
            (200, json!({"paths": {"apis/g.io/v1": {"serverRelativeURL": "/openapi/v3/apis/g.io/v1"}}}), Some("")),
            (200, json!({"paths": {"apis/g.io/v1": {"serverRelativeURL": "https://e?hash=\r\n<"}}}), Some("")),
            (200, json!({"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=AB0"}}}), None),
            (200, json!({"paths": {"apis/g.io/v1": 5}}), None),
            (200, json!("nonsense"), None),
            (404, json!({"paths": {"apis/g.io/v1": {"serverRelativeURL": "/x?hash=AB0"}}}), None),
        ] {
            let answer = Response::builder().status(code).body(Bytes::from(index.to_string())).expect("a response");
            assert_eq!(of_index(&delegate(), &answer).as_deref(), expect, "{index}");
        }
    }

    #[test]
    fn of_a_document_only_its_own_paths_are_believed() {
        let document = json!({"paths": {"/apis/g.io/v1/": {}, "/apis/g.io/v1/things": {}, "/api/v1/secrets": {}, "/apis/g.io/v10/": {}}});
        let believed = |text: &str| believed(text.as_bytes(), "/apis/g.io/v1/");
        let expect = json!({"paths": {"/apis/g.io/v1/": {}, "/apis/g.io/v1/things": {}}});
        assert_eq!(believed(&document.to_string()), Some(expect.to_string()));
        assert_eq!([believed("no"), believed("[]")], [None, None]);
    }
}
