//! Byte streams inside the session, for whatever a master asks of this node.
//!
//! Invariants
//! - A tunnel has at most a window of unacknowledged bytes in flight each way (`kontiki_proto::flow`), so one that is not
//!   read holds up only itself.
//! - Each tunnel is one task. It ends when its work ends, when the master closes it, or with the
//!   session.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_proto::{
    flow::{Credit, FRAME, Overrun, Unacknowledged, WINDOW},
    node::{Close, FromAgent, Open, Tunnel, from_agent::Message, tunnel::Step},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
};

/// Messages that wait for a tunnel's reader. A sender within its window sends no more: each has one byte or more.
const INBOUND: usize = WINDOW;

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
    credit: Arc<Credit>,
}

impl TunnelSender {
    /// Sends bytes, waiting for credit. `false`: the session is gone.
    pub(crate) async fn send(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let frame = data.split_to(data.len().min(FRAME));
            self.credit.take(frame.len()).await;
            if !self.step(Step::Data(frame.to_vec())).await {
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
    unacknowledged: Arc<Unacknowledged>,
    sender: TunnelSender,
}

impl TunnelReceiver {
    /// The next bytes, acknowledged as taken. `None`: the master ended its direction. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let data = self.rx.recv().await?;
        self.unacknowledged.consumed(data.len());
        self.sender.step(Step::Ack(data.len() as u64)).await;
        Some(data)
    }
}

struct Entry {
    /// `None` once the master ended its direction.
    tx: Option<mpsc::Sender<Bytes>>,
    unacknowledged: Arc<Unacknowledged>,
    credit: Arc<Credit>,
    task: tokio::task::AbortHandle,
}

impl Entry {
    /// Leaves data for the tunnel's reader; nothing if there is none any more, or none of it is expected.
    fn receive(&self, data: Bytes) -> Result<(), Overrun> {
        let Some(tx) = self.tx.as_ref().filter(|_| !data.is_empty()) else { return Ok(()) };
        self.unacknowledged.arrived(data.len())?;
        match tx.try_send(data) {
            Err(TrySendError::Full(_)) => Err(Overrun),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
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
            Some(Step::Data(data)) => self.receive(id, data.into()),
            Some(Step::Ack(bytes)) => {
                if let Some(entry) = self.open.get(&id) {
                    entry.credit.acknowledged(bytes);
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

    fn receive(&mut self, id: u64, data: Bytes) {
        if self.open.get(&id).is_some_and(|entry| entry.receive(data).is_err()) {
            tracing::warn!(tunnel = id, "the master sent beyond the window; the tunnel is closed");
            self.abort(id);
        }
    }

    fn abort(&mut self, id: u64) {
        if let Some(entry) = self.open.remove(&id) {
            entry.task.abort();
        }
    }

    fn open(&mut self, id: u64, open: Open) {
        let (tx, rx) = mpsc::channel(INBOUND);
        let (credit, unacknowledged) = (Arc::new(Credit::default()), Arc::new(Unacknowledged::default()));
        let sender = TunnelSender { id, out: self.out.clone(), credit: credit.clone() };
        let receiver = TunnelReceiver { rx, unacknowledged: unacknowledged.clone(), sender: sender.clone() };
        let work = self.handler.serve(open, sender.clone(), receiver);
        let task = self.tasks.spawn(async move {
            let close = match work.await {
                Ok(()) => Close::default(),
                Err(error) => Close { error: error.message, code: error.code },
            };
            sender.step(Step::Close(close)).await;
        });
        self.open.insert(id, Entry { tx: Some(tx), unacknowledged, credit, task });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Reads all of its tunnel once it is told to, and tells how much that was.
    struct Reader {
        begin: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
        read: mpsc::Sender<usize>,
    }

    impl Handler for Reader {
        fn serve(
            &self,
            _: Open,
            _: TunnelSender,
            mut rx: TunnelReceiver,
        ) -> BoxFuture<'static, Result<(), TunnelError>> {
            let (begin, read) = (self.begin.lock().unwrap().take(), self.read.clone());
            async move {
                begin.expect("one tunnel").await.unwrap();
                let mut bytes = 0;
                while let Some(data) = rx.next().await {
                    bytes += data.len();
                }
                read.send(bytes).await.unwrap();
                Ok(())
            }
            .boxed()
        }
    }

    /// How much is read of messages of these sizes, all sent before any is read; nothing if the tunnel is closed.
    async fn read(sizes: impl IntoIterator<Item = usize>) -> Option<usize> {
        let (begin, waits) = oneshot::channel();
        let (read_tx, mut read_rx) = mpsc::channel(1);
        let (out, mut acknowledgements) = mpsc::channel(64);
        let handler = Reader { begin: std::sync::Mutex::new(Some(waits)), read: read_tx };
        let mut tunnels = Tunnels::new(Arc::new(handler), out);
        let mut say = |step| tunnels.handle(Tunnel { id: 1, step: Some(step) });
        say(Step::Open(Open::default()));
        sizes.into_iter().for_each(|size| say(Step::Data(vec![0; size])));
        say(Step::Close(Close::default()));
        if tunnels.open.is_empty() {
            return None;
        }
        begin.send(()).unwrap();
        let drain = async { while acknowledgements.recv().await.is_some() {} };
        tokio::select! {
            bytes = read_rx.recv() => bytes,
            () = drain => None,
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_is_not_read_holds_a_window_in_pieces_of_any_size() {
        assert_eq!(read([0, 5]).await, Some(5));
        // As somebody types, or a program writes byte by byte.
        assert_eq!(read(vec![1; 20_000]).await, Some(20_000));
        assert_eq!(read(vec![FRAME; WINDOW / FRAME]).await, Some(WINDOW));
        assert_eq!(read(vec![FRAME; WINDOW / FRAME + 1]).await, None);
    }
}
