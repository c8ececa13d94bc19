//! Byte streams inside the session: logs, exec, attach, port-forward, stats.
//!
//! Invariants
//! - A tunnel has at most [`WINDOW`] unacknowledged bytes in flight each way, so one that is not
//!   read holds up only itself.
//! - Each tunnel is one task. It ends when its work ends, when the master closes it, or with the
//!   session.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kontiki_proto::node::{Close, FromAgent, Open, Tunnel, from_agent::Message, open::What, tunnel::Step};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{logs, node::Node, stats, streams};

/// Unacknowledged bytes per direction.
const WINDOW: usize = 256 * 1024;
/// Bytes per message: small enough that tunnels and statuses take turns.
const CHUNK: usize = 32 * 1024;
/// A sender within its window sends at most this many messages of one byte or more.
const INBOUND: usize = 8192;

/// A request could not be served: the text and HTTP code for the client.
#[derive(Debug)]
pub struct TunnelError {
    pub code: i32,
    pub message: String,
}

impl TunnelError {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The agent's sending end of a tunnel.
#[derive(Clone)]
pub struct TunnelSender {
    id: u64,
    out: mpsc::Sender<FromAgent>,
    credit: Arc<Semaphore>,
}

impl TunnelSender {
    /// Sends bytes, waiting for credit. `false`: the session is gone.
    pub async fn send(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            let wanted = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let Ok(permit) = self.credit.acquire_many(wanted).await else { return false };
            permit.forget();
            if !self.step(Step::Data(chunk.to_vec())).await {
                return false;
            }
        }
        true
    }

    async fn step(&self, step: Step) -> bool {
        let tunnel = Tunnel { id: self.id, step: Some(step) };
        self.out.send(FromAgent { message: Some(Message::Tunnel(tunnel)) }).await.is_ok()
    }
}

/// The agent's receiving end of a tunnel.
pub struct TunnelReceiver {
    rx: mpsc::Receiver<Bytes>,
    sender: TunnelSender,
}

impl TunnelReceiver {
    /// The next bytes, acknowledged as taken. `None`: the master ended its direction. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        let data = self.rx.recv().await?;
        self.sender.step(Step::Ack(data.len() as u64)).await;
        Some(data)
    }
}

struct Entry {
    /// `None` once the master ended its direction.
    tx: Option<mpsc::Sender<Bytes>>,
    credit: Arc<Semaphore>,
    task: tokio::task::AbortHandle,
}

/// The tunnels of one session.
pub struct Tunnels {
    node: Arc<Node>,
    out: mpsc::Sender<FromAgent>,
    open: BTreeMap<u64, Entry>,
    /// Aborts its tasks when the session drops it.
    tasks: JoinSet<()>,
}

impl Tunnels {
    pub fn new(node: Arc<Node>, out: mpsc::Sender<FromAgent>) -> Self {
        Self { node, out, open: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Takes one message of the master.
    pub fn handle(&mut self, tunnel: Tunnel) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|_, entry| !entry.task.is_finished());
        let id = tunnel.id;
        match tunnel.step {
            Some(Step::Open(open)) => self.open(id, open),
            Some(Step::Data(data)) => {
                let Some(entry) = self.open.get(&id) else { return };
                if let Some(tx) = &entry.tx
                    && tx.try_send(Bytes::from(data)).is_err()
                    && !tx.is_closed()
                {
                    tracing::warn!(tunnel = id, "the master sent beyond the window; the tunnel is closed");
                    self.abort(id);
                }
            }
            Some(Step::Ack(bytes)) => {
                if let Some(entry) = self.open.get(&id) {
                    let room = WINDOW.saturating_sub(entry.credit.available_permits());
                    entry.credit.add_permits(usize::try_from(bytes).unwrap_or(room).min(room));
                }
            }
            Some(Step::Close(close)) if close.error.is_empty() => {
                if let Some(entry) = self.open.get_mut(&id) {
                    entry.tx = None;
                }
            }
            Some(Step::Close(_)) => self.abort(id),
            None => {}
        }
    }

    fn abort(&mut self, id: u64) {
        if let Some(entry) = self.open.remove(&id) {
            entry.task.abort();
        }
    }

    fn open(&mut self, id: u64, open: Open) {
        let (tx, rx) = mpsc::channel(INBOUND);
        let credit = Arc::new(Semaphore::new(WINDOW));
        let sender = TunnelSender { id, out: self.out.clone(), credit: credit.clone() };
        let receiver = TunnelReceiver { rx, sender: sender.clone() };
        let node = self.node.clone();
        let task = self.tasks.spawn(async move {
            let result = serve(&node, open, &sender, receiver).await;
            let close = match result {
                Ok(()) => Close::default(),
                Err(error) => Close { error: error.message, code: error.code },
            };
            sender.step(Step::Close(close)).await;
        });
        self.open.insert(id, Entry { tx: Some(tx), credit, task });
    }
}

async fn serve(node: &Arc<Node>, open: Open, tx: &TunnelSender, rx: TunnelReceiver) -> Result<(), TunnelError> {
    match open.what {
        Some(What::Logs(request)) => logs::serve(node, &request, tx).await,
        Some(What::Stream(request)) => streams::serve(node, request, tx, rx).await,
        Some(What::Stats(_)) => {
            let summary = stats::summary(node).await.map_err(|e| TunnelError::new(500, e.to_string()))?;
            tx.send(Bytes::from(summary.to_string())).await;
            Ok(())
        }
        None => Err(TunnelError::new(501, "this agent does not know that kind of stream")),
    }
}
