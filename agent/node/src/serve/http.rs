//! The agent's own paths, as `nodes/proxy` reaches them: one HTTP/1.1 request a tunnel.
//!
//! Not here: who may ask. The masters have decided that (`nodes/proxy`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use k8s_openapi::api::core::v1::Pod;
use kontiki_proto::node::Logs;
use serde_json::json;

use super::{logs, stats};
use crate::{
    node::Node,
    session::tunnels::{TunnelError, TunnelReceiver, TunnelSender},
};

/// Longest head of a request.
const MAX_HEAD: usize = 64 << 10;

/// An answer that is known as a whole.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn json(body: String) -> Self {
        Self { status: "200 OK", kind: "application/json", body }
    }

    fn bytes(&self, with_body: bool) -> Bytes {
        let Self { status, kind, body } = self;
        let length = body.len();
        let body = if with_body { body.as_str() } else { "" };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close");
        format!("{head}\r\n\r\n{body}").into()
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Health,
    Ready,
    Stats,
    Pods,
    Logs(Logs),
    Nothing,
}

/// Serves one request to its end.
pub(crate) async fn serve(node: &Node, tx: &TunnelSender, mut rx: TunnelReceiver) -> Result<(), TunnelError> {
    let Some(head) = read_head(&mut rx).await else {
        return Err(TunnelError::new(400, "the request has no end of headers"));
    };
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !["GET", "HEAD"].contains(&method) {
        tx.send(Answer::text("405 Method Not Allowed", "405: Method Not Allowed").bytes(true)).await;
        return Ok(());
    }
    let answer = match wanted(target) {
        Wanted::Logs(request) => return container_logs(node, &request, tx).await,
        wanted => answer(node, &wanted).await,
    };
    tx.send(answer.bytes(method == "GET")).await;
    Ok(())
}

async fn read_head(rx: &mut TunnelReceiver) -> Option<String> {
    let mut seen = BytesMut::new();
    while seen.len() < MAX_HEAD {
        seen.extend_from_slice(&rx.next().await?);
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            return Some(String::from_utf8_lossy(&seen[..end]).into_owned());
        }
    }
    None
}

fn wanted(target: &str) -> Wanted {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        ["healthz" | "livez", ..] => Wanted::Health,
        ["readyz"] => Wanted::Ready,
        ["stats", "summary"] => Wanted::Stats,
        ["pods" | "runningpods"] => Wanted::Pods,
        ["containerLogs", namespace, pod, container] => Wanted::Logs(log_request(namespace, pod, container, query)),
        _ => Wanted::Nothing,
    }
}

fn log_request(namespace: &str, pod: &str, container: &str, query: &str) -> Logs {
    let value = |wanted: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    let flag = |wanted: &str| matches!(value(wanted), Some("true" | "1"));
    let number = |wanted: &str| value(wanted).and_then(|text| text.parse().ok());
    Logs {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        since_seconds: number("sinceSeconds"),
        tail_lines: number("tailLines"),
        limit_bytes: number("limitBytes"),
        ..Logs::default()
    }
}

async fn answer(node: &Node, wanted: &Wanted) -> Answer {
    match wanted {
        Wanted::Health => Answer::text("200 OK", "ok"),
        Wanted::Ready if node.is_online() && node.is_ready() => Answer::text("200 OK", "ok"),
        Wanted::Ready => Answer::text("503 Service Unavailable", "not ready"),
        Wanted::Stats => match stats::summary(node).await {
            Ok(summary) => Answer::json(summary.to_string()),
            Err(error) => Answer::text("500 Internal Server Error", &error.to_string()),
        },
        Wanted::Pods => pods(&node.objects.pods()),
        Wanted::Logs(_) | Wanted::Nothing => Answer::text("404 Not Found", "404 page not found"),
    }
}

fn pods(pods: &[Arc<Pod>]) -> Answer {
    let items: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
    Answer::json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string())
}

/// The text of a container, as long as it lasts: its end is that of the connection.
async fn container_logs(node: &Node, request: &Logs, tx: &TunnelSender) -> Result<(), TunnelError> {
    if node.objects.pod(&request.namespace, &request.pod).is_none() {
        let text = format!("pod \"{}\" not found", request.pod);
        tx.send(Answer::text("404 Not Found", &text).bytes(true)).await;
        return Ok(());
    }
    tx.send(Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")).await;
    match logs::serve(node, request, tx).await {
        // The head is out: all that is left to tell is the text itself.
        Err(error) => {
            tx.send(error.message.into()).await;
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_kubelets() {
        for (target, expect) in [
            ("/healthz", Wanted::Health),
            ("/healthz/ping", Wanted::Health),
            ("/readyz?verbose", Wanted::Ready),
            ("/stats/summary", Wanted::Stats),
            ("/pods/", Wanted::Pods),
            ("/", Wanted::Nothing),
            ("/containerLogs/d/p", Wanted::Nothing),
            (
                "/containerLogs/d/p/c?follow=true&tailLines=5&x",
                Wanted::Logs(Logs {
                    namespace: "d".into(),
                    pod: "p".into(),
                    container: "c".into(),
                    follow: true,
                    tail_lines: Some(5),
                    ..Logs::default()
                }),
            ),
        ] {
            assert_eq!(wanted(target), expect, "{target}");
        }
        let answer = Answer::text("200 OK", "ok");
        assert!(answer.bytes(true).ends_with(b"Content-Length: 2\r\nConnection: close\r\n\r\nok"));
        assert!(answer.bytes(false).ends_with(b"Content-Length: 2\r\nConnection: close\r\n\r\n"), "as HEAD has it");
    }
}
