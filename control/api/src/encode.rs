//! Answers into bytes: JSON or YAML; whole objects, Tables or metadata only; gzip for large ones.
//!
//! Lists are written piece by piece from the stored bytes, so their memory does not grow with their length.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use kontiki_cache::Object as Cached;
use kontiki_machinery::table::Cells;
use kontiki_machinery::{ResourceDef, Status, table};
use kontiki_store::Entry;
use serde_json::{Value, json};

use crate::call::{Answer, Call, List, Object};
use crate::negotiate::{self, Form, Media, Shape};
use crate::object::{list_item_head, splice_into, splice_item_into, splice_metadata_into};
use crate::params::Params;
use crate::state::{collection_prefix, served};

/// Smaller answers are not worth compressing.
const GZIP_FROM: usize = 128 << 10;
/// All warnings of an answer together. Beyond it each is cut, and what still does not fit is left out.
const MAX_WARNINGS: usize = 4 << 10;
const MAX_CROWDED_WARNING: usize = 256;
/// Size of the pieces of a long list.
const PIECE: usize = 64 << 10;

pub(crate) use kontiki_machinery::table::IncludeObject as Include;

pub(crate) fn include_object(params: &Params) -> Result<Include, Status> {
    let text = params.raw("includeObject").unwrap_or_default();
    Include::parse(text).ok_or_else(|| {
        Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{text}\": must be 'Metadata', 'Object', 'None', or empty"
        ))
    })
}

/// The response for an answer.
pub(crate) async fn answer(call: &Call, answer: Answer, form: &Form, gzip: bool) -> Result<Response<Body>, Status> {
    match answer {
        Answer::Raw(response) => Ok(response),
        Answer::Status { code, status } => {
            let value = serde_json::to_value(&status).map_err(Status::internal)?;
            Ok(with_code(value_response(&value, form), code))
        }
        Answer::Object { code, object } => {
            let bytes = object_bytes(call, &object, form)?;
            Ok(with_code(sized(media_type(form.media), bytes, gzip).await?, code))
        }
        Answer::List(list) => list_response(call, list, form, gzip).await,
    }
}

fn with_code(mut response: Response<Body>, code: u16) -> Response<Body> {
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn media_type(media: Media) -> &'static str {
    match media {
        Media::Json => negotiate::JSON,
        Media::Yaml => negotiate::YAML,
    }
}

fn object_bytes(call: &Call, object: &Object, form: &Form) -> Result<Bytes, Status> {
    if form.shape == Shape::Full && form.media == Media::Json && !form.pretty {
        return Ok(object.json());
    }
    let value = object.value()?;
    let shown = match &form.shape {
        Shape::PartialList(_) => return Err(wrong_shape(&call.def, "PartialObjectMetadataList", "not a list", "")),
        shape => shape_one(call, shape, value)?,
    };
    Ok(formatted(&shown, form))
}

fn shape_one(call: &Call, shape: &Shape, value: Value) -> Result<Value, Status> {
    Ok(match shape {
        Shape::Full | Shape::PartialList(_) => value,
        Shape::Partial(version) => partial(version, &value),
        Shape::Table(version) => {
            let include = include_object(&call.params)?;
            let metadata = list_metadata(value["metadata"]["resourceVersion"].as_str(), "", None);
            let mut shown = table::table(
                &call.def,
                vec![row(&call.def, version, include, &value, call.api.now())],
                metadata,
                version,
                true,
            );
            if let Some(view) = call.view() {
                shown["columnDefinitions"] = view.columns();
                let now = call.api.now();
                shown["rows"][0]["cells"] = view.row(&value).iter().map(|cell| cell.at(now)).collect();
            }
            shown
        }
    })
}

fn wrong_shape(def: &ResourceDef, asked: &str, is: &str, suffix: &str) -> Status {
    let package = if def.group.is_empty() { "core" } else { def.group.split('.').next().unwrap_or_default() };
    let text = format!("you requested {asked}, but the requested object is {is} (*{package}.{}{suffix})", def.kind);
    Status::failure(406, "NotAcceptable", text)
}

fn meta_version(version: &str) -> String {
    format!("meta.k8s.io/{version}")
}

fn partial(version: &str, object: &Value) -> Value {
    table::partial(object, &meta_version(version))
}

fn row(def: &ResourceDef, version: &str, include: Include, object: &Value, now: Timestamp) -> Value {
    let mut row = table::row(def, object, include, now);
    if include == Include::Metadata {
        row["object"]["apiVersion"] = meta_version(version).into();
    }
    row
}

