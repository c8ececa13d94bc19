//! `exec`, `attach`, `portforward`: an upgraded connection, joined to the node.
//!
//! - SPDY is tunnelled raw: the API sends the client's request head to the node, waits for the response head of the
//!   container runtime, gives it to the client, and then copies both ways until one side ends.
//! - WebSocket ends here, whatever its protocol: the runtime is asked in SPDY, and [`channels`] says what that is to the
//!   client.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use kontiki_machinery::subresource::OnNode;
use kontiki_proto::node::{Open, Stream, open::What};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Status;
use crate::call::{Answer, Call};
use crate::node_proxy::NodeStream;
use crate::object::meta_str;
use crate::sub::channels::{self, Plain, Protocol};
use crate::sub::log::node_error;
use crate::websocket::{self, LINGER};

/// Longest response head that is believed.
const MAX_HEAD: usize = 64 << 10;
/// How long the runtime may take to answer the upgrade.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const CHUNK: usize = 32 << 10;

impl Call {
    /// Opens the stream that this call asks for and answers with the runtime's own answer.
    pub async fn stream(&mut self, on: &dyn OnNode, request: &mut Parts) -> Result<Answer, Status> {
        let asked = self.asked();
        super::admit_connect(self, asked).await?;
        let pod = self.latest().await?;
        let node = on.node(&pod);
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", self.name())));
        }
        if !request.headers.contains_key(UPGRADE) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let stream = self.stream_options(on, &pod)?;
        if websocket::asked(request) {
            return self.channels(node, stream, request).await;
        }
        let upgrade = request.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or_else(|| Status::bad_request("Upgrade request required"))?;
        let Opened { response, rest, tunnel } = self.open(node, stream, request_head(request)).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Answer::Raw(refusal(response, rest, tunnel)));
        }
        self.upgraded(upgrade, |client| copy(client, tunnel, rest));
        Ok(Answer::Raw(response.map(|()| Body::empty())))
    }

    /// The same for a client that speaks WebSocket.
    async fn channels(&self, node: &str, stream: Stream, request: &mut Parts) -> Result<Answer, Status> {
        let ports = stream.verb == "portforward";
        let protocols = if ports { channels::PORTS } else { channels::COMMAND };
        let accepted = websocket::accept(request, protocols, |protocol| protocol.name)?;
        let protocol = accepted.protocol;
        let wanted = match (protocol.whole, ports) {
            (true, _) => Vec::new(),
            (false, true) => channels::of_ports(&stream.ports)?,
            (false, false) => channels::of_command(&stream),
        };
        let Opened { response, rest, tunnel } = self.open(node, stream, runtime_head(protocol)).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Answer::Raw(refusal(response, rest, tunnel)));
        }
        if protocol.whole {
            let (up, down) = (Plain { protocol, up: true }, Plain { protocol, up: true });
            self.upgraded(accepted.client, |client| websocket::join(client, tunnel, rest, up, down));
        } else {
            let (up, down) = channels::codec(protocol, wanted, !ports);
            self.upgraded(accepted.client, |client| websocket::join(client, tunnel, rest, up, down));
        }
        Ok(Answer::Raw(accepted.response))
    }

    /// Opens a stream to the node and hears what the runtime answers to this head.
    async fn open(&self, node: &str, stream: Stream, head: Bytes) -> Result<Opened, Status> {
        let open = Open { node: node.to_owned(), what: Some(What::Stream(stream)) };
        let mut tunnel = self.api.inner.config.node_proxy.open(open).await.map_err(node_error)?;
        let closed = |_| Status::internal("the node closed the stream");
        tunnel.tx.send(head).await.map_err(closed)?;
        let head = tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut tunnel)).await;
        let (response, rest) = head.map_err(|_| Status::timeout("the node did not answer", 1))??;
        Ok(Opened { response, rest, tunnel })
    }

    /// Goes on with a connection once its answer is sent.
    pub(super) fn upgraded<F>(&self, upgrade: OnUpgrade, then: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.api.inner.tasks.spawn(async move {
            match upgrade.await {
                Ok(client) => then(TokioIo::new(client)).await,
                Err(error) => tracing::debug!(%error, "the client left before its stream began"),
            }
        });
    }

    /// What is asked for, as admission sees it.
    fn asked(&self) -> Value {
        let (version, kind) = self.sub.as_ref().map_or(("", ""), |sub| (sub.version.as_ref(), sub.kind.as_ref()));
        let mut options = json!({"apiVersion": version, "kind": kind});
        let params = &self.params;
        let flags = ["stdin", "stdout", "stderr", "tty"];
        flags.iter().filter(|name| params.flag(name) == Some(true)).for_each(|name| options[name] = true.into());
        if let Some(container) = params.get("container").filter(|name| !name.is_empty()) {
            options["container"] = container.into();
        }
        let command: Vec<&str> = params.all("command").collect();
        if !command.is_empty() {
            options["command"] = command.into();
        }
        let ports: Vec<u16> =
            params.all("ports").flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        options
    }

    fn stream_options(&self, on: &dyn OnNode, pod: &serde_json::Value) -> Result<Stream, Status> {
        let params = &self.params;
        let verb = self.sub_name().unwrap_or_default();
        let command: Vec<String> = params.all("command").map(str::to_owned).collect();
        if verb == "exec" && command.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        let container = match verb {
            "portforward" => String::new(),
            _ => on.container(pod, params.get("container").unwrap_or_default())?,
        };
        let tty = params.flag("tty").unwrap_or(false);
        let flags = ["stdin", "stdout", "stderr"].map(|name| params.flag(name));
        let output = flags.iter().all(Option::is_none); // asked for nothing: both outputs, as upstream defaults
        let mut ports = Vec::new();
        for text in params.all("ports").flat_map(|list| list.split(',')) {
            let port = text
                .parse::<u16>()
                .map_err(|_| Status::bad_request(format!("unable to parse \"{text}\" as a port")))?;
            ports.push(i32::from(port));
        }
        Ok(Stream {
            namespace: self.namespace().unwrap_or_default().to_owned(),
            pod: self.name().to_owned(),
            uid: meta_str(pod, "uid").to_owned(),
            container,
            verb: verb.to_owned(),
            command,
            stdin: flags[0].unwrap_or(false),
            stdout: flags[1].unwrap_or(output),
            stderr: flags[2].unwrap_or(output && !tty),
            tty,
            ports,
        })
    }
}

