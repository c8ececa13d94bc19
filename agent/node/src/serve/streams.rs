//! exec, attach and port-forward: the client's raw upgraded connection, joined to containerd's.
//!
//! Invariants
//! - Only the request target (and Host) of the client's head is changed; every other byte, both
//!   ways, is the client's and containerd's.
//! - containerd's streaming server is reached on loopback, in this process's network namespace.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use k8s_cri::v1::{self as cri, ContainerState};
use kontiki_proto::node::Stream;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::{containers, joined};
use crate::{
    node::Node,
    runtime::cri::CriError,
    session::tunnels::{TunnelError, TunnelReceiver, TunnelSender},
};

const MAX_HEAD: usize = 64 * 1024;
const HEAD: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);

/// Serves one stream to its end.
pub(crate) async fn serve(
    node: &Node,
    request: Stream,
    tx: &TunnelSender,
    mut rx: TunnelReceiver,
) -> Result<(), TunnelError> {
    let url = streaming_url(node, &request).await?;
    let (address, target) =
        split_url(&url).ok_or_else(|| TunnelError::new(500, format!("unusable streaming address {url:?}")))?;
    let (head, rest) = read_head(&mut rx).await?;
    let head = retarget(&head, target, address).ok_or_else(|| TunnelError::new(400, "malformed request"))?;
    let connect = timeout(CONNECT, TcpStream::connect(address)).await;
    let mut stream = connect
        .map_err(|_| TunnelError::new(504, "the container runtime does not answer"))?
        .map_err(|e| TunnelError::new(500, format!("connecting to the container runtime: {e}")))?;
    let _ = stream.set_nodelay(true);
    let failed = |e: std::io::Error| TunnelError::new(500, format!("the container runtime: {e}"));
    stream.write_all(&head).await.map_err(failed)?;
    stream.write_all(&rest).await.map_err(failed)?;
    // containerd closes when the command has ended.
    joined::copy(stream, tx, rx).await;
    Ok(())
}

async fn streaming_url(node: &Node, request: &Stream) -> Result<String, TunnelError> {
    let refused = |e: CriError| TunnelError::new(500, e.message);
    match request.verb.as_str() {
        "exec" => {
            let id = running(node, request).await?;
            let ask = cri::ExecRequest {
                container_id: id,
                cmd: request.command.clone(),
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                // A terminal has one output.
                stderr: request.stderr && !request.tty,
            };
            Ok(node.cri.exec(ask).await.map_err(refused)?.url)
        }
        "attach" => {
            let id = running(node, request).await?;
            if process_ended(node, &id).await {
                return Err(not_running(request));
            }
            let ask = cri::AttachRequest {
                container_id: id,
                stdin: request.stdin,
                tty: request.tty,
                stdout: request.stdout,
                stderr: request.stderr && !request.tty,
            };
            Ok(node.cri.attach(ask).await.map_err(refused)?.url)
        }
        "portforward" => {
            let sandbox = containers::ready_sandbox(node, &request.uid).await?;
            let ask = cri::PortForwardRequest { pod_sandbox_id: sandbox, port: request.ports.clone() };
            Ok(node.cri.port_forward(ask).await.map_err(refused)?.url)
        }
        other => Err(TunnelError::new(501, format!("unknown stream {other:?}"))),
    }
}

async fn running(node: &Node, request: &Stream) -> Result<String, TunnelError> {
    let found = containers::latest(node, &request.uid, &request.container, false).await?;
    match found {
        Some(container) if container.state == i32::from(ContainerState::ContainerRunning) => Ok(container.id),
        Some(_) => Err(not_running(request)),
        None => Err(TunnelError::new(404, format!("container not found (\"{}\")", request.container))),
    }
}

fn not_running(request: &Stream) -> TunnelError {
    TunnelError::new(500, format!("container {} is not running", request.container))
}

/// Whether the container's process has ended although the runtime has not said so yet: to attach to
/// it would show nothing, while the refusal makes `kubectl run -i` print the log.
async fn process_ended(node: &Node, id: &str) -> bool {
    let ask = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let Ok(answer) = node.cri.container_status(ask).await else { return false };
    let Some(pid) = answer.info.get("info").and_then(|info| main_pid(info)) else { return false };
    match tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await {
        Ok(stat) => is_zombie(&stat),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The process id in containerd's verbose answer about a container.
fn main_pid(info: &str) -> Option<u64> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    info.get("pid")?.as_u64().filter(|pid| *pid != 0)
}

/// proc(5): the state follows the command, which stands in parentheses and may hold any byte.
fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// `http://host:port/path` into address and target.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find('/')?;
    Some(rest.split_at(at))
}

/// The request head up to and with its blank line, and what came after it.
async fn read_head(rx: &mut TunnelReceiver) -> Result<(Bytes, Bytes), TunnelError> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = buffer.split_to(end + 4).freeze();
            return Ok((head, buffer.freeze()));
        }
        if buffer.len() > MAX_HEAD {
            return Err(TunnelError::new(431, "request header too large"));
        }
        match timeout(HEAD, rx.next()).await {
            Ok(Some(data)) => buffer.extend_from_slice(&data),
            Ok(None) => return Err(TunnelError::new(400, "the request ended before its head did")),
            Err(_) => return Err(TunnelError::new(408, "the request head did not arrive")),
        }
    }
}

/// The head with another target and Host.
fn retarget(head: &[u8], target: &str, host: &str) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, _, version) = (first.next()?, first.next()?, first.next()?);
    let mut out = format!("{method} {target} {version}\r\nHost: {host}\r\n");
    for line in lines {
        let name = line.split(':').next().unwrap_or_default();
        // Credentials are for the API; the runtime has no business with them.
        if !["host", "authorization", "cookie"].iter().any(|h| name.eq_ignore_ascii_case(h)) {
            out.push_str(line);
            out.push_str("\r\n");
        }
    }
    out.push_str("\r\n");
    Some(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_is_told_from_a_running_one() {
        assert_eq!(main_pid(r#"{"pid":77,"sandboxID":"x"}"#), Some(77));
        assert_eq!((main_pid(r#"{"pid":0}"#), main_pid("{}"), main_pid("no")), (None, None, None));
        assert!(is_zombie("77 (a) Z (b) Z 1 77"));
        assert!(!is_zombie("77 (a) Z b) S 1 77") && !is_zombie(""));
    }

    #[test]
    fn only_target_host_and_credentials_change() {
        let head = b"POST /api/v1/x?command=ls HTTP/1.1\r\nHost: api:6443\r\nAuthorization: Bearer x\r\nUpgrade: SPDY/3.1\r\n\r\n";
        let out = retarget(head, "/exec/TOKEN", "127.0.0.1:99").map(|h| String::from_utf8(h).expect("text"));
        assert_eq!(
            out.as_deref(),
            Some("POST /exec/TOKEN HTTP/1.1\r\nHost: 127.0.0.1:99\r\nUpgrade: SPDY/3.1\r\n\r\n")
        );
        assert_eq!(retarget(b"\xff\r\n\r\n", "/", "h"), None);
        assert_eq!(retarget(b"GET\r\n\r\n", "/", "h"), None);
        assert_eq!(split_url("http://127.0.0.1:1/exec/x"), Some(("127.0.0.1:1", "/exec/x")));
        assert_eq!(split_url("https://a/b"), None);
    }
}