fn list_metadata(version: Option<&str>, continue_token: &str, remaining: Option<i64>) -> Value {
    let mut metadata = json!({});
    if let Some(version) = version {
        metadata["resourceVersion"] = version.into();
    }
    if !continue_token.is_empty() {
        metadata["continue"] = continue_token.into();
    }
    if let Some(remaining) = remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// The object of a watch event in the shape asked for.
pub(crate) fn shape_event(
    def: &ResourceDef,
    shape: &Shape,
    include: Include,
    object: Value,
    columns: bool,
    now: Timestamp,
) -> Value {
    match shape {
        Shape::Full => object,
        Shape::Partial(version) | Shape::PartialList(version) => partial(version, &object),
        Shape::Table(version) => {
            let metadata = list_metadata(object["metadata"]["resourceVersion"].as_str(), "", None);
            // A bookmark has no name and makes no row.
            let rows = if object["metadata"]["name"].is_string() {
                vec![row(def, version, include, &object, now)]
            } else {
                Vec::new()
            };
            table::table(def, rows, metadata, version, columns)
        }
    }
}

async fn list_response(call: &Call, list: List, form: &Form, gzip: bool) -> Result<Response<Body>, Status> {
    let def = &*call.def;
    let metadata = list_metadata(Some(&list.revision.to_string()), &list.continue_token, list.remaining);
    // What is stored is what is shown.
    let by_bytes = form.media == Media::Json && !form.pretty && !def.is_view();
    let bytes = match &form.shape {
        Shape::Partial(_) => return Err(wrong_shape(def, "PartialObjectMetadata", "a list", "List")),
        Shape::Full if by_bytes => return stream_list(def, list.items, &metadata, gzip).await,
        // Upstream prints an empty one otherwise.
        Shape::PartialList(version) if by_bytes && !list.items.is_empty() => {
            return stream_partial(list.items, &metadata, version, gzip).await;
        }
        Shape::Table(version) if by_bytes => return stream_table(call, list.items, metadata, version, gzip).await,
        Shape::Full => {
            let items = list.items.iter().map(|entry| bare(served(def, entry)?)).collect::<Result<Vec<_>, Status>>()?;
            let value = json!({"kind": format!("{}List", def.kind), "apiVersion": def.api_version(), "metadata": metadata, "items": items});
            formatted(&value, form)
        }
        Shape::PartialList(version) => {
            let items = list
                .items
                .iter()
                .map(|entry| Ok(partial(version, &served(def, entry)?)))
                .collect::<Result<Vec<_>, Status>>()?;
            let empty = items.is_empty();
            let mut value = table::partial_list(items, metadata, &meta_version(version));
            if empty {
                value["items"] = Value::Null; // as upstream prints it
            }
            formatted(&value, form)
        }
        Shape::Table(version) => {
            let (include, now) = (include_object(&call.params)?, call.api.now());
            let rows = list
                .items
                .iter()
                .map(|entry| Ok(row(def, version, include, &served(def, entry)?, now)))
                .collect::<Result<Vec<_>, Status>>()?;
            formatted(&table::table(def, rows, metadata, version, true), form)
        }
    };
    sized(media_type(form.media), bytes, gzip).await
}

/// Items of a list do not repeat their type.
fn bare(mut item: Value) -> Result<Value, Status> {
    if let Some(fields) = item.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    Ok(item)
}

/// Writes a list item by item, a piece at a time.
struct Pieces<T, W> {
    items: std::vec::IntoIter<T>,
    write: W,
    opening: Option<BytesMut>,
    first: bool,
    done: bool,
}

impl<T, W: FnMut(&mut BytesMut, &T)> Pieces<T, W> {
    /// `opening` is what comes before the first item; a bracket and a brace close what it opens.
    fn new(opening: &str, items: Vec<T>, write: W) -> Self {
        Self { items: items.into_iter(), write, opening: Some(opening.as_bytes().into()), first: true, done: false }
    }
}

impl<T, W: FnMut(&mut BytesMut, &T)> Iterator for Pieces<T, W> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = self.opening.take().unwrap_or_else(|| BytesMut::with_capacity(PIECE + 4096));
        while out.len() < PIECE {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.extend_from_slice(b",");
            }
            (self.write)(&mut out, &item);
        }
        Some(out.freeze())
    }
}

async fn stream_list(
    def: &ResourceDef,
    items: Vec<Arc<Entry>>,
    metadata: &Value,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let api_version = def.api_version();
    let opening =
        format!("{{\"kind\":\"{}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[", def.kind);
    let total = items.iter().map(|entry| entry.value.len()).sum();
    let head = list_item_head(&api_version, &def.kind);
    let write = move |out: &mut BytesMut, entry: &Arc<Entry>| {
        splice_item_into(out, &entry.value, entry.mod_revision, &head);
    };
    stream(Pieces::new(&opening, items, write), total, gzip).await
}

async fn stream_partial(
    items: Vec<Arc<Entry>>,
    metadata: &Value,
    version: &str,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let version = meta_version(version);
    let opening = format!(
        "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    );
    let total = items.iter().map(|entry| entry.value.len()).sum();
    let write = move |out: &mut BytesMut, entry: &Arc<Entry>| write_partial(out, entry, &version);
    stream(Pieces::new(&opening, items, write), total, gzip).await
}

fn write_partial(out: &mut BytesMut, entry: &Entry, version: &str) {
    let opening = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":");
    out.extend_from_slice(opening.as_bytes());
    splice_metadata_into(out, &entry.value, entry.mod_revision);
    out.extend_from_slice(b"}");
}

