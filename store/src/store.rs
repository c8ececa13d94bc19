//! The handle to this member of the group, and how a member starts and stops.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    SnapshotPolicy,
    errors::{Fatal, InitializeError, RaftError},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    Config, Entry, HistoryError, MemberError, OpenError, ReadError, Revision, Snapshot, Status, StoreError, Txn,
    TxnResult, Watch, WriteError,
    command::{Action, Outcome},
    db::Db,
    disk::Disk,
    engine::{AskError, Core, Timing},
    forward::{Ask, decode_change},
    log::LogStore,
    machine::{Loaded, Machine},
    peer::{Factory, Identity, Listener, Peers, Service},
    raft::{Node, Raft, TypeConfig},
    rt::{self, timeout},
    sim, status,
    upkeep::{self, Keep},
    view::View,
    writer::{self, Job, WriteQueue},
};

/// The largest transaction, encoded. As etcd's default.
pub const MAX_TXN_BYTES: usize = 1536 << 10;
/// How long a membership change may take: a new member has to catch up first.
const CHANGE_WAIT: Duration = Duration::from_secs(90);
/// How long stopping waits for what is under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Settings that only tests and benchmarks change.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Log entries between two snapshots.
    pub snapshot_every: u64,
    /// Log entries kept behind a snapshot for members that are a little behind.
    pub keep_log: u64,
    /// How much history stays readable at least.
    pub history: Duration,
    /// How often compaction looks.
    pub compact_every: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            snapshot_every: 20_000,
            keep_log: 10_000,
            history: Duration::from_secs(300),
            compact_every: Duration::from_secs(15),
        }
    }
}

/// A handle to this member of the group; clones are cheap.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    config: Config,
    db: Arc<Db>,
    queue: WriteQueue,
    status: watch::Receiver<Status>,
    tasks: TaskTracker,
    /// Whether there was a group at the start; openraft's metrics say so only a little later.
    had_group: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

