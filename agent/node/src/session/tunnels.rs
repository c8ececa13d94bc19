//! Byte streams inside the session, for whatever a master asks of this node.
//!
//! Invariants
//! - A tunnel has at most [`WINDOW`] unacknowledged bytes in flight each way, so one that is not
//!   read holds up only itself.
//! - Each tunnel is one task. It ends when its work ends, when the master closes it, or with the
//!   session.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_proto::node::{Close, FromAgent, Open, Tunnel, from_agent::Message, tunnel::Step};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Unacknowledged bytes per direction.
const WINDOW: usize = 256 * 1024;
/// Bytes per message: small enough that tunnels and statuses take turns.
const CHUNK: usize = 32 * 1024;
/// A sender within its window sends at most this many messages of one byte or more.
const INBOUND: usize = 8192;

/// A request could not be served: the text and HTTP code for the client.
#[derive(Debug)]
pub struct TunnelError {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl TunnelError {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Whoever answers what a master asks through a tunnel.
pub trait Handler: Send + Sync {
    /// Serves one request to its end.
    fn serve(&self, open: Open, tx: TunnelSender, rx: TunnelReceiver) -> BoxFuture<'static, Result<(), TunnelError>>;
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
    pub(crate) async fn send(&self, mut data: Bytes) -> bool {
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
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
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
    handler: Arc<dyn Handler>,
    out: mpsc::Sender<FromAgent>,
    open: BTreeMap<u64, Entry>,
    /// Aborts its tasks when the session drops it.
    tasks: JoinSet<()>,
}

impl Tunnels {
    pub fn new(handler: Arc<dyn Handler>, out: mpsc::Sender<FromAgent>) -> Self {
        Self { handler, out, open: BTreeMap::new(), tasks: JoinSet::new() }
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
        let work = self.handler.serve(open, sender.clone(), receiver);
        let task = self.tasks.spawn(async move {
            let close = match work.await {
                Ok(()) => Close::default(),
                Err(error) => Close { error: error.message, code: error.code },
            };
            sender.step(Step::Close(close)).await;
        });
        self.open.insert(id, Entry { tx: Some(tx), credit, task });
    }
}
