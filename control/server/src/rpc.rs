//! gRPC over our own TLS: connections out, connections in, and who is calling.
//!
//! Invariants
//! - Every connection is TLS; a handshake that takes too long is dropped without holding up others.
//! - The caller's identity is the certificate of its connection, never a field of a message.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kontiki_gate::{Gate, Guarded, Patience, Place};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Channel, Endpoint, Uri,
    server::{Connected, TcpConnectInfo, TlsConnectInfo},
};
use tracing::debug;

use crate::pki::{self, Bearer};

const CONNECT: Duration = Duration::from_secs(3);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way at once; more wait in the listener's backlog.
const HANDSHAKES: usize = 256;
/// Connections that were accepted and not yet taken over by the gRPC server.
const ACCEPTED: usize = 64;
/// Agents and masters read all the time.
const PATIENCE: Patience = Patience { greeting: Duration::from_secs(5), stall: Duration::from_secs(30) };
/// Calls of one connection at once. An agent has a session, and now and then asks something.
const STREAMS: u32 = 1000;
/// Streams that a client has reset before they were looked at. More of them end the connection.
const RESET_STREAMS: usize = 32;
/// Largest message either way: an object may take 1.5 MB, its JSON is not compressed.
pub const MAX_MESSAGE: usize = 16 << 20;
/// How often an idle connection is probed, and how long the answer may take.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Connects to `address` (`host:port`).
///
/// # Errors
/// The address is malformed, nobody answers, or the TLS handshake fails.
pub async fn connect(address: &str, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |uri: Uri| dial(uri, tls.clone()));
    Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not an address"))?
        .connect_timeout(CONNECT + HANDSHAKE)
        .http2_keep_alive_interval(PROBE.0)
        .keep_alive_timeout(PROBE.1)
        .initial_connection_window_size(4 << 20)
        .initial_stream_window_size(1 << 20)
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("cannot reach {address}"))
}

async fn dial(uri: Uri, tls: Arc<ClientConfig>) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(0);
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await.map_err(late)??;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = timeout(HANDSHAKE, TlsConnector::from(tls).connect(name, tcp)).await.map_err(late)??;
    Ok(TokioIo::new(stream))
}

/// An incoming connection behind the gate.
pub struct Socket(Guarded<TlsStream<TcpStream>>);

impl Connected for Socket {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().connect_info()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Incoming TLS connections that `gate` lets in, for `serve_with_incoming`. Ends with `stop`.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    gate: Gate,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Socket>> {
    let (tx, rx) = mpsc::channel(ACCEPTED);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: an unaccepted connection stays in the backlog.
                accepted = accept(&listener, &slots, &gate) => accepted,
            };
            let Some((tcp, place, slot)) = accepted else { continue };
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            tokio::spawn(async move {
                let _slot = slot;
                match timeout(HANDSHAKE, shake_hands(&acceptor, tcp, place)).await {
                    // The receiver is gone only when the server stops.
                    Ok(Ok(stream)) => drop(tx.send(Ok(stream)).await),
                    Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                    Err(_) => debug!("TLS handshake timed out"),
                }
            });
        }
    });
    ReceiverStream::new(rx)
}

async fn shake_hands(acceptor: &TlsAcceptor, tcp: TcpStream, place: Place) -> io::Result<Socket> {
    let stream = acceptor.accept(tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    place.identify(shown.map(|certificate| &**certificate))?;
    Ok(Socket(place.guard(stream, PATIENCE)))
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    gate: &Gate,
) -> Option<(TcpStream, Place, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((tcp, from)) => {
            let _ = tcp.set_nodelay(true);
            Some((tcp, gate.enter(from.ip()).ok()?, slot))
        }
        Err(error) => {
            // Out of file descriptors, most likely: give others time to close theirs.
            debug!(%error, "accept failed");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// A gRPC server with our limits.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PROBE.0))
        .http2_keepalive_timeout(Some(PROBE.1))
        .initial_connection_window_size(Some(4 << 20))
        .initial_stream_window_size(Some(1 << 20))
        .max_concurrent_streams(Some(STREAMS))
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS))
}

/// Who sent `request`.
pub fn caller<T>(request: &tonic::Request<T>) -> Bearer {
    match request.peer_certs() {
        Some(certs) => certs.first().map_or(Bearer::Other, |der| pki::bearer(der)),
        None => Bearer::Other,
    }
}
