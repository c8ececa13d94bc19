//! Tunnels: byte streams to something on a node, multiplexed in its session.
//!
//! Invariants
//! - Neither side has more than a window (`kontiki_proto::flow`) of unacknowledged bytes in flight per tunnel; an agent that
//!   sends more loses the tunnel, not the session.
//! - The session's reader never waits for a tunnel's consumer.
//! - Whatever ends first (client, agent, session) ends the tunnel, and both others are told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kontiki_api::{NodeProxyError, NodeStream};
use kontiki_proto::flow::{Credit, FRAME, Unacknowledged};
use kontiki_proto::node::{Close, Open, ToAgent, Tunnel, to_agent, tunnel};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Chunks between the tunnel and the API's handler.
const CHUNKS: usize = 8;
/// Tunnels per node at once.
const MOST: usize = 1024;

/// Messages to one agent.
pub type Outbound = mpsc::Sender<Result<ToAgent, Status>>;

/// All tunnels of one session.
pub struct Tunnels {
    node: String,
    out: Outbound,
    stop: CancellationToken,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Ends>>>,
}

/// Both directions of one tunnel.
struct Ends {
    received: Mutex<Received>,
    arrived: Notify,
    credit: Credit,
    /// What the agent sent.
    unacknowledged: Unacknowledged,
    cancelled: CancellationToken,
}

#[derive(Default)]
struct Received {
    chunks: VecDeque<Bytes>,
    end: Option<Result<(), NodeProxyError>>,
}

impl Tunnels {
    /// No tunnels yet; messages go to `out` until `stop`.
    #[must_use]
    pub fn new(node: &str, out: Outbound, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { node: node.to_owned(), out, stop, next: AtomicU64::new(1), open: Mutex::default() })
    }

    /// Opens a tunnel.
    ///
    /// # Errors
    /// The session is ending, or has too many tunnels.
    pub async fn open(self: &Arc<Self>, open: Open) -> Result<NodeStream, NodeProxyError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let ends = Arc::new(Ends {
            received: Mutex::default(),
            arrived: Notify::new(),
            credit: Credit::default(),
            unacknowledged: Unacknowledged::default(),
            cancelled: self.stop.child_token(),
        });
        {
            let mut tunnels = self.open.lock();
            if tunnels.len() >= MOST {
                return Err(NodeProxyError {
                    code: 429,
                    message: format!("node {} has too many open streams", self.node),
                });
            }
            tunnels.insert(id, ends.clone());
        }
        if self.send(id, tunnel::Step::Open(open)).await.is_err() {
            self.open.lock().remove(&id);
            return Err(disconnected(&self.node));
        }
        let (to_node_tx, to_node_rx) = mpsc::channel(CHUNKS);
        let (from_node_tx, from_node_rx) = mpsc::channel(CHUNKS);
        tokio::spawn(self.clone().pump_to_node(id, ends.clone(), to_node_rx));
        tokio::spawn(self.clone().pump_from_node(id, ends, from_node_tx));
        Ok(NodeStream { tx: to_node_tx, rx: from_node_rx })
    }

    /// A tunnel message from the agent.
    pub fn handle(&self, message: Tunnel) {
        // A tunnel that is not known has been cancelled here; what was under way is dropped.
        let Some(ends) = self.open.lock().get(&message.id).cloned() else { return };
        match message.step {
            Some(tunnel::Step::Data(data)) => ends.receive(data.into()),
            Some(tunnel::Step::Ack(bytes)) => ends.credit.acknowledged(bytes),
            Some(tunnel::Step::Close(close)) => {
                ends.finish(if close.error.is_empty() { Ok(()) } else { Err(error_of(close)) })
            }
            Some(tunnel::Step::Open(_)) | None => {}
        }
    }

    async fn send(&self, id: u64, step: tunnel::Step) -> Result<(), ()> {
        let message = ToAgent { message: Some(to_agent::Message::Tunnel(Tunnel { id, step: Some(step) })) };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(()),
            // Cancel-safe: an unsent message belongs to a session that is over.
            sent = self.out.send(Ok(message)) => sent.map_err(|_| ()),
        }
    }

    async fn pump_to_node(self: Arc<Self>, id: u64, ends: Arc<Ends>, mut rx: mpsc::Receiver<Bytes>) {
        let pumped = async {
            while let Some(mut data) = rx.recv().await {
                while !data.is_empty() {
                    let frame = data.split_to(data.len().min(FRAME));
                    ends.credit.take(frame.len()).await;
                    self.send(id, tunnel::Step::Data(frame.to_vec())).await?;
                }
            }
            self.send(id, tunnel::Step::Close(Close::default())).await
        };
        tokio::select! {
            () = ends.cancelled.cancelled() => {}
            // If the session is gone, the other direction reports it.
            _ = pumped => {}
        }
    }

    async fn pump_from_node(
        self: Arc<Self>,
        id: u64,
        ends: Arc<Ends>,
        tx: mpsc::Sender<Result<Bytes, NodeProxyError>>,
    ) {
        let outcome = loop {
            let arrived = ends.arrived.notified();
            match ends.take() {
                Taken::Chunk(data) => {
                    let length = data.len();
                    if tx.send(Ok(data)).await.is_err() {
                        break Some("the client is gone");
                    }
                    ends.unacknowledged.consumed(length);
                    if self.send(id, tunnel::Step::Ack(length as u64)).await.is_err() {
                        let _ = tx.send(Err(disconnected(&self.node))).await;
                        break None;
                    }
                }
                Taken::End(Ok(())) => break None,
                Taken::End(Err(error)) => {
                    let _ = tx.send(Err(error)).await;
                    break None;
                }
                Taken::Nothing => tokio::select! {
                    () = arrived => {}
                    () = tx.closed() => break Some("the client is gone"),
                    () = self.stop.cancelled() => {
                        let _ = tx.send(Err(disconnected(&self.node))).await;
                        break None;
                    }
                },
            }
        };
        self.open.lock().remove(&id);
        ends.cancelled.cancel();
        // Also after an orderly end: the agent may still wait for input that nobody will send.
        let error = outcome.unwrap_or_default().to_owned();
        let _ = self.send(id, tunnel::Step::Close(Close { error, code: 0 })).await;
    }
}

