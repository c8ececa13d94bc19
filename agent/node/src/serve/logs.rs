//! Container logs: the runtime's files, turned back into what the container wrote.
//!
//! Invariants
//! - A line that the runtime split (tag `P`) is joined again, with one timestamp in front.
//! - A line without its end is not sent until the end is there; at a container's death it is sent
//!   as it is.
//! - A follower ends when the container has ended and its file is read to the end.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1::{self as cri, ContainerState};
use kontiki_proto::node::Logs;

use super::containers;
use crate::{
    node::Node,
    runtime::log_files::{Reader, parse},
    session::tunnels::{TunnelError, TunnelSender},
};

/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(100);
/// Lines are gathered up to this before they are sent.
const BATCH: usize = 32 * 1024;

/// Serves one log request to its end.
pub(crate) async fn serve(node: &Node, request: &Logs, tx: &TunnelSender) -> Result<(), TunnelError> {
    let uid = pod_uid(node, request)?;
    let found = containers::latest(node, &uid, &request.container, request.previous).await?;
    let Some(container) = found else { return Err(absent(node, request)) };
    let ask = cri::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
    let status = node.cri.container_status(ask).await.map_err(|e| TunnelError::new(500, e.message))?;
    let path = PathBuf::from(status.status.map(|s| s.log_path).unwrap_or_default());
    let failed = |e: std::io::Error| TunnelError::new(500, format!("failed to open the log file: {e}"));
    let tail = request.tail_lines.map(|lines| u64::try_from(lines).unwrap_or(0));
    let mut reader = Reader::open(&path, tail).await.map_err(failed)?;
    let mut printer = Printer::new(request)?;
    loop {
        let more = send_available(&mut reader, &mut printer, tx).await?;
        if !more {
            return Ok(());
        }
        if !request.follow {
            break;
        }
        if !is_running(node, &container.id).await {
            // What was written between the last read and the end.
            send_available(&mut reader, &mut printer, tx).await?;
            while reader.follow_rotation(&path, true).await {
                send_available(&mut reader, &mut printer, tx).await?;
            }
            break;
        }
        tokio::time::sleep(POLL).await;
        reader.follow_rotation(&path, false).await;
    }
    if let Some(rest) = printer.finish(reader.partial()) {
        tx.send(rest).await;
    }
    Ok(())
}

fn pod_uid(node: &Node, request: &Logs) -> Result<String, TunnelError> {
    if !request.uid.is_empty() {
        return Ok(request.uid.clone());
    }
    let pod = node.objects.pod(&request.namespace, &request.pod);
    let uid = pod.and_then(|p| p.metadata.uid.clone());
    uid.ok_or_else(|| TunnelError::new(404, format!("pods \"{}\" not found", request.pod)))
}

fn absent(node: &Node, request: &Logs) -> TunnelError {
    let (container, pod_name) = (&request.container, &request.pod);
    if request.previous {
        return TunnelError::new(
            400,
            format!("previous terminated container \"{container}\" in pod \"{pod_name}\" not found"),
        );
    }
    let pod = node.objects.pod(&request.namespace, pod_name);
    let status = pod.as_ref().and_then(|p| p.status.as_ref());
    let lists = status.map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]);
    let known = lists.into_iter().flatten().flatten().flatten().find(|c| &c.name == container);
    let waiting = known.and_then(|c| c.state.as_ref()?.waiting.as_ref());
    let reason = waiting.and_then(|w| w.reason.clone()).unwrap_or_else(|| "ContainerCreating".to_owned());
    TunnelError::new(400, format!("container \"{container}\" in pod \"{pod_name}\" is waiting to start: {reason}"))
}

async fn is_running(node: &Node, id: &str) -> bool {
    let ask = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match node.cri.container_status(ask).await {
        Ok(answer) => answer.status.is_some_and(|s| s.state == i32::from(ContainerState::ContainerRunning)),
        Err(error) => !error.not_found(), // the runtime restarts: the container may well live
    }
}

/// Sends what there is. `false`: nothing more is wanted.
async fn send_available(reader: &mut Reader, printer: &mut Printer, tx: &TunnelSender) -> Result<bool, TunnelError> {
    let mut batch = Vec::new();
    loop {
        let line = reader.line().await.map_err(|e| TunnelError::new(500, format!("reading the log: {e}")))?;
        let wanted = match &line {
            Some(line) => printer.print(line, &mut batch),
            None => true,
        };
        if batch.len() >= BATCH || line.is_none() || !wanted {
            if !batch.is_empty() && !tx.send(Bytes::from(std::mem::take(&mut batch))).await {
                return Ok(false);
            }
            if line.is_none() || !wanted {
                return Ok(wanted);
            }
        }
    }
}

/// Turns the runtime's lines into output.
struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    /// Bytes that may still be sent.
    left: Option<usize>,
    /// `stdout`, `stderr`, or both.
    stream: Option<&'static str>,
    /// Whether the last line was complete.
    at_start: bool,
}

impl Printer {
    fn new(request: &Logs) -> Result<Self, TunnelError> {
        let since = if let Some(seconds) = request.since_seconds {
            Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok()
        } else if request.since_time.is_empty() {
            None
        } else {
            let time = request.since_time.parse();
            Some(time.map_err(|e| TunnelError::new(400, format!("sinceTime: {e}")))?)
        };
        let stream = match request.stream.as_str() {
            "Stdout" => Some("stdout"),
            "Stderr" => Some("stderr"),
            _ => None,
        };
        let left = request.limit_bytes.map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Self { timestamps: request.timestamps, since, left, stream, at_start: true })
    }

    /// Adds a line to the output. `false`: the limit is reached.
    fn print(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(entry) = parse(line) else { return true };
        if self.stream.is_some_and(|s| s != entry.stream) {
            return true;
        }
        if let Some(since) = self.since
            && entry.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        if self.timestamps && self.at_start {
            self.push(entry.time.as_bytes(), out);
            self.push(b" ", out);
        }
        self.push(entry.text, out);
        if entry.complete {
            self.push(b"\n", out);
        }
        self.at_start = entry.complete;
        self.left != Some(0)
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let take = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        out.extend_from_slice(&bytes[..take]);
        if let Some(left) = &mut self.left {
            *left -= take;
        }
    }

    /// The last line, if the runtime died in the middle of it.
    fn finish(&mut self, partial: &[u8]) -> Option<Bytes> {
        let mut out = Vec::new();
        self.print(partial, &mut out);
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02Z stderr F o\n2026-01-01T00:00:03Z stdout F three\n";

    fn show(request: &Logs) -> String {
        let mut printer = Printer::new(request).expect("a good request");
        let mut out = Vec::new();
        for line in LOG.as_bytes().split_inclusive(|b| *b == b'\n') {
            if !printer.print(line, &mut out) {
                break;
            }
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn options_are_honoured() {
        let base = Logs::default;
        for (name, request, expect) in [
            ("plain", base(), "one\ntwo\nthree\n"),
            (
                "timestamps",
                Logs { timestamps: true, ..base() },
                "2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n",
            ),
            ("one stream", Logs { stream: "Stderr".into(), ..base() }, "two\n"),
            ("since", Logs { since_time: "2026-01-01T00:00:02Z".into(), ..base() }, "two\nthree\n"),
            ("limit", Logs { limit_bytes: Some(6), ..base() }, "one\ntw"),
        ] {
            assert_eq!(show(&request), expect, "{name}");
        }
    }
}
