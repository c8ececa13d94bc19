//! The sessions that this master holds, and the way to those that others hold.
//!
//! Invariants
//! - `/kontiki/sessions/<node>` names the one session that counts, by server and epoch. Epochs only
//!   grow; a session that finds a newer one in its place ends itself.
//! - A master that cannot reach the leader takes no sessions and gives up those it has: agents then
//!   find a master that can.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use kontiki_api::{NodeProxy, NodeProxyError, NodeStream};
use kontiki_model::Revision;
use kontiki_proto::node::Open;
use kontiki_store::{Compare, EventKind, Op, Store, Txn, WatchItem, WriteError};
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::{
    relay,
    tunnel::{Tunnels, disconnected},
};
use crate::{rpc, servers};

const PREFIX: &str = "/kontiki/sessions/";
/// How often this master makes sure that it still belongs to a working group, and how long it may
/// fail to until its sessions go elsewhere.
const CHECK: Duration = Duration::from_millis(500);
const LOST_AFTER: Duration = Duration::from_secs(2);
/// An agent that says nothing for this long is gone; agents send a heartbeat every two seconds.
pub const SILENCE: Duration = Duration::from_secs(5);
/// An agent that says nothing for this long no longer counts as alive.
const QUIET: Duration = Duration::from_secs(4);

/// What is written under `/kontiki/sessions/<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    server: String,
    epoch: u64,
}

/// One session held here.
pub struct Handle {
    /// Its node.
    pub node: String,
    /// Ends it.
    pub stop: CancellationToken,
    /// Its tunnels.
    pub tunnels: Arc<Tunnels>,
    epoch: AtomicU64,
    started: Instant,
    heard_ms: AtomicU64,
    /// The agent's latest heartbeat.
    beat: AtomicU64,
    /// The one that the latest renewal of the node's Lease began after.
    renewed: watch::Sender<u64>,
}

impl Handle {
    /// A session that has just been heard of.
    #[must_use]
    pub fn new(node: &str, stop: CancellationToken, tunnels: Arc<Tunnels>) -> Arc<Self> {
        let (epoch, heard_ms, beat) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (node, started, renewed) = (node.to_owned(), Instant::now(), watch::Sender::new(0));
        Arc::new(Self { node, stop, tunnels, epoch, started, heard_ms, beat, renewed })
    }

    /// The agent sent a heartbeat.
    pub fn beat(&self, sequence: u64) {
        self.beat.store(sequence, Ordering::Release);
    }

    /// The agent's latest heartbeat; zero before the first.
    #[must_use]
    pub fn latest_beat(&self) -> u64 {
        self.beat.load(Ordering::Acquire)
    }

    /// The node's Lease has been renewed, by whoever began to after this heartbeat had come.
    pub fn renewed(&self, beat: u64) {
        if beat > 0 {
            self.renewed.send_replace(beat);
        }
    }

    /// Changes with each renewal.
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    /// The agent said something.
    pub fn heard(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// How long ago the agent said something.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)))
    }
}

/// Why a session could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The store could not be written.
    #[error("the session could not be registered: {0}")]
    Store(#[from] WriteError),
    /// Another session of the node was faster.
    #[error("another session of this node began at the same moment")]
    Overtaken,
}

/// All sessions of this master.
pub struct Sessions {
    server: String,
    store: Store,
    tls: Arc<ClientConfig>,
    local: Mutex<HashMap<String, Arc<Handle>>>,
    relays: Mutex<HashMap<String, Channel>>,
    healthy: watch::Sender<bool>,
}

