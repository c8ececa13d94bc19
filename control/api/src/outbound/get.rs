//! Documents that servers outside the cluster publish. Redirections are not followed.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;

use crate::dial::{Connection, dial_directly};
use crate::outbound::peer::lost;
use crate::outbound::tls;
use crate::outbound::ways::{handshake, looked_up};

/// Addresses of a host that are tried.
const TRIES: usize = 3;

/// A client that trusts what descends from `bundle` (PEM), or from what the machine trusts if that is empty.
///
/// # Errors
/// There is no certificate in it.
pub(crate) fn trusting(bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    tls::client(bundle)
}

/// The document at an `https` URL, of at most `limit` bytes. Waits as long as it takes.
///
/// # Errors
/// Why there is none.
pub(crate) async fn get(client: &Arc<ClientConfig>, url: &str, limit: usize) -> Result<Bytes, String> {
    let failed = |why: &dyn std::fmt::Display| format!("Get \"{url}\": {why}");
    let parsed: Uri = url.parse().map_err(|why| failed(&why))?;
    if parsed.scheme_str() != Some("https") {
        return Err(failed(&"unsupported protocol scheme"));
    }
    let host = parsed.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = parsed.port_u16().unwrap_or(443);
    let stream = reach(host, port).await.map_err(|why| failed(&why))?;
    let stream = handshake(client, host, stream).await.map_err(|why| failed(&why))?;
    let (mut open, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|why| failed(&lost(&why)))?;
    let target = parsed.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(HOST, parsed.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "kontiki")
        .body(Empty::<Bytes>::new())
        .map_err(|why| failed(&why))?;
    let answering = async {
        let (head, body) = open.send_request(request).await.map_err(|why| lost(&why))?.into_parts();
        if head.status != StatusCode::OK {
            return Err(head.status.to_string());
        }
        let body = Limited::new(body, limit).collect().await.map_err(|error| match error
            .downcast_ref::<http_body_util::LengthLimitError>(
        ) {
            Some(_) => format!("the answer is longer than {limit} bytes"),
            None => "unexpected EOF".to_owned(),
        })?;
        Ok(body.to_bytes())
    };
    tokio::pin!(answering);
    // The connection is worked while the answer is waited for; what came before its end is there afterwards.
    let answered = tokio::select! {
        answered = &mut answering => answered,
        _ = connection => answering.await,
    };
    answered.map_err(|why: String| failed(&why))
}

async fn reach(host: &str, port: u16) -> Result<Connection, String> {
    let mut failed = "there is nowhere to connect to".to_owned();
    for to in looked_up(host, port).await?.into_iter().take(TRIES) {
        match dial_directly(to.address, to.port).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failed = error.message,
        }
    }
    Err(failed)
}