async fn stream_table(
    call: &Call,
    items: Vec<Arc<Entry>>,
    metadata: Value,
    version: &str,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    let (def, include, now) = (&call.def, include_object(&call.params)?, call.api.now());
    let mut opening = table::table(def, Vec::new(), metadata, version, true).to_string();
    // The rows are its last field, and empty yet.
    opening.truncate(opening.len() - "]}".len());
    let known = call.api.cache().collection(&collection_prefix(def, None)).of(&items);
    let cells = |(entry, known): (Arc<Entry>, Option<Arc<Cached>>)| {
        let cells = match known.and_then(|object| object.cells(def)) {
            Some(cells) => cells,
            None => Arc::new(Cells::of(def, &served(def, &entry)?)),
        };
        Ok((entry, cells))
    };
    let total = items.iter().map(|entry| entry.value.len()).sum();
    let rows = items.into_iter().zip(known).map(cells).collect::<Result<Vec<_>, Status>>()?;
    let version = meta_version(version);
    let write = move |out: &mut BytesMut, (entry, cells): &(Arc<Entry>, Arc<Cells>)| {
        out.extend_from_slice(b"{\"cells\":");
        cells.write(now, out).expect("bytes take everything");
        out.extend_from_slice(b",\"object\":");
        match include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => write_partial(out, entry, &version),
            Include::Object => splice_into(out, &entry.value, entry.mod_revision),
        }
        out.extend_from_slice(b"}");
    };
    stream(Pieces::new(&opening, rows, write), total, gzip).await
}

/// A response of pieces. `total` is about the size of all of them.
async fn stream(
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
    total: usize,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    if gzip && total >= GZIP_FROM {
        let packed = tokio::task::spawn_blocking(move || compress(pieces)).await.map_err(Status::internal)?;
        return Ok(gzipped(negotiate::JSON, packed));
    }
    if total < PIECE {
        let mut whole = BytesMut::new();
        pieces.for_each(|piece| whole.extend_from_slice(&piece));
        return Ok(json_bytes(negotiate::JSON, whole.freeze()));
    }
    let body = Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, Infallible>)));
    Ok(respond(negotiate::JSON, body))
}

fn compress(pieces: impl Iterator<Item = Bytes>) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(GZIP_FROM / 2), Compression::fast());
    for piece in pieces {
        encoder.write_all(&piece).expect("a Vec takes everything");
    }
    encoder.finish().expect("a Vec takes everything").into()
}

async fn sized(media: &'static str, bytes: Bytes, gzip: bool) -> Result<Response<Body>, Status> {
    if gzip && bytes.len() >= GZIP_FROM {
        let packed =
            tokio::task::spawn_blocking(move || compress(std::iter::once(bytes))).await.map_err(Status::internal)?;
        return Ok(gzipped(media, packed));
    }
    Ok(json_bytes(media, bytes))
}

fn gzipped(media: &'static str, packed: Bytes) -> Response<Body> {
    let mut response = json_bytes(media, packed);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| {
        let mut parts = v.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    })
}

fn formatted(value: &Value, form: &Form) -> Bytes {
    match form.media {
        Media::Yaml => serde_yaml_ng::to_string(value).expect("a Value is YAML").into(),
        Media::Json if form.pretty => {
            let mut text = serde_json::to_string_pretty(value).expect("a Value is JSON");
            text.push('\n');
            text.into()
        }
        Media::Json => to_bytes(value),
    }
}

pub(crate) fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a Value is JSON").into()
}

fn value_response(value: &Value, form: &Form) -> Response<Body> {
    json_bytes(media_type(form.media), formatted(value, form))
}

/// A response with these bytes and this content type.
pub(crate) fn json_bytes(media: &'static str, bytes: Bytes) -> Response<Body> {
    respond(media, Body::from(bytes))
}

fn respond(media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response without a body.
pub(crate) fn empty(code: u16) -> Response<Body> {
    with_code(Response::new(Body::empty()), code)
}

/// A document that is not a resource (discovery, version).
pub(crate) fn document(value: &Value, accept: Option<&str>, params: &Params) -> Result<Response<Body>, Status> {
    let mut form = negotiate::object_form(accept)?;
    form.pretty |= params.flag("pretty").unwrap_or(false);
    Ok(value_response(value, &form))
}

/// The response for a failure.
pub(crate) fn error(status: &Status, accept: Option<&str>) -> Response<Body> {
    let form = Form { media: negotiate::error_media(accept), ..Form::PLAIN };
    let value = serde_json::to_value(status).unwrap_or_default();
    let mut response = with_code(value_response(&value, &form), status.code);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// `Warning` headers, each text once.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let crowded = warnings.iter().map(String::len).sum::<usize>() > MAX_WARNINGS;
    let mut room = MAX_WARNINGS;
    for (i, text) in warnings.iter().enumerate() {
        if warnings[..i].contains(text) {
            continue;
        }
        let text: String = if crowded { text.chars().take(MAX_CROWDED_WARNING).collect() } else { text.clone() };
        let Some(left) = room.checked_sub(text.len()) else { break };
        room = left;
        let mut quoted = String::with_capacity(text.len() + 10);
        for c in text.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
