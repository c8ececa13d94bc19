//! Bodies and heads of requests, within limits.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyExt, Limited};
use kontiki_machinery::Status;

/// The largest body of a request.
const MAX_BODY: usize = 3 << 20;
/// How much of a larger one is read before the connection is given up.
const MAX_DISCARDED: usize = 16 << 20;
/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(60);
/// How long an answer waits for a body that nobody reads.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Reads what nobody asked for, within limits, so that the connection can be used again.
pub(crate) async fn discard(body: Body) {
    let read = Limited::new(body, MAX_BODY).collect();
    let _ = tokio::time::timeout(DISCARD_TIME, read).await; // else the connection ends, as it may
}

/// The values of a header, as one.
pub(crate) fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The whole body, within limits of size and time.
pub(crate) async fn whole(body: Body) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_TIME, read_body(body)).await {
        Ok(read) => read,
        Err(_) => Err(Status::failure(408, "Timeout", "the body took too long to arrive")),
    }
}

/// Of a body that is too large a little more is read and thrown away: a client that is still
/// writing would otherwise never see the answer.
async fn read_body(mut body: Body) -> Result<Bytes, Status> {
    let (mut kept, mut seen) = (BytesMut::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= MAX_BODY {
            kept.extend_from_slice(&data);
        } else if seen > MAX_DISCARDED {
            break;
        }
    }
    if seen > MAX_BODY { Err(Status::too_large(format!("limit is {MAX_BODY}"))) } else { Ok(kept.freeze()) }
}
