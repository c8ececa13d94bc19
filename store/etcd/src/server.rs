//! The client port: TLS, HTTP/2 and HTTP/1.1 on one address.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kontiki_gate::{Gate, Patience, Place};
use kontiki_store::Store;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Api, http::Router};

const HANDSHAKE: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A client that does not answer pings for so long is gone.
const PING: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);
/// Requests and watches of one connection at once; clients keep more to themselves until some have ended.
const STREAMS: u32 = 4096;
/// Streams that a client has reset before they were looked at. More of them end the connection.
const RESET_STREAMS: usize = 128;
/// How long the head of a request over HTTP/1 may take.
const HEAD: Duration = Duration::from_secs(30);
/// A program that takes nothing for so long is broken; it begins again where it was.
const PATIENCE: Patience = Patience { greeting: Duration::from_secs(10), stall: Duration::from_secs(60) };

/// Which of the CA's certificates may use the API.
#[derive(Clone, Copy, Debug)]
pub enum Admit {
    /// All of them.
    Any,
    /// Those whose subject has one of these organizations.
    Organizations(&'static [&'static str]),
}

impl Admit {
    fn admits(self, chain: Option<&[CertificateDer<'_>]>) -> bool {
        let Some(certificate) = chain.and_then(<[_]>::first) else { return false };
        match self {
            Self::Any => true,
            Self::Organizations(wanted) => {
                let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
                parsed.subject().iter_organization().any(|name| name.as_str().is_ok_and(|name| wanted.contains(&name)))
            }
        }
    }
}

/// The bound client port.
pub struct Listener {
    listener: TcpListener,
    tls: TlsAcceptor,
    admit: Admit,
    gate: Gate,
}

impl Listener {
    /// Takes the address. `tls` has to ask for client certificates.
    ///
    /// # Errors
    /// If it is taken or not ours.
    pub fn bind(address: SocketAddr, tls: Arc<ServerConfig>, admit: Admit) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(StdListener::from(socket))?;
        Ok(Self { listener, tls: TlsAcceptor::from(tls), admit, gate: Gate::default() })
    }

    /// The same behind `gate`, which other ports may share.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Serves until told to stop; connections are cut then.
    pub async fn run(self, store: Store, stop: CancellationToken) {
        let router = Router::new(Api::new(store));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                // Cancel-safe: an unaccepted connection stays in the backlog.
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => {
                    let Ok(place) = self.gate.enter(from.ip()) else { continue };
                    let (tls, admit, router, stop) = (self.tls.clone(), self.admit, router.clone(), stop.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            // Dropped when told to stop: clients see a broken connection and go elsewhere.
                            result = serve(tcp, place, tls, admit, router) => if let Err(error) = result {
                                tracing::debug!(%from, %error, "a client's connection ended");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a client failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

async fn serve(tcp: TcpStream, place: Place, tls: TlsAcceptor, admit: Admit, router: Router) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await.map_err(io::Error::other)??;
    let shown = stream.get_ref().1.peer_certificates();
    place.identify(shown.and_then(|chain| chain.first()).map(|certificate| &**certificate))?;
    if !admit.admits(shown) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate does not admit to the etcd API"));
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER);
    builder.serve_connection(TokioIo::new(place.guard(stream, PATIENCE)), router).await.map_err(io::Error::other)
}
