//! Calls from here to servers outside: HTTPS to a URL, or to whoever serves a service of the cluster, wherever that runs.
//!
//! Invariants
//! - Who answers has shown a certificate that the caller trusts, and for the name that was called.
//! - An answer takes no more memory than [`ANSWER`], a call no more time than its caller gave it.
//! - A call is made once: it is repeated on another connection only if the first had not begun to send it.

pub(crate) mod get;
mod peer;
mod tls;
mod ways;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kontiki_cache::Backend;
use kontiki_machinery::admission::Waiting;
use kontiki_machinery::outcall::{Caller, NoEndpoint, Patience, Place, Resolver, Target};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use tokio::time::{timeout, timeout_at};

use crate::clock::Entropy;
use crate::node_proxy::NodeProxy;
use crate::outbound::peer::Peer;
use crate::outbound::ways::Ways;

/// Longest answer that is read: a patch may hold the largest object several times.
const ANSWER: usize = 8 << 20;
/// How long a connection to pass requests on may take.
const CONNECT: Duration = Duration::from_secs(30);
/// Servers whose connections are kept.
const PEERS: usize = 256;

/// Calls servers.
pub struct Outbound {
    ways: Ways,
    /// What this master shows to servers that it passes requests on to.
    identity: Option<Arc<dyn ResolvesClientCert>>,
    peers: Mutex<HashMap<Target, Arc<Peer>>>,
    /// Configurations of connections on which requests are passed on.
    passing: Mutex<HashMap<Believed, Arc<ClientConfig>>>,
}

/// Whom a connection believes: authorities as PEM, or whoever answers.
type Believed = (Vec<u8>, bool);

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// There was no answer.
    Transport(String),
    /// The answer is none of success.
    Answer(String),
}

impl Outbound {
    /// Services are looked up by `resolver` in `store`, and reached through `nodes`.
    #[must_use]
    pub fn new(
        store: impl Into<Backend>,
        nodes: Arc<dyn NodeProxy>,
        resolver: Arc<dyn Resolver>,
        entropy: Arc<dyn Entropy>,
        identity: Option<Arc<dyn ResolvesClientCert>>,
    ) -> Arc<Self> {
        let ways = Ways { store: store.into(), nodes, resolver, entropy };
        Arc::new(Self { ways, identity, peers: Mutex::default(), passing: Mutex::default() })
    }

    /// A connection to a server of the cluster, to pass requests on; `insecure`: whoever answers is believed.
    pub(crate) async fn open(&self, target: &Target, insecure: bool) -> Result<SendRequest<Body>, String> {
        let Place::Service { namespace, name, port, .. } = &target.place else {
            return Err("requests are passed on to services only".to_owned());
        };
        let tls = self.passing(&target.ca_bundle, insecure)?;
        let destinations = self.ways.to_service(namespace, name, *port).map_err(|why| why.to_string())?;
        let connecting = async {
            let stream = self.ways.dial(&destinations).await?;
            ways::handshake(&tls, &format!("{name}.{namespace}.svc"), stream).await
        };
        let late = |_| "net/http: TLS handshake timeout".to_owned();
        let stream = timeout(CONNECT, connecting).await.map_err(late)??;
        let (open, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends with the last handle of it, or with the stream that it became.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a server behind ended");
            }
        });
        Ok(open)
    }

    /// Whether somebody serves a target that is a service.
    pub(crate) fn served(&self, target: &Target) -> Result<(), NoEndpoint> {
        match &target.place {
            Place::Service { namespace, name, port, .. } => self.ways.to_service(namespace, name, *port).map(drop),
            Place::Url(_) => Ok(()),
        }
    }

    fn passing(&self, bundle: &[u8], insecure: bool) -> Result<Arc<ClientConfig>, String> {
        let key = (bundle.to_vec(), insecure);
        if let Some(known) = self.passing.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = tls::passing(bundle, insecure, self.identity.clone())?;
        let mut known = self.passing.lock();
        if known.len() >= PEERS {
            known.clear();
        }
        Ok(Arc::clone(known.entry(key).or_insert(made)))
    }

    fn peer(&self, target: &Target) -> Result<Arc<Peer>, CallError> {
        if let Some(peer) = self.peers.lock().get(target) {
            return Ok(Arc::clone(peer));
        }
        let peer = Arc::new(Peer::new(target).map_err(CallError::Transport)?);
        let mut peers = self.peers.lock();
        if peers.len() >= PEERS {
            // Who is called right now keeps its own handle; its next call connects anew.
            peers.clear();
        }
        Ok(Arc::clone(peers.entry(target.clone()).or_insert(peer)))
    }

    async fn exchange(&self, target: &Target, query: &str, document: Bytes) -> Result<Vec<u8>, CallError> {
        let peer = self.peer(target)?;
        let (response, connection) = peer.send(&self.ways, query, document).await.map_err(CallError::Transport)?;
        let answered = read(response).await;
        if answered.is_ok() {
            peer.keep(connection);
        }
        answered
    }
}

/// The body of an answer of success.
async fn read(response: Response<Incoming>) -> Result<Vec<u8>, CallError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER).collect().await.map_err(|error| {
        let text = match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => format!("the answer is longer than {ANSWER} bytes"),
            None => "unexpected EOF".to_owned(),
        };
        CallError::Transport(text)
    })?;
    let body = body.to_bytes();
    if head.status.is_success() { Ok(body.into()) } else { Err(CallError::Answer(refusal(head.status, &body))) }
}

/// What upstream's client says of an answer that is no success (`apimachinery/pkg/api/errors`, `NewGenericServerResponse`).
fn refusal(code: StatusCode, body: &[u8]) -> String {
    if let Ok(status) = serde_json::from_slice::<crate::Status>(body)
        && status.kind == "Status"
        && !status.message.is_empty()
    {
        return status.message;
    }
    let said = String::from_utf8_lossy(&body[..body.len().min(2048)]).trim().to_owned();
    let said = if said.is_empty() { "unknown".to_owned() } else { said };
    match code.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => said,
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        413 => format!("Request entity too large: {said}"),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        500.. => format!("an error on the server ({said:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}

impl Caller for Outbound {
    fn post<'a>(
        &'a self,
        target: &'a Target,
        document: Vec<u8>,
        patience: Patience,
    ) -> Waiting<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let now = Instant::now();
            let until = patience.deadline.min(now + patience.timeout);
            let left = until.saturating_duration_since(now);
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let query = format!("timeout={seconds}s");
            let answered = timeout_at(until.into(), self.exchange(target, &query, document.into())).await;
            let answered =
                answered.unwrap_or_else(|_| Err(CallError::Transport("context deadline exceeded".to_owned())));
            answered.map_err(|error| match error {
                CallError::Answer(why) => why,
                CallError::Transport(why) => format!("Post \"{}\": {why}", peer::with_query(&target.url(), &query)),
            })
        })
    }

    fn uid(&self) -> String {
        self.ways.uid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let status = br#"{"kind":"Status","apiVersion":"v1","message":"go away","code":418}"#;
        for (code, body, expect) in [
            (404, &b""[..], "the server could not find the requested resource"),
            (500, b" oh \n", "an error on the server (\"oh\") has prevented the request from succeeding"),
            (502, b"", "an error on the server (\"unknown\") has prevented the request from succeeding"),
            (418, status, "go away"),
            (302, b"", "the server responded with the status code 302 but did not return more information"),
        ] {
            assert_eq!(refusal(StatusCode::from_u16(code).expect("a code"), body), expect);
        }
    }
}
