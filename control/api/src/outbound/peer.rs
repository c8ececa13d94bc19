//! One server that is called, and the connections to it that wait for the next call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kontiki_machinery::outcall::{Place, Target};
use parking_lot::Mutex;
use rustls::ClientConfig;

use crate::dial::Connection;
use crate::outbound::tls;
use crate::outbound::ways::{Ways, handshake, looked_up};

/// Connections that wait, and how long.
const IDLE: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(60);

/// An open connection to a server.
pub(crate) type Open = SendRequest<Full<Bytes>>;

/// One server.
pub(crate) struct Peer {
    place: Place,
    url: Uri,
    host: String,
    port: u16,
    /// The name in its certificate.
    name: String,
    authorization: Option<HeaderValue>,
    tls: Arc<ClientConfig>,
    idle: Mutex<Vec<(Open, Instant)>>,
}

/// `url` with one more parameter.
pub(crate) fn with_query(url: &str, query: &str) -> String {
    format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' })
}

impl Peer {
    pub fn new(target: &Target) -> Result<Self, String> {
        let url: Uri = target.url().parse().map_err(|why| format!("unparsable URL: {why}"))?;
        if url.scheme_str() != Some("https") {
            return Err(format!("unsupported protocol scheme {:?}", url.scheme_str().unwrap_or_default()));
        }
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(443);
        let tls = tls::to(target)?;
        let credentials = &target.credentials;
        let name = Some(&credentials.server_name).filter(|name| !name.is_empty()).unwrap_or(&host).clone();
        let authorization = match credentials.authorization.as_str() {
            "" => None,
            text => {
                let mut value = HeaderValue::from_str(text).map_err(|_| "the token cannot be sent".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let place = target.place.clone();
        Ok(Self { place, url, host, port, name, authorization, tls, idle: Mutex::default() })
    }

    /// Sends a document; the connection can be kept once the answer is read.
    pub async fn send(&self, ways: &Ways, query: &str, document: Bytes) -> Result<(Response<Incoming>, Open), String> {
        while let Some(mut open) = self.waiting() {
            if open.ready().await.is_err() {
                continue;
            }
            match open.try_send_request(self.request(query, document.clone())?).await {
                Ok(response) => return Ok((response, open)),
                Err(mut error) => {
                    // Else it was closed before any of this was sent.
                    if error.take_message().is_none() {
                        return Err(lost(&error.into_error()));
                    }
                }
            }
        }
        let mut open = self.connect(ways).await?;
        let response = open.send_request(self.request(query, document)?).await.map_err(|error| lost(&error))?;
        Ok((response, open))
    }

    /// Keeps a connection for the next call.
    pub fn keep(&self, open: Open) {
        let mut idle = self.idle.lock();
        idle.retain(|(open, since)| !open.is_closed() && since.elapsed() < IDLE_FOR);
        if idle.len() < IDLE && !open.is_closed() {
            idle.push((open, Instant::now()));
        }
    }

    fn waiting(&self) -> Option<Open> {
        let mut idle = self.idle.lock();
        idle.retain(|(open, since)| !open.is_closed() && since.elapsed() < IDLE_FOR);
        idle.pop().map(|(open, _)| open)
    }

    fn request(&self, query: &str, document: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let host = self.url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(with_query(target, query))
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kontiki-admission")
            .body(Full::new(document))
            .map_err(|why| why.to_string())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn connect(&self, ways: &Ways) -> Result<Open, String> {
        let stream = self.dial(ways).await?;
        let tls = handshake(&self.tls, &self.name, stream).await?;
        let (open, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(|error| lost(&error))?;
        // Ends with the last handle of it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a server that was called ended");
            }
        });
        Ok(open)
    }

    async fn dial(&self, ways: &Ways) -> Result<Connection, String> {
        let destinations = match &self.place {
            Place::Url(_) => looked_up(&self.host, self.port).await?,
            Place::Service { namespace, name, port, .. } => {
                ways.to_service(namespace, name, *port).map_err(|why| why.to_string())?
            }
        };
        ways.dial(&destinations).await
    }
}

/// Why a connection ended before its answer.
pub(crate) fn lost(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
