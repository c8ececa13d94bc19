//! Connections to endpoints: opened, kept for a while, used again.
//!
//! Invariants
//! - A connection has one request at a time, and is kept only when that is over on both sides.
//! - What was written to an endpoint is not written to another, but for a request without a body whose method is safe: once.
//! - Nothing is kept to an endpoint that no route leads to.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, Uri, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    body::{self, Any, Progress},
    socket::tune,
};

/// How long an endpoint may take to accept.
const CONNECT: Duration = Duration::from_secs(2);
/// How many endpoints are tried.
const TRIED: usize = 3;
/// How long a connection is kept that nobody uses, and how many to one endpoint.
const KEPT: Duration = Duration::from_secs(15);
const MOST_KEPT: usize = 32;
/// The longest head of an answer; more than this ends the connection.
const HEAD: usize = 64 << 10;

type Sender = SendRequest<Any>;
/// Connections that nobody uses, and since when.
type Kept = HashMap<SocketAddr, Vec<(Sender, Instant)>>;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No endpoint takes a connection.
    Unreachable(std::io::Error),
    /// An endpoint took the request and ended without an answer, or with what is none.
    Broken(hyper::Error),
    /// There is no answer yet.
    Slow,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pool {
    kept: Arc<Mutex<Kept>>,
}

/// A request that may be sent again, as it was.
struct Spare {
    method: Method,
    uri: Uri,
    headers: http::HeaderMap,
}

impl Spare {
    fn of(request: &Request<Any>) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), headers: request.headers().clone() }
    }

    fn request(self) -> Request<Any> {
        let mut request = Request::new(body::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

fn may_be_repeated(request: &Request<Any>) -> bool {
    use http_body::Body as _;
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    safe && request.body().is_end_stream() && !request.headers().contains_key(http::header::UPGRADE)
}

impl Pool {
    /// Keeps no connections but those to `targets`, and none that has been waiting for long.
    pub(crate) fn keep(&self, targets: &HashSet<SocketAddr>) {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|target, senders| {
            senders.retain(|(sender, since)| now < *since + KEPT && !sender.is_closed());
            targets.contains(target) && !senders.is_empty()
        });
    }

    fn take(&self, target: SocketAddr) -> Option<Sender> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        let senders = kept.get_mut(&target)?;
        while let Some((sender, since)) = senders.pop() {
            if now < since + KEPT && sender.is_ready() {
                return Some(sender);
            }
        }
        kept.remove(&target);
        None
    }

    /// Keeps a connection once it is ready for another request.
    fn put_back(
        &self,
        target: SocketAddr,
        mut sender: Sender,
        still_wanted: impl Fn(SocketAddr) -> bool + Send + 'static,
    ) {
        let kept = Arc::clone(&self.kept);
        tokio::spawn(async move {
            if sender.ready().await.is_err() || !still_wanted(target) {
                return;
            }
            let mut kept = kept.lock();
            let senders = kept.entry(target).or_default();
            if senders.len() < MOST_KEPT {
                senders.push((sender, Instant::now()));
            }
        });
    }

    /// Sends a request to the first of `targets` that takes a connection.
    ///
    /// # Errors
    /// There is no answer, and why.
    ///
    /// # Cancel safety
    /// When it is dropped the connection ends, and with it whatever the endpoint does for it.
    pub(crate) async fn exchange(
        &self,
        targets: Vec<SocketAddr>,
        mut request: Request<Any>,
        progress: &Progress,
        patience: Duration,
        still_wanted: impl Fn(SocketAddr) -> bool + Clone + Send + 'static,
    ) -> Result<Response<Incoming>, Fault> {
        let mut repeats = usize::from(may_be_repeated(&request));
        let mut fault = None;
        let mut targets = targets.into_iter().take(TRIED).peekable();
        while let Some(target) = targets.peek().copied() {
            let (mut sender, used) = match self.take(target) {
                Some(sender) => (sender, true),
                None => match connect(target).await {
                    Ok(sender) => (sender, false),
                    Err(error) => {
                        fault = Some(Fault::Unreachable(error));
                        targets.next();
                        continue;
                    }
                },
            };
            let spare = (repeats > 0).then(|| Spare::of(&request));
            match send(&mut sender, request, progress, patience).await {
                Ok(response) => {
                    self.put_back(target, sender, still_wanted);
                    return Ok(response);
                }
                Err(Unanswered::Slow) => return Err(Fault::Slow),
                // Nothing of it was written.
                Err(Unanswered::Unsent(unsent, error)) => {
                    request = *unsent;
                    fault = Some(Fault::Broken(error));
                }
                Err(Unanswered::Broken(error)) => match spare {
                    Some(spare) => {
                        repeats -= 1;
                        request = spare.request();
                        fault = Some(Fault::Broken(error));
                    }
                    None => return Err(Fault::Broken(error)),
                },
            }
            // A connection that was kept may just have been old.
            if !used {
                targets.next();
            }
        }
        Err(fault.unwrap_or(Fault::Slow))
    }
}

async fn connect(target: SocketAddr) -> std::io::Result<Sender> {
    let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "it takes no connection");
    let stream = timeout(CONNECT, TcpStream::connect(target)).await.unwrap_or_else(|_| Err(late()))?;
    tune(&stream);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%target, %error, "a connection to an endpoint ended");
        }
    });
    Ok(sender)
}

enum Unanswered {
    Unsent(Box<Request<Any>>, hyper::Error),
    Broken(hyper::Error),
    Slow,
}

/// Waits for an answer, as long as the request's body moves or moved not long ago.
async fn send(
    sender: &mut Sender,
    request: Request<Any>,
    progress: &Progress,
    patience: Duration,
) -> Result<Response<Incoming>, Unanswered> {
    let began = Instant::now();
    let mut answer = std::pin::pin!(sender.try_send_request(request));
    loop {
        let until = progress.moved().max(began) + patience;
        tokio::select! {
            // Polled where it is: nothing is lost when the other arm is first.
            answer = &mut answer => return answer.map_err(|mut error| match error.take_message() {
                Some(unsent) => Unanswered::Unsent(Box::new(unsent), error.into_error()),
                None => Unanswered::Broken(error.into_error()),
            }),
            () = sleep_until(until) => {
                if progress.moved().max(began) + patience <= Instant::now() {
                    return Err(Unanswered::Slow);
                }
            }
        }
    }
}

/// A request with another head and the same body.
pub(crate) fn assemble(parts: &Parts, headers: http::HeaderMap, body: Any) -> Request<Any> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    // Only what stands behind the host: that is what a server is asked for.
    let path = parts.uri.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    *request.headers_mut() = headers;
    request
}
