//! Documents that are kept: OpenAPI in JSON or protobuf, for ever under the URL that has its hash, and aggregated discovery;
//! with ETags. Upstream: kube-openapi `pkg/handler`, `pkg/handler3`; apiserver `pkg/endpoints/discovery/aggregated`.
//!
//! Invariant: OpenAPI is made on threads that may be busy for long ([`apart`]), never on those that answer requests.

use std::future::{Future, ready};
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderValue, Response};
use jiff::{SignedDuration, Timestamp};
use kontiki_machinery::encode::yaml;
use kontiki_machinery::openapi::Document;
use kontiki_machinery::{Status, Table};

use crate::body::header;
use crate::encode;
use crate::negotiate::{JSON, Media, clauses};
use crate::params::Params;

const V2: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
const V3: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
];
const AGGREGATED: [&str; 2] = [
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
];
/// A year: the URL of a document has its hash.
const FOR_EVER: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Does what may take long where it holds up nobody else.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(Status::internal)
}

/// `/openapi/v2`
pub(crate) async fn v2(all: &Arc<Document>, head: &Parts) -> Result<Response<Body>, Status> {
    document(all, &V2, head).await
}

/// `/openapi/v3`
pub(crate) async fn v3_index(index: &Document, head: &Parts) -> Result<Response<Body>, Status> {
    answer("text/plain; charset=utf-8", ready(Ok(index.json())), index.hash(), head).await
}

/// The documents below it.
pub(crate) async fn v3(table: &Arc<Table>, name: &str, head: &Parts, now: Timestamp) -> Result<Response<Body>, Status> {
    let (of, wanted) = (Arc::clone(table), name.to_owned());
    let Some(found) = apart(move || of.documents().v3(&wanted)).await? else { return Ok(encode::empty(404)) };
    let asked = Params::parse(head.uri.query()).get("hash").map(str::to_owned);
    if asked.as_deref().is_some_and(|asked| asked != found.hash()) {
        let mut moved = encode::empty(301);
        put(&mut moved, LOCATION, &format!("/openapi/v3/{name}?hash={}", found.hash()));
        return Ok(moved);
    }
    let mut response = document(&found, &V3, head).await?;
    if asked.is_some() && response.status().is_success() {
        put(&mut response, CACHE_CONTROL, "public, immutable");
        let expires = now.checked_add(FOR_EVER).unwrap_or(Timestamp::MAX);
        put(&mut response, EXPIRES, &expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    Ok(response)
}

/// `/api` or `/apis` as one document.
pub(crate) async fn aggregated(document: &Document, media: Media, head: &Parts) -> Result<Response<Body>, Status> {
    let (name, bytes) = match media {
        Media::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&document.json()).map_err(Status::internal)?;
            (AGGREGATED[1], yaml::to_text(&value).into())
        }
        _ => (AGGREGATED[0], document.json()),
    };
    let mut response = answer(name, ready(Ok(bytes)), document.hash(), head).await?;
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    put(&mut response, CACHE_CONTROL, "public");
    Ok(response)
}

async fn document(
    document: &Arc<Document>,
    protobuf: &[&'static str; 2],
    head: &Parts,
) -> Result<Response<Body>, Status> {
    let accept = header(&head.headers, &ACCEPT);
    let known = [JSON, protobuf[0], protobuf[1]];
    let clauses = clauses(accept.as_deref());
    let wanted = clauses.iter().find_map(|clause| known.into_iter().find(|media| clause.matches(media)));
    let made = Arc::clone(document);
    let mut response = match wanted {
        None => encode::empty(406),
        Some(JSON) => answer(JSON, apart(move || made.json()), document.hash(), head).await?,
        // Under the newer name, whichever was asked for.
        Some(_) => {
            let bytes = async { apart(move || made.protobuf()).await?.map_err(Status::internal) };
            answer(protobuf[1], bytes, document.hash(), head).await?
        }
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// The bytes, unless the client has them.
async fn answer(
    media: &'static str,
    bytes: impl Future<Output = Result<Bytes, Status>>,
    hash: &str,
    head: &Parts,
) -> Result<Response<Body>, Status> {
    let tag = format!("\"{hash}\"");
    let known = header(&head.headers, &IF_NONE_MATCH).unwrap_or_default();
    let has = known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|known| known == tag || known == "*");
    let mut response = match has {
        true => encode::empty(304),
        false => encode::sized(media, bytes.await?, encode::accepts_gzip(&head.headers)).await?,
    };
    if !has {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    }
    put(&mut response, ETAG, &tag);
    Ok(response)
}

fn put(response: &mut Response<Body>, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
