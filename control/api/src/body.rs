//! Bodies and heads of requests, within limits.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyExt, Limited};
use kontiki_machinery::Status;

use crate::budget::{Charge, weight};

/// The largest body of a request whose kind has no smaller limit.
pub(crate) const MAX_BODY: usize = 3 << 20;
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

/// The whole body, of at most `limit` bytes and within a time. `charge` is raised to what it may become.
pub(crate) async fn whole(body: Body, limit: usize, charge: &mut Charge) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_TIME, read_body(body, limit, charge)).await {
        Ok(read) => read,
        Err(_) => Err(Status::failure(408, "Timeout", "the body took too long to arrive")),
    }
}

/// Of a body that is too large a little more is read and thrown away: a client that is still
/// writing would otherwise never see the answer.
async fn read_body(mut body: Body, limit: usize, charge: &mut Charge) -> Result<Bytes, Status> {
    let (mut kept, mut seen, mut refused) = (BytesMut::new(), 0usize, Ok(()));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen > limit && refused.is_ok() {
            refused = Err(Status::too_large(format!("limit is {limit}")));
        }
        if refused.is_ok() {
            refused = charge.raise(seen);
        }
        match &refused {
            Ok(()) => kept.extend_from_slice(&data),
            Err(_) if seen > MAX_DISCARDED => break,
            Err(_) => kept = BytesMut::new(),
        }
    }
    refused?;
    charge.raise(weight(&kept))?;
    Ok(kept.freeze())
}
