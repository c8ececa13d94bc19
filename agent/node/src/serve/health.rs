//! `/healthz` and `/readyz` on loopback: the only port of the agent.

use std::{net::Ipv4Addr, sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until `stop`. A port that is taken is reported and tried again: pods matter more.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let port = node.config.health_port;
    let listener = loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => break listener,
            Err(error) => tracing::warn!(port, %error, "the health port cannot be opened"),
        }
        tokio::select! {
            () = tokio::time::sleep(PATIENCE) => {}
            () = stop.cancelled() => return,
        }
    };
    loop {
        tokio::select! {
            // Cancel-safe: a connection not accepted yet stays in the backlog.
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let _ = tokio::time::timeout(PATIENCE, answer(&node, stream)).await;
            },
            () = stop.cancelled() => return,
        }
    }
}

async fn answer(node: &Node, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = vec![0; 1024];
    let read = stream.read(&mut head).await?;
    let head = String::from_utf8_lossy(&head[..read]);
    let path = head.split_whitespace().nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/healthz" | "/livez" => ("200 OK", "ok"),
        "/readyz" if node.is_online() && node.ready.load(Ordering::SeqCst) => ("200 OK", "ok"),
        "/readyz" => ("503 Service Unavailable", "not ready"),
        _ => ("404 Not Found", "404 page not found"),
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