impl Store {
    /// Opens this member's data, recovers it, and starts talking to the other members.
    ///
    /// # Errors
    /// One clear line each; nothing is written to a directory that is not this member's.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_with(config, Tuning::default()).await
    }

    /// As `open`, with settings for tests.
    #[doc(hidden)]
    pub async fn open_with(config: Config, tuning: Tuning) -> Result<Self, OpenError> {
        #[cfg(feature = "planted-bugs")]
        crate::planted::from_environment();
        let identity = Identity::new(&config.tls)?;
        // The port before the data: a second server on one machine must not touch anything.
        let listener = Listener::bind(config.listen, Arc::clone(&identity.server))?;
        let (db, loaded) = recover(&config, &identity.cluster).await?;
        let store = Self::start(config, tuning, db, loaded, Peers::new(identity.client)).await?;
        let (core, tasks) = (&store.0.core, &store.0.tasks);
        tasks.spawn(listener.run(store.service(), tasks.clone(), core.stop.clone()));
        Ok(store)
    }

    /// Opens the data of whichever member of a simulated world this is a task of.
    #[doc(hidden)]
    pub async fn open_simulated(config: Config, tuning: Tuning) -> Result<Self, OpenError> {
        let corrupt = |error: std::io::Error| OpenError::Corrupt { dir: String::new(), reason: error.to_string() };
        let db = Arc::new(Db::open_simulated(&config)?);
        let loaded = Loaded::read(&db).map_err(corrupt)?;
        let address = config.advertise.clone();
        let store = Self::start(config, tuning, db, loaded, Peers::simulated()).await?;
        sim::listen(&address, store.service());
        Ok(store)
    }

    fn service(&self) -> Service {
        Service::new(Arc::clone(&self.0.core), self.0.config.dir.clone())
    }

    async fn start(
        config: Config,
        tuning: Tuning,
        db: Arc<Db>,
        loaded: Loaded,
        peers: Peers,
    ) -> Result<Self, OpenError> {
        let timing = Timing::new(&config);
        let failed = |reason: String| OpenError::Corrupt { dir: config.dir.display().to_string(), reason };
        let io = |error: std::io::Error| failed(error.to_string());
        let queue = writer::spawn(Arc::clone(&db), loaded.revision()).map_err(io)?;
        let log = LogStore::open(Arc::clone(&db), queue.clone()).map_err(io)?;
        if rt::simulated() {
            let (vote, entries) = log.on_disk().map_err(io)?;
            let (index, state) = loaded.state();
            sim::recovered(vote, &entries, index, state);
        }
        let (machine, view) = Machine::new(loaded, Arc::clone(&db), queue.clone());
        let peers = Arc::new(peers);
        let raft_config = raft_config(timing, tuning)?;
        let network = Factory(Arc::clone(&peers));
        let raft = Raft::new(config.id, Arc::new(raft_config), network, log.clone(), machine).await;
        let raft = raft.map_err(|error: Fatal<TypeConfig>| failed(error.to_string()))?;
        let had_group = raft.is_initialized().await.map_err(|error| failed(error.to_string()))?;
        let disk = Arc::new(Disk::new(Arc::clone(queue.health())));
        let (core, readers) = Core::new(config.id, raft, view, peers, disk, log, timing);
        let core = Arc::new(core);
        let (status_tx, status) = watch::channel(status::status(&core, &config.name, &[]));
        let tasks = TaskTracker::new();
        let start = |task: futures::future::BoxFuture<'static, ()>| drop(rt::spawn(tasks.track_future(task)));
        start(Box::pin(Arc::clone(&core).run_readers(readers)));
        start(Box::pin(status::run(Arc::clone(&core), config.name.clone(), status_tx)));
        let keep = Keep { history: tuning.history, look: tuning.compact_every };
        start(Box::pin(upkeep::compact(Arc::clone(&core), keep)));
        start(Box::pin(upkeep::sweep(Arc::clone(&core), Arc::clone(&db), keep)));
        start(Box::pin(upkeep::expire(Arc::clone(&core))));
        start(Box::pin(upkeep::watch_disk(Arc::clone(&core), Arc::clone(&db))));
        start(Box::pin(upkeep::watch_stalls(Arc::clone(&core))));
        Ok(Self(Arc::new(Inner { core, config, db, queue, status, tasks, had_group })))
    }

    fn view(&self) -> &Arc<View> {
        &self.0.core.view
    }

    /// Whether this member belongs to a group.
    #[must_use]
    pub fn initialized(&self) -> bool {
        self.0.had_group || self.0.core.metrics(|m| m.membership_config.membership().nodes().next().is_some())
    }

    /// Makes this member the first of a new group.
    ///
    /// # Errors
    /// `AlreadyInitialized` if it belongs to one already.
    pub async fn bootstrap(&self) -> Result<(), StoreError> {
        let Config { id, name, advertise, .. } = &self.0.config;
        let node = Node { name: name.clone(), address: advertise.clone() };
        match self.0.core.raft.initialize(BTreeMap::from([(*id, node)])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Err(StoreError::AlreadyInitialized),
            Err(RaftError::APIError(error)) => return Err(StoreError::Storage(error.to_string())),
            Err(RaftError::Fatal(_)) => return Err(StoreError::Stopped),
        }
        // The group exists from here on; wait until it works.
        let mut status = self.status();
        let leads = status.wait_for(|status| status.is_leader);
        match timeout(STOP_WAIT, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::NoLeader),
        }
    }

    /// Adds a member, which must be running already: as a learner, then, once it has caught up, as
    /// a voter. Repeating the call is safe. Works on any member.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_member(&self, id: u64, name: &str, peer_addr: &str) -> Result<(), MemberError> {
        self.change(Ask::AddMember { id, name: name.to_owned(), address: peer_addr.to_owned() }).await
    }

    /// Removes a member. Works on any member.
    ///
    /// # Errors
    /// `Refused` if what remains could not work; see [`MemberError`].
    pub async fn remove_member(&self, id: u64) -> Result<(), MemberError> {
        self.change(Ask::RemoveMember { id }).await
    }

    async fn change(&self, ask: Ask) -> Result<(), MemberError> {
        match self.0.core.ask_leader(ask, CHANGE_WAIT).await {
            Ok(answer) => decode_change(answer).unwrap_or(Err(MemberError::Unknown)),
            Err(AskError::NoLeader) => Err(MemberError::NoLeader),
            Err(AskError::Lost) => Err(MemberError::Unknown),
        }
    }

    /// Hands leadership to another voter. Works on any member.
    ///
    /// # Errors
    /// `NoSuccessor` if nobody could take over.
    pub async fn transfer_leadership(&self) -> Result<(), StoreError> {
        match self.change(Ask::TransferLeadership).await {
            Ok(()) => Ok(()),
            Err(MemberError::Refused(_)) => Err(StoreError::NoSuccessor),
            Err(_) => Err(StoreError::NoLeader),
        }
    }

    /// Decides a transaction. Works on any member.
    ///
    /// # Errors
    /// Only `Unknown` leaves open whether it happened; after any other error it did not and will not.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResult, WriteError> {
        let command = Action::Txn(txn).encode();
        if command.0.len() > MAX_TXN_BYTES {
            return Err(WriteError::TooLarge);
        }
        match self.0.core.write(command).await? {
            Outcome::Txn(result) => Ok(result),
            Outcome::Fenced => Err(WriteError::Fenced),
            // Only a newer program's leader could answer so.
            Outcome::Done { .. } | Outcome::Malformed => Err(WriteError::Unknown),
        }
    }

    /// After it, `snapshot` shows everything that was acknowledged by any member before the call.
    ///
    /// # Errors
    /// In bounded time, if there is no leader or this member cannot follow.
    pub async fn barrier(&self) -> Result<Revision, ReadError> {
        self.0.core.barrier().await?;
        Ok(self.snapshot().revision())
    }

    /// What this member shows now. Costs next to nothing.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.view().snapshot()
    }

    /// The keys under `prefix` as they were at `rev`, in order.
    ///
    /// # Errors
    /// If that is compacted, or has not happened here yet.
    pub async fn range_at(&self, prefix: &[u8], rev: Revision) -> Result<Vec<Entry>, HistoryError> {
        let compacted = self.compacted();
        if rev < compacted {
            return Err(HistoryError::Compacted { oldest: compacted });
        }
        Arc::clone(self.view()).range_at(Bytes::copy_from_slice(prefix), rev).await
    }

    /// Watches the keys under `prefix`: all changes after `after`, or from now on. If `after` has
    /// not happened here yet, the first events are those after it.
    ///
    /// # Errors
    /// `Compacted` if the events after `after` are no longer all known.
    pub fn watch(&self, prefix: Bytes, after: Option<Revision>) -> Result<Watch, HistoryError> {
        Watch::new(Arc::clone(self.view()), prefix, after)
    }

    /// The oldest revision that can be read, and watched after.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.view().compacted()
    }

    /// This member's view of the group. Its sender is gone once the store has stopped.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.clone()
    }

    /// Waits until the store has stopped: after `shutdown`, or because its storage failed.
    pub async fn stopped(&self) {
        self.0.core.stop.cancelled().await;
    }

    /// Hands leadership over if this member leads, then stops and closes everything.
    pub async fn shutdown(&self) {
        let core = &self.0.core;
        if core.leads()
            && !core.stop.is_cancelled()
            && let Err(error) = crate::members::transfer(core).await
        {
            tracing::info!(%error, "stopping as leader without a successor");
        }
        self.stop(true).await;
    }

    /// Stops without handing over and without writing what can be told again: as close to a kill
    /// as a process can come without dying.
    #[doc(hidden)]
    pub async fn crash(&self) {
        self.stop(false).await;
    }

    async fn stop(&self, orderly: bool) {
        let Inner { core, db, queue, tasks, .. } = &*self.0;
        core.stop.cancel();
        core.view.hub.close();
        if let Err(error) = core.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        queue.give_up();
        if orderly {
            // What was applied is written, so that the next start has less to do.
            let _ = timeout(STOP_WAIT, queue.run(|done| Job::Barrier { done })).await;
        }
        tasks.close();
        if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not stop in time");
        }
        let db = Arc::clone(db);
        if rt::blocking(move || db.close()).await.is_err() {
            tracing::warn!("the database was not closed cleanly");
        }
    }
}