enum Taken {
    Chunk(Bytes),
    End(Result<(), NodeProxyError>),
    Nothing,
}

impl Ends {
    fn receive(&self, data: Bytes) {
        let mut received = self.received.lock();
        if self.unacknowledged.arrived(data.len()).is_err() {
            received.end = Some(Err(NodeProxyError { code: 502, message: "the node sent more than it may".into() }));
            received.chunks.clear();
        } else if !data.is_empty() && received.end.is_none() {
            received.chunks.push_back(data);
        }
        drop(received);
        self.arrived.notify_one();
    }

    fn finish(&self, end: Result<(), NodeProxyError>) {
        self.received.lock().end.get_or_insert(end);
        self.arrived.notify_one();
    }

    fn take(&self) -> Taken {
        let mut received = self.received.lock();
        match received.chunks.pop_front() {
            Some(data) => Taken::Chunk(data),
            None => received.end.take().map_or(Taken::Nothing, Taken::End),
        }
    }
}

/// The node cannot be reached.
#[must_use]
pub fn disconnected(node: &str) -> NodeProxyError {
    NodeProxyError { code: 503, message: format!("node {node} is not connected to the control plane") }
}

fn error_of(close: Close) -> NodeProxyError {
    let code = u16::try_from(close.code).ok().filter(|code| (400..600).contains(code)).unwrap_or(0);
    NodeProxyError { code, message: close.error }
}

#[cfg(test)]
mod tests {
    use kontiki_proto::flow::WINDOW;

    use super::*;

    struct Agent {
        tunnels: Arc<Tunnels>,
        rx: mpsc::Receiver<Result<ToAgent, Status>>,
        stop: CancellationToken,
    }

    fn agent() -> Agent {
        let (out, rx) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        Agent { tunnels: Tunnels::new("a1", out, stop.clone()), rx, stop }
    }

    impl Agent {
        async fn next(&mut self) -> tunnel::Step {
            match self.rx.recv().await.expect("open").expect("a message").message {
                Some(to_agent::Message::Tunnel(Tunnel { step: Some(step), .. })) => step,
                other => panic!("unexpected {other:?}"),
            }
        }

        fn say(&self, step: tunnel::Step) {
            self.tunnels.handle(Tunnel { id: 1, step: Some(step) });
        }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_within_the_window() {
        let mut agent = agent();
        let mut stream = agent.tunnels.open(Open::default()).await.expect("opened");
        assert!(matches!(agent.next().await, tunnel::Step::Open(_)));
        agent.say(tunnel::Step::Data(b"hello".to_vec()));
        assert_eq!(stream.rx.recv().await.expect("data").expect("no error"), "hello");
        assert_eq!(agent.next().await, tunnel::Step::Ack(5));
        // More than a window: the rest waits for credit.
        stream.tx.send(Bytes::from(vec![0; WINDOW + 1])).await.expect("accepted");
        drop(stream.tx);
        let mut got = 0;
        while got < WINDOW {
            let tunnel::Step::Data(data) = agent.next().await else { panic!("not data") };
            got += data.len();
        }
        assert_eq!(got, WINDOW);
        assert!(agent.rx.try_recv().is_err(), "no credit left");
        agent.say(tunnel::Step::Ack(u64::MAX));
        assert_eq!(agent.next().await, tunnel::Step::Data(vec![0]));
        assert_eq!(agent.next().await, tunnel::Step::Close(Close::default()), "half closed");
        agent.say(tunnel::Step::Close(Close { error: "no such pod".into(), code: 404 }));
        let error = stream.rx.recv().await.expect("an item").expect_err("an error");
        assert_eq!((error.code, error.message.as_str()), (404, "no such pod"));
        assert!(stream.rx.recv().await.is_none());
    }

    #[tokio::test]
    async fn an_agent_that_ignores_the_window_loses_the_tunnel() {
        let agent = agent();
        let mut stream = agent.tunnels.open(Open::default()).await.expect("opened");
        agent.say(tunnel::Step::Data(vec![0; WINDOW + 1]));
        assert_eq!(stream.rx.recv().await.expect("an item").expect_err("an error").code, 502);
    }

    #[tokio::test]
    async fn a_client_that_leaves_cancels_and_a_lost_session_is_reported() {
        let mut one = agent();
        drop(one.tunnels.open(Open::default()).await.expect("opened"));
        loop {
            // The half close of the input may come first.
            match one.next().await {
                tunnel::Step::Close(close) if !close.error.is_empty() => break,
                _ => {}
            }
        }
        assert!(one.tunnels.open.lock().is_empty());

        let two = agent();
        let mut stream = two.tunnels.open(Open::default()).await.expect("opened");
        two.stop.cancel();
        assert_eq!(stream.rx.recv().await.expect("an item").expect_err("an error").code, 503);
        assert_eq!(two.tunnels.open(Open::default()).await.expect_err("ending").code, 503);
    }
}
