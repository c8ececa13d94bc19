//! Listeners and connections of clients.
//!
//! Invariants
//! - Every wait on a client has a limit: the handshake, the first word, the head, the body, the room for an answer.
//! - Connections are counted at the gate, before any cryptography; what a client does ends its own connection at most.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use kontiki_gate::{Gate, Patience};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    Shared,
    body::STALL,
    forward::{self, Client},
    socket::tune,
};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a head may take, and how long a connection may wait for its next request.
const HEAD: Duration = Duration::from_secs(30);
const PATIENCE: Patience = Patience { greeting: Duration::from_secs(10), stall: STALL };
/// A pause when the process is out of sockets, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Heads larger than this are refused with 431.
const MAX_HEAD: usize = 32 << 10;
const MAX_STREAMS: u32 = 100;
/// What is taken of bodies over HTTP/2 before somebody reads them, and kept of answers that the client does not take.
const WINDOW: u32 = 256 << 10;
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that a client has reset before they were looked at. More of them end the connection.
const RESET_STREAMS: usize = 32;
const PING: Duration = Duration::from_secs(20);

/// Accepts connections until `stop`.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    gate: Gate,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: accept loses no connection.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => {
                let address = from.ip().to_canonical();
                let Ok(place) = gate.enter(address) else { continue };
                tune(&socket);
                let (shared, tls, stop) = (Arc::clone(&shared), tls.clone(), stop.clone());
                shared.tasks.clone().spawn(async move {
                    let client = Client { address, secure: tls.is_some() };
                    match tls {
                        None => serve(shared, client, place.guard(socket, PATIENCE), stop).await,
                        Some(tls) => match timeout(HANDSHAKE, tls.accept(socket)).await {
                            Ok(Ok(stream)) => serve(shared, client, place.guard(stream, PATIENCE), stop).await,
                            Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                            Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
                        },
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S>(shared: Arc<Shared>, client: Client, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(forward::answer(shared, client, request).await) }
    });
    let builder = builder();
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    // Neither arm is dropped unfinished except by the end of the process.
    let result = tokio::select! {
        result = &mut serving => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a client's connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_STREAMS);
    builder
}