/// A stream to the node, with the runtime's answer and what came after it.
struct Opened {
    response: Response<()>,
    rest: Bytes,
    tunnel: NodeStream,
}

/// A request head of ours. The node replaces its target.
fn runtime_head(protocol: &Protocol) -> Bytes {
    let version = protocol.runtime;
    let head = format!(
        "POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {version}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    head.into()
}

/// The client's request head, without what is between it and this API only.
fn request_head(request: &Parts) -> Bytes {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut out = BytesMut::with_capacity(1024);
    out.extend_from_slice(format!("{} {target} HTTP/1.1\r\n", request.method).as_bytes());
    for (name, value) in &request.headers {
        if name != AUTHORIZATION && name != COOKIE && !name.as_str().starts_with("impersonate-") {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    out.freeze()
}

/// Reads a response head; what came after it in the same piece is returned too.
async fn read_head(tunnel: &mut NodeStream) -> Result<(Response<()>, Bytes), Status> {
    let mut seen = BytesMut::new();
    loop {
        if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = seen.split_to(end + 4).freeze();
            return Ok((parse_head(&head)?, seen.freeze()));
        }
        if seen.len() > MAX_HEAD {
            return Err(Status::internal("the node's answer has no end of headers"));
        }
        match tunnel.rx.recv().await {
            Some(Ok(piece)) => seen.extend_from_slice(&piece),
            Some(Err(error)) => return Err(node_error(error)),
            None => return Err(Status::internal("the node closed the stream without an answer")),
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Response<()>, Status> {
    let bad = || Status::internal("the node's answer is not HTTP");
    let text = std::str::from_utf8(head).map_err(|_| bad())?;
    let mut lines = text.split("\r\n");
    let mut status_line = lines.next().unwrap_or_default().splitn(3, ' ');
    let (Some(version), Some(code)) = (status_line.next(), status_line.next()) else { return Err(bad()) };
    if !version.starts_with("HTTP/1.") {
        return Err(bad());
    }
    let mut response = Response::new(());
    *response.status_mut() = code.parse().map_err(|_| bad())?;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| bad())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| bad())?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// The runtime said no: its answer, body included, as an ordinary response.
fn refusal(mut response: Response<()>, rest: Bytes, tunnel: NodeStream) -> Response<Body> {
    let headers = response.headers_mut();
    let length =
        headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    for name in [CONNECTION, http::header::TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    let state = (Some(rest), tunnel, length.unwrap_or(0));
    let body = futures::stream::unfold(state, |(rest, mut tunnel, left)| async move {
        if left == 0 {
            return None;
        }
        let mut piece = match rest.filter(|rest| !rest.is_empty()) {
            Some(rest) => rest,
            None => tunnel.rx.recv().await?.ok()?,
        };
        piece.truncate(left);
        let left = left - piece.len();
        Some((Ok::<_, std::convert::Infallible>(piece), (None, tunnel, left)))
    });
    response.map(|()| Body::from_stream(body))
}

/// Copies both ways until the node has said everything, or the client is gone.
async fn copy(client: TokioIo<Upgraded>, tunnel: NodeStream, rest: Bytes) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let NodeStream { tx, mut rx } = tunnel;
    let up = async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while let Ok(1..) = from_client.read_buf(&mut buffer).await {
            // After the node's end nobody wants it, but it is read: unread, it would undo what is on its way back.
            let _ = tx.send(buffer.split().freeze()).await;
            buffer.reserve(CHUNK);
        }
        drop(tx);
    };
    let down = async move {
        let mut piece = Some(Ok(rest));
        while let Some(Ok(bytes)) = piece {
            if to_client.write_all(&bytes).await.is_err() || to_client.flush().await.is_err() {
                return;
            }
            piece = rx.recv().await;
        }
        let _ = to_client.shutdown().await; // the client may have gone first
    };
    tokio::pin!(up, down);
    tokio::select! {
        // The client reads what it was sent, then it closes.
        () = &mut down => {
            let _ = tokio::time::timeout(LINGER, up).await;
        }
        () = &mut up => down.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_runtimes_head_and_refuses_anything_else() {
        let head = parse_head(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n")
            .expect("good");
        assert_eq!((head.status().as_u16(), head.headers().len()), (101, 2));
        for bad in [
            &b"SSH-2.0\r\n\r\n"[..],
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 x y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"\xff\r\n\r\n",
        ] {
            assert!(parse_head(bad).is_err());
        }
    }
}
