//! Bytes into HTTP responses: content types, gzip for large ones, warnings.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kontiki_machinery::Status;
use kontiki_store::Entry;

/// Size of the pieces of a long list.
pub(super) const PIECE: usize = 64 << 10;
/// Smaller answers are not worth compressing.
pub(super) const GZIP_FROM: usize = 128 << 10;
/// All warnings of an answer together. Beyond it each is cut, and what still does not fit is left out.
const MAX_WARNINGS: usize = 4 << 10;
const MAX_CROWDED_WARNING: usize = 256;

/// About how large a list of these becomes.
pub(super) fn size(items: &[Arc<Entry>]) -> usize {
    items.iter().map(|entry| entry.value.len()).sum()
}

/// A response of pieces. `total` is about the size of all of them.
pub(super) async fn stream(
    media: &'static str,
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
    total: usize,
    gzip: bool,
) -> Result<Response<Body>, Status> {
    if gzip && total >= GZIP_FROM {
        let packed = tokio::task::spawn_blocking(move || compress(pieces)).await.map_err(Status::internal)?;
        return Ok(gzipped(media, packed));
    }
    if total < PIECE {
        let mut joined = BytesMut::new();
        pieces.for_each(|piece| joined.extend_from_slice(&piece));
        return Ok(of_bytes(media, joined.freeze()));
    }
    let body = Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, Infallible>)));
    Ok(respond(media, body))
}

fn compress(pieces: impl Iterator<Item = Bytes>) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(GZIP_FROM / 2), Compression::fast());
    for piece in pieces {
        encoder.write_all(&piece).expect("a Vec takes everything");
    }
    encoder.finish().expect("a Vec takes everything").into()
}

pub(crate) async fn sized(media: &'static str, bytes: Bytes, gzip: bool) -> Result<Response<Body>, Status> {
    if gzip && bytes.len() >= GZIP_FROM {
        let packed =
            tokio::task::spawn_blocking(move || compress(std::iter::once(bytes))).await.map_err(Status::internal)?;
        return Ok(gzipped(media, packed));
    }
    Ok(of_bytes(media, bytes))
}

fn gzipped(media: &'static str, packed: Bytes) -> Response<Body> {
    let mut response = of_bytes(media, packed);
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

/// A response with these bytes and this content type.
pub(crate) fn of_bytes(media: &'static str, bytes: Bytes) -> Response<Body> {
    respond(media, Body::from(bytes))
}

pub(super) fn respond(media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response without a body.
pub(crate) fn empty(code: u16) -> Response<Body> {
    with_code(Response::new(Body::empty()), code)
}

pub(super) fn with_code(mut response: Response<Body>, code: u16) -> Response<Body> {
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
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
