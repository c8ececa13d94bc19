//! TCP, TLS and HTTP: connections in, requests to [`crate::http`].
//!
//! Every wait on a client has a limit: the handshake, the first word, the request head, the body, the room for an answer.
//! Connections are counted at the gate. One that breaks a rule is dropped; nothing a client does ends the accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use kontiki_gate::{Gate, Patience, Place};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::identity::certificate_user;
use crate::http::{Peer, handle};
use crate::proxies::Shown;
use crate::{Api, User};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// How long requests in flight may take after the stop.
const DRAIN: Duration = Duration::from_secs(5);
/// A pause when the process is out of sockets, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_STREAMS: u32 = 250;
/// What is kept ready of each answer over HTTP/2 while its client takes nothing.
const MAX_SEND_BUFFER: usize = 128 << 10;
/// Streams that a client has reset before they were looked at. More of them end the connection.
const RESET_STREAMS: usize = 32;
const PING: Duration = Duration::from_secs(20);
/// Heads larger than this are refused with 431.
const MAX_HEAD: usize = 128 << 10;

impl Api {
    /// Serves HTTPS until `stop`, then ends watches, lets requests finish and returns. `tls`
    /// should offer `h2` and `http/1.1`, and ask for client certificates of the cluster's CA
    /// without requiring one. `gate` counts connections, and ends those of certificates that it bars.
    ///
    /// # Errors
    /// The listener's address cannot be read.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        gate: Gate,
        stop: CancellationToken,
    ) -> io::Result<()> {
        serve(self, listener, tls, gate, stop).await
    }

    /// Answers one HTTP request as [`serve`](Self::serve) would, for a user whose certificate (if
    /// any) has been checked already.
    pub async fn answer(
        &self,
        user: Option<User>,
        request: http::Request<axum::body::Body>,
    ) -> http::Response<axum::body::Body> {
        let local = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 6443));
        let peer = Peer { local, remote: None, user: user.map(Arc::new), proxy: false, leave: Arc::default() };
        handle(self, &peer, request).await
    }
}

async fn serve(
    api: &Api,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    gate: Gate,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(tls);
    loop {
        // Both arms are cancel-safe: accept loses no connection, a token no signal.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => {
                let Ok(place) = gate.enter(from.ip()) else { continue };
                let (api, acceptor, stop) = (api.clone(), acceptor.clone(), stop.clone());
                api.inner.tasks.clone().spawn(connection(api, socket, place, acceptor, local, stop));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    api.inner.stop.cancel();
    api.inner.tasks.close();
    if tokio::time::timeout(DRAIN, api.inner.tasks.wait()).await.is_err() {
        tracing::info!("some requests were cut off at the stop");
    }
    Ok(())
}

/// Waits until a connection is to end: with the server, or for its own part. Cancel-safe.
async fn ended(stop: &CancellationToken, leave: &Notify) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = leave.notified() => {}
    }
}

async fn connection(
    api: Api,
    socket: TcpStream,
    place: Place,
    acceptor: TlsAcceptor,
    listen: SocketAddr,
    stop: CancellationToken,
) {
    let _ = socket.set_nodelay(true); // only a matter of speed
    let local = socket.local_addr().unwrap_or(listen);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if let Err(error) = place.identify(certificate.map(|certificate| &**certificate)) {
        return tracing::info!(%error, "a connection was refused");
    }
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = match &api.inner.config.proxies {
        Some(proxies) => proxies.judge(chain, api.now()),
        // TLS lets in certificates of the cluster alone.
        None => Shown { user: true, proxy: false },
    };
    let user = certificate.filter(|_| shown.user).and_then(certificate_user).map(Arc::new);
    let leave = Arc::new(Notify::new());
    let remote = stream.get_ref().0.peer_addr().ok().map(|remote| remote.ip());
    let peer = Peer { local, remote, user, proxy: shown.proxy, leave: Arc::clone(&leave) };
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(crate::http::handle(&api, &peer, request.map(Body::new)).await) }
    });
    let builder = builder();
    let stream = place.guard(stream, Patience::default());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // Neither arm is dropped unfinished except by the end of the process.
    let result = tokio::select! {
        result = &mut serving => result,
        () = ended(&stop, &leave) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_STREAMS);
    builder
}
