//! WebSocket (RFC 6455), the server's side: upgrading, frames, and joining a client to a stream of a node.
//!
//! Invariants
//! - A message may be of any length: it is passed on as it comes, and no more than a frame's head or a control frame is
//!   kept back.
//! - What a client may not send ends its connection with 1002, and nothing else.
//!
//! Not here: what messages mean (the codecs in `sub`).

pub(crate) mod frame;
mod join;

use axum::body::Body;
use base64::Engine as _;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request::Parts};
use hyper::upgrade::OnUpgrade;

use crate::Status;

pub(crate) use join::{Down, End, LINGER, Pieces, Up, join};

/// RFC 6455, section 1.3.
const ACCEPTS: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks to go on as WebSocket.
pub(crate) fn asked(head: &Parts) -> bool {
    let holds =
        |name: HeaderName, token: &str| words(&head.headers, &name).any(|word| word.eq_ignore_ascii_case(token));
    head.method == Method::GET && holds(UPGRADE, "websocket") && holds(CONNECTION, "upgrade")
}

/// The words of a header that is a list.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// An upgrade that can be granted.
pub(crate) struct Accepted<'a, P> {
    /// The answer that grants it.
    pub response: Response<Body>,
    /// The connection, once the answer is sent.
    pub client: OnUpgrade,
    /// What will be spoken.
    pub protocol: &'a P,
}

/// Chooses among `protocols`, by their names, the first that the client offers; one without a name for a client that
/// offers none.
///
/// # Errors
/// It is no proper upgrade, or no protocol is offered that is known.
pub(crate) fn accept<'a, P>(
    head: &mut Parts,
    protocols: &'a [P],
    name: impl Fn(&P) -> &str,
) -> Result<Accepted<'a, P>, Status> {
    let key = head.headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let answer = accept_key(key.as_bytes());
    let offered: Vec<&str> = words(&head.headers, &SEC_WEBSOCKET_PROTOCOL).filter(|word| !word.is_empty()).collect();
    let wanted = if offered.is_empty() { &[""][..] } else { &offered };
    let found = wanted.iter().find_map(|wanted| protocols.iter().find(|known| name(known) == *wanted));
    let protocol = found.ok_or_else(|| {
        let known: Vec<&str> = protocols.iter().map(&name).filter(|name| !name.is_empty()).collect();
        Status::failure(403, "Forbidden", format!("unable to upgrade: none of {offered:?} is among {known:?}"))
    })?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, answer);
    if !name(protocol).is_empty() {
        let value = HeaderValue::from_str(name(protocol)).map_err(Status::internal)?;
        response = response.header(SEC_WEBSOCKET_PROTOCOL, value);
    }
    let response = response.body(Body::empty()).map_err(Status::internal)?;
    let client = head.extensions.remove::<OnUpgrade>();
    let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    Ok(Accepted { response, client, protocol })
}

fn accept_key(key: &[u8]) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(ACCEPTS.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_answered_as_the_rfc_has_it() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_upgrade_is_known_by_its_headers() {
        for (name, method, upgrade, connection, expect) in [
            ("plain", "GET", "websocket", "Upgrade", true),
            ("among others", "GET", "WebSocket", "keep-alive, Upgrade", true),
            ("another protocol", "GET", "SPDY/3.1", "Upgrade", false),
            ("not this hop", "GET", "websocket", "keep-alive", false),
            ("not a GET", "POST", "websocket", "Upgrade", false),
        ] {
            let request = http::Request::builder().method(method);
            let request = request.header("upgrade", upgrade).header("connection", connection).body(()).expect("good");
            assert_eq!(asked(&request.into_parts().0), expect, "{name}");
        }
    }

    #[test]
    fn nothing_is_spoken_that_is_not_offered() {
        let known = ["v5", "v4", ""];
        for (offered, expect) in [
            ("v5, v4", Err(())), // no connection to upgrade, but a protocol
            ("v9", Err(())),
        ] {
            let request = http::Request::get("/").header("sec-websocket-key", "k");
            let request = request.header("sec-websocket-protocol", offered).body(()).expect("good");
            let got = accept(&mut request.into_parts().0, &known, |name| name);
            assert_eq!(got.map(|_| ()).map_err(|_| ()), expect, "{offered}");
        }
    }
}