fn key(node: &str) -> String {
    format!("{PREFIX}{node}")
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(server: &str, store: Store, tls: Arc<ClientConfig>) -> Arc<Self> {
        let (healthy, _) = watch::channel(false);
        let (local, relays) = (Mutex::default(), Mutex::default());
        Arc::new(Self { server: server.to_owned(), store, tls, local, relays, healthy })
    }

    /// Whether this master may take sessions.
    #[must_use]
    pub fn healthy(&self) -> bool {
        *self.healthy.borrow()
    }

    /// The live sessions.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Handle>> {
        let fresh = |handle: &&Arc<Handle>| !handle.stop.is_cancelled() && handle.silent_for() < QUIET;
        self.local.lock().values().filter(fresh).cloned().collect()
    }

    /// Makes `handle` the session of its node, here and for all masters.
    ///
    /// # Errors
    /// The store could not be written, or another session won.
    pub async fn claim(&self, handle: &Arc<Handle>) -> Result<(), ClaimError> {
        if let Some(older) = self.local.lock().insert(handle.node.clone(), handle.clone()) {
            older.stop.cancel();
        }
        for _ in 0..8 {
            self.store.barrier().await.map_err(|_| WriteError::NoLeader)?;
            let entry = self.store.snapshot().get(key(&handle.node).as_bytes());
            let epoch =
                entry.as_ref().and_then(|e| serde_json::from_slice::<Record>(&e.value).ok()).map_or(0, |r| r.epoch) + 1;
            let unchanged = Compare::unchanged(key(&handle.node), entry.map_or(Revision(0), |e| e.mod_revision));
            let record = self.encode(epoch);
            // Set before it is written: the watch may see the write before this task does.
            handle.epoch.store(epoch, Ordering::Release);
            let put = Op::put(key(&handle.node), record);
            if self.store.txn(Txn::guarded(vec![unchanged], vec![put])).await?.succeeded {
                return Ok(());
            }
        }
        Err(ClaimError::Overtaken)
    }

    fn encode(&self, epoch: u64) -> Bytes {
        let record = Record { server: self.server.clone(), epoch };
        serde_json::to_vec(&record).expect("a record is plain data").into()
    }

    /// Ends `handle`: it is no longer the session of its node.
    pub async fn release(&self, handle: &Arc<Handle>) {
        handle.stop.cancel();
        {
            let mut local = self.local.lock();
            if local.get(&handle.node).is_some_and(|current| Arc::ptr_eq(current, handle)) {
                local.remove(&handle.node);
            }
        }
        let epoch = handle.epoch.load(Ordering::Acquire);
        let mine = Compare::value(key(&handle.node), self.encode(epoch));
        let txn = Txn::guarded(vec![mine], vec![Op::delete(key(&handle.node))]);
        if let Err(error) = self.store.txn(txn).await {
            // Not needed for correctness: whoever is sent here learns that there is no session.
            debug!(node = handle.node, %error, "a session's record stays behind");
        }
    }

    /// Ends all sessions.
    pub fn end_all(&self) {
        self.local.lock().values().for_each(|handle| handle.stop.cancel());
    }

    /// Keeps an eye on the group and on sessions that moved, until `stop`.
    pub async fn watch_over(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            // Neither ever ends; both only read the store.
            () = self.check_group() => {}
            () = self.end_replaced() => {}
        }
        self.healthy.send_replace(false);
        self.end_all();
    }

    async fn check_group(&self) {
        let mut last_good = Instant::now();
        loop {
            if matches!(tokio::time::timeout(LOST_AFTER, self.store.barrier()).await, Ok(Ok(_))) {
                last_good = Instant::now();
                self.healthy.send_if_modified(|healthy| !std::mem::replace(healthy, true));
            } else if last_good.elapsed() >= LOST_AFTER && self.healthy.send_replace(false) {
                warn!("this server lost the leader; agents are sent to other servers");
                self.end_all();
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    async fn end_replaced(&self) {
        loop {
            match self.store.watch(Bytes::from_static(PREFIX.as_bytes()), None) {
                Ok(mut watch) => {
                    self.compare_all();
                    while let Some(item) = watch.next().await {
                        match item {
                            WatchItem::Events(events) => {
                                for event in events.iter().filter(|event| event.kind == EventKind::Put) {
                                    self.compare_one(&event.entry.key, &event.entry.value);
                                }
                            }
                            WatchItem::Progress(_) => {}
                            WatchItem::Lagged => break,
                        }
                    }
                }
                Err(error) => debug!(%error, "cannot watch the sessions"),
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    fn compare_all(&self) {
        for entry in self.store.snapshot().range(PREFIX.as_bytes()) {
            self.compare_one(&entry.key, &entry.value);
        }
    }

    fn compare_one(&self, key: &[u8], value: &[u8]) {
        let Some(node) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(PREFIX)) else { return };
        let Ok(record) = serde_json::from_slice::<Record>(value) else { return };
        let Some(handle) = self.local.lock().get(node).cloned() else { return };
        if record.server != self.server && record.epoch > handle.epoch.load(Ordering::Acquire) {
            info!(node, server = record.server, "the node's session moved to another server");
            handle.stop.cancel();
        }
    }

    /// Opens a stream in a session held here.
    ///
    /// # Errors
    /// There is no such session, or it is ending.
    pub async fn open_local(&self, open: Open) -> Result<NodeStream, NodeProxyError> {
        let handle = self.local.lock().get(&open.node).cloned();
        match handle {
            Some(handle) if !handle.stop.is_cancelled() => handle.tunnels.open(open).await,
            _ => Err(disconnected(&open.node)),
        }
    }

    async fn open_anywhere(&self, open: Open) -> Result<NodeStream, NodeProxyError> {
        let node = open.node.clone();
        if self.local.lock().get(&node).is_some_and(|handle| !handle.stop.is_cancelled()) {
            return self.open_local(open).await;
        }
        let snapshot = self.store.snapshot();
        let record = snapshot
            .get(key(&node).as_bytes())
            .and_then(|entry| serde_json::from_slice::<Record>(&entry.value).ok())
            .filter(|record| record.server != self.server)
            .ok_or_else(|| disconnected(&node))?;
        let server = servers::get(&snapshot, &record.server).ok_or_else(|| disconnected(&node))?;
        let channel = self.relay_to(&server.node).await.map_err(|error| {
            debug!(
                node,
                server = server.name,
                error = format!("{error:#}"),
                "no way to the server that holds the session"
            );
            disconnected(&node)
        })?;
        match relay::open(channel, open).await {
            Err(relay::Lost) => {
                self.relays.lock().remove(&server.node);
                Err(disconnected(&node))
            }
            Ok(stream) => Ok(stream),
        }
    }

    async fn relay_to(&self, address: &str) -> anyhow::Result<Channel> {
        if let Some(channel) = self.relays.lock().get(address) {
            return Ok(channel.clone());
        }
        let channel = rpc::connect(address, self.tls.clone()).await?;
        self.relays.lock().insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl NodeProxy for Sessions {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        self.open_anywhere(open).boxed()
    }
}