async fn recover(config: &Config, cluster: &str) -> Result<(Arc<Db>, Loaded), OpenError> {
    let (config, cluster) = (config.clone(), cluster.to_owned());
    let task = rt::blocking(move || {
        let db = Db::open(&config, &cluster)?;
        let loaded = Loaded::read(&db)
            .map_err(|error| OpenError::Corrupt { dir: config.dir.display().to_string(), reason: error.to_string() })?;
        Ok((Arc::new(db), loaded))
    });
    task.await.map_err(|error| OpenError::Config(error.to_string()))?
}

fn raft_config(timing: Timing, tuning: Tuning) -> Result<openraft::Config, OpenError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "kontiki".to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.patience),
        election_timeout_max: ms(timing.lease),
        enable_pre_vote: Some(true),
        // A restarted leader has to be elected again: it may lack what was decided meanwhile.
        enable_leader_restore: Some(false),
        max_payload_entries: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(tuning.snapshot_every),
        max_in_snapshot_log_to_keep: tuning.keep_log,
        purge_batch_size: (tuning.keep_log / 4).max(1),
        replication_lag_threshold: u64::MAX,
        // A restarted peer is found again within a tenth of a second.
        backoff: "20ms 40ms ...100ms".to_owned(),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| OpenError::Config(error.to_string()))
}
