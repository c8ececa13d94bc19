//! One connection to one member, made when it is needed and made again when it broke.
//!
//! Invariants
//! - Connecting is one shared task: a caller that gives up does not start it over.
//! - A request that fails with [`NotSent`] has not reached the other side; of any other failure the
//!   outcome is unknown. Callers that retry rely on it.
//! - A peer that stops answering pings is dropped, so nothing waits on a dead connection for long.

use std::{
    fmt, io,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::tls::PeerIdentity;

/// TCP, TLS and HTTP/2 together. A peer that takes longer is as good as gone; the next attempt
/// follows at once.
const CONNECT: Duration = Duration::from_millis(750);
const PING: Duration = Duration::from_millis(500);
const PING_ANSWER: Duration = Duration::from_millis(1000);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What a connection is for. Bulk must not delay what keeps a leader alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Lane {
    /// Heartbeats and votes.
    Control,
    /// Requests for the leader. Apart from heartbeats, which are given up often and fast.
    Forward,
    /// Log replication.
    Log,
    /// Snapshots.
    Snapshot,
}

/// The request did not leave this member.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotSent(pub String);

type Connecting = Shared<BoxFuture<'static, Result<Connection, NotSent>>>;

enum State {
    Idle,
    Connecting(Connecting),
    Ready(Connection),
}

/// One connection to one member.
pub(crate) struct Link {
    address: String,
    identity: PeerIdentity,
    state: Mutex<State>,
}

impl Link {
    pub fn new(address: String, identity: PeerIdentity) -> Self {
        Self { address, identity, state: Mutex::new(State::Idle) }
    }

    /// The live connection, or a new one.
    pub async fn get(&self) -> Result<Connection, NotSent> {
        let connecting = {
            let mut state = self.state.lock();
            match &*state {
                State::Ready(connection) if !connection.sender.is_closed() => return Ok(connection.clone()),
                State::Connecting(connecting) => connecting.clone(),
                _ => {
                    let connecting = self.connect();
                    *state = State::Connecting(connecting.clone());
                    connecting
                }
            }
        };
        let result = connecting.await;
        let mut state = self.state.lock();
        if matches!(*state, State::Connecting(_)) {
            *state = result.as_ref().map_or(State::Idle, |connection| State::Ready(connection.clone()));
        }
        result
    }

    fn connect(&self) -> Connecting {
        let attempt = connect(self.address.clone(), self.identity.clone());
        let task = tokio::spawn(async move {
            match tokio::time::timeout(CONNECT, attempt).await {
                Ok(result) => result.map_err(|error| NotSent(error.to_string())),
                Err(_) => Err(NotSent("connecting timed out".to_owned())),
            }
        });
        task.map(|joined| joined.unwrap_or_else(|error| Err(NotSent(error.to_string())))).boxed().shared()
    }
}

async fn connect(address: String, identity: PeerIdentity) -> io::Result<Connection> {
    let tcp = TcpStream::connect(&address).await?;
    tcp.set_nodelay(true)?;
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let stream = TlsConnector::from(identity.client).connect(name, tcp).await?;
    if !identity.members.admits(stream.get_ref().1.peer_certificates()) {
        return Err(io::Error::other("the other side is not a master of this cluster"));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a peer broke");
        }
    });
    Ok(Connection { sender })
}

/// An established connection, as tonic's clients use it.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sent = self.sender.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|mut error| {
                let unsent = error.take_message().is_some();
                let text = error.into_error().to_string();
                if unsent { NotSent(text).into() } else { BoxError::from(text) }
            })
        })
    }
}

/// Whether a failed call is known not to have reached the other side.
pub(crate) fn not_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<NotSent>() {
            return true;
        }
        source = error.source();
    }
    false
}
