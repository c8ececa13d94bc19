//! Streams to nodes for clients that speak WebSocket. The node is the test; what it says is SPDY.

use bytes::Bytes;
use kontiki_gate::Gate;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::served::{Served, TlsClient, serve};
use crate::common::{Opened, World};

const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";

/// A client that asked for `path` of a bound pod with this protocol, and the node's end.
struct Session {
    client: TlsClient,
    node: Opened,
    /// Serves as long as it lives.
    _served: (Served, World),
}

impl Session {
    async fn open(path: &str, protocol: &str) -> Session {
        let mut world = World::new().await;
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
        world.post("/api/v1/namespaces/a/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
        let served = serve(&world, &world.api, Gate::default()).await;
        let administrator = world.authority.issue("admin", "system:masters");
        let mut client = served.connect(&administrator).await.expect("TLS");
        let head = format!(
            "GET /api/v1/namespaces/a/pods/p/{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.expect("sent");
        let node = world.nodes.recv().await.expect("a stream to the node");
        Session { client, node, _served: (served, world) }
    }

    /// What the node is told, up to and with this.
    async fn told(&mut self, end: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        while !seen.windows(end.len()).any(|window| window == end) {
            seen.extend_from_slice(&self.node.from_api.recv().await.expect("the API tells the node"));
        }
        seen
    }

    /// The node says this.
    async fn say(&mut self, bytes: impl Into<Bytes>) {
        self.node.to_api.send(Ok(bytes.into())).await.expect("the API listens");
    }

    /// What the client gets, up to and with this.
    async fn got(&mut self, end: &[u8]) -> Vec<u8> {
        let mut seen = Vec::new();
        while !seen.windows(end.len()).any(|window| window == end) {
            let read = self.client.read_buf(&mut seen).await.expect("readable");
            assert!(read > 0, "ended early: {}", seen.escape_ascii());
        }
        seen
    }

    /// The client sends a message.
    async fn send(&mut self, message: &[u8]) {
        let frame = [&[0x82, 0x80 | message.len() as u8, 0, 0, 0, 0][..], message].concat();
        self.client.write_all(&frame).await.expect("sent");
    }
}

/// SPDY's answer to the opening of a stream.
fn reply(stream: u8) -> Vec<u8> {
    vec![0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, stream]
}

fn data(stream: u8, data: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, stream, 0, 0, 0, data.len() as u8][..], data].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_run_for_a_client_that_speaks_v5() {
    let path = "exec?command=cat&stdin=true&stdout=true&stderr=true";
    let mut session = Session::open(path, "v5.channel.k8s.io, v4.channel.k8s.io").await;
    let head = String::from_utf8(session.told(b"\r\n\r\n").await).expect("text");
    assert!(head.starts_with("POST / HTTP/1.1") && head.contains("Version: v4.channel.k8s.io"), "{head}");
    session.say(UPGRADED).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        session.told(kind.as_bytes()).await;
    }
    let answer = session.got(b"\x82\x01\x01").await;
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.contains("101 switching") && answer.contains("v5.channel.k8s.io"), "{answer}");
    session.say([1, 3, 5, 7].map(reply).concat()).await;
    session.send(b"\0hello").await;
    assert!(session.told(b"hello").await.ends_with(&data(3, b"hello")));
    session.send(b"\xff\0").await;
    assert_eq!(session.told(&[0, 0, 0, 3, 1, 0, 0, 0]).await.len(), 8, "the input ends");
    session.say(data(5, b"hello")).await;
    session.got(b"\x82\x06\x01hello").await;
    session.say(data(1, br#"{"status":"Success"}"#)).await;
    drop(session.node);
    let mut rest = Vec::new();
    let close = [0x88, 2, 3, 0xe8];
    while !rest.ends_with(&close) {
        assert!(session.client.read_buf(&mut rest).await.expect("readable") > 0, "{}", rest.escape_ascii());
    }
    assert!(rest.starts_with(b"\x82\x15\x03{\"status\":\"Success\"}"), "{}", rest.escape_ascii());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_node_is_lost_has_failed() {
    let mut session = Session::open("exec?command=sleep&stdout=true", "v4.channel.k8s.io").await;
    session.told(b"\r\n\r\n").await;
    session.say(UPGRADED).await;
    session.told(b"stdout").await;
    session.say([1, 3].map(reply).concat()).await;
    let lost = kontiki_api::NodeProxyError { code: 503, message: "the node is lost".into() };
    session.node.to_api.send(Err(lost)).await.expect("the API listens");
    let seen = session.got(&[3, 0xf3]).await;
    let text = String::from_utf8_lossy(&seen);
    assert!(text.contains(r#""status":"Failure""#) && text.contains("the node is lost"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_through_a_tunnel() {
    let mut session = Session::open("portforward", "SPDY/3.1+portforward.k8s.io").await;
    let head = String::from_utf8(session.told(b"\r\n\r\n").await).expect("text");
    assert!(head.contains("Version: portforward.k8s.io"), "{head}");
    session.say([UPGRADED, b"to the client"].concat()).await;
    let answer = session.got(b"\x82\x0dto the client").await;
    assert!(String::from_utf8_lossy(&answer).contains("SPDY/3.1+portforward.k8s.io"));
    session.send(b"to the node").await;
    assert_eq!(session.told(b"to the node").await, b"to the node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_knows_is_refused() {
    let world = World::new().await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    world.post("/api/v1/namespaces/a/pods", json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let ask = |protocol: &str| {
        http::Request::get("/api/v1/namespaces/a/pods/p/exec?command=ls&stdout=true")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .body(axum::body::Body::empty())
            .expect("request")
    };
    let answer = world.api.answer(Some(crate::common::admin()), ask("v9.channel.k8s.io")).await;
    assert_eq!(answer.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_text_in_messages() {
    for (protocol, first, second) in [
        ("binary.k8s.io", &b"\x82\0"[..], &b"\x82\x04one\n"[..]),
        ("base64.binary.k8s.io", b"\x81\0", b"\x81\x08b25lCg=="),
    ] {
        let mut session = Session::open("log?follow=true", protocol).await;
        session.say("one\n").await;
        let mut seen = session.got(second).await;
        assert!(seen.windows(first.len()).any(|window| window == first), "{}", seen.escape_ascii());
        drop(session.node);
        while !seen.ends_with(&[0x88, 2, 3, 0xe8]) {
            assert!(session.client.read_buf(&mut seen).await.expect("readable") > 0);
        }
    }
}
