//! The handle to this member of the group, and how a member starts and stops.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    SnapshotPolicy,
    errors::{Fatal, InitializeError, RaftError},
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    Config, HistoryError, MemberError, OpenError, QueryError, ReadError, Status, StoreError, Watch, WriteError,
    disk::{
        db::Db,
        failure::open_error,
        past::{Question, Told, When},
        space::Disk,
        writer::{self, Job, WriteQueue},
    },
    raft::{
        answer::{AskError, ask_leader, ask_leases},
        engine::{Core, Raft, Timing},
        forward::{Ask, decode_change},
        generation,
        local::Local,
        log::LogStore,
        machine::{Loaded, Machine},
        members,
        peer::{Factory, Listener, PeerIdentity, Peers, Service},
        reporter, witness,
    },
    rescue::backup::{self, Backup},
    rt::{self, timeout},
    serve::view::View,
    types::{Node, TypeConfig},
    upkeep::{self, Keep},
    world,
};
use kontiki_state::{
    End, Entry, KeyRange, Level, RangeQuery, RangeResult, Refusal, Response, ResponseKind, Revision, Snapshot, Txn,
    TxnResult,
    command::{Action, Outcome},
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
    cluster: u64,
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
        if rt::simulated() {
            return Box::pin(Self::open_simulated(config, tuning)).await;
        }
        #[cfg(feature = "planted-bugs")]
        kontiki_state::planted::from_environment();
        let identity = generation::fence(PeerIdentity::new(&config.tls)?, generation::read(&config.dir)?);
        // The port before the data: a second server on one machine must not touch anything.
        let listener = Listener::bind(config.listen, &identity)?;
        let (db, loaded) = recover(&config, &identity.cluster).await?;
        let cluster = identity.cluster.get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default();
        let store = Self::start(config, tuning, db, loaded, Peers::new(identity), cluster).await?;
        let (core, tasks) = (&store.0.core, &store.0.tasks);
        tasks.spawn(listener.run(store.service(), tasks.clone(), core.stop.clone()));
        Ok(store)
    }

    /// Opens the data of whichever member of a simulated world this is a task of.
    async fn open_simulated(config: Config, tuning: Tuning) -> Result<Self, OpenError> {
        let nowhere = || OpenError::Config("no simulation here".to_owned());
        let db = world::simulated().map(|world| Db::simulated(world.disk(), &config));
        let db = Arc::new(db.ok_or_else(nowhere)?);
        let loaded = Loaded::read(&db).map_err(|error| open_error(&config.dir, &error))?;
        let peers = world::simulated().map(|world| Peers::simulated(world.port()));
        let address = config.advertise.clone();
        let store = Self::start(config, tuning, db, loaded, peers.ok_or_else(nowhere)?, 0).await?;
        if let Some(world) = world::simulated() {
            world.listen(&address, Arc::new(store.service()));
        }
        Ok(store)
    }

    fn service(&self) -> Service {
        Service::new(Arc::clone(&self.0.core))
    }

    async fn start(
        config: Config,
        tuning: Tuning,
        db: Arc<Db>,
        loaded: Loaded,
        peers: Peers,
        cluster: u64,
    ) -> Result<Self, OpenError> {
        let timing = Timing::new(&config);
        let dir = config.dir.clone();
        let io = |error: std::io::Error| open_error(&dir, &error);
        let queue = writer::spawn(Arc::clone(&db), loaded.revision()).map_err(io)?;
        let log = LogStore::open(Arc::clone(&db), queue.clone()).map_err(io)?;
        if rt::simulated() {
            let (vote, entries) = log.on_disk().map_err(io)?;
            let (index, state) = loaded.state();
            witness::recovered(vote, &entries, index, state);
        }
        let newest = config.max_feature_level.map_or(Level::NEWEST, |most| Level::NEWEST.min(Level(most)));
        let local = Arc::new(Local::new(newest, loaded.level()));
        let (machine, view, news) = Machine::new(loaded, Arc::clone(&db), queue.clone(), Arc::clone(&local));
        let peers = Arc::new(peers);
        let raft_config = raft_config(timing, tuning)?;
        let network = Factory(Arc::clone(&peers), Arc::clone(&local));
        let raft = Raft::new(config.id, Arc::new(raft_config), network, log.clone(), machine).await;
        let raft = raft.map_err(|error| raft_error(&dir, &error))?;
        let had_group = raft.is_initialized().await.map_err(|error| raft_error(&dir, &error))?;
        let disk = Arc::new(Disk::new(Arc::clone(queue.writer())));
        let (core, readers) = Core::new(config.id, raft, view, peers, disk, log, local, Arc::clone(&db), timing);
        let core = Arc::new(core);
        let (status_tx, status) = watch::channel(reporter::status(&core, &config.name, &[]));
        let tasks = TaskTracker::new();
        let start = |task: futures::future::BoxFuture<'static, ()>| drop(rt::spawn(tasks.track_future(task)));
        start(Box::pin(Arc::clone(&core.view).deliver(news, core.stop.clone())));
        start(Box::pin(Arc::clone(&core).run_readers(readers)));
        start(Box::pin(reporter::run(Arc::clone(&core), config.name.clone(), status_tx)));
        let keep = Keep { history: tuning.history, past: config.past, look: tuning.compact_every };
        upkeep::tasks(&core, &db, keep).into_iter().for_each(start);
        Ok(Self(Arc::new(Inner { core, config, db, queue, status, tasks, had_group, cluster })))
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
        self.bootstrap_together(&[(*id, name.clone(), advertise.clone())]).await?;
        // The group exists from here on; wait until it works.
        let mut status = self.status();
        let leads = status.wait_for(|status| status.is_leader);
        match timeout(STOP_WAIT, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::NoLeader),
        }
    }

    /// Makes this member one of a new group of members (id, name, peer address), each of which is
    /// told the same. Does not wait for them.
    ///
    /// # Errors
    /// `AlreadyInitialized` if it belongs to a group already.
    pub async fn bootstrap_together(&self, members: &[(u64, String, String)]) -> Result<(), StoreError> {
        let nodes = members
            .iter()
            .map(|(id, name, address)| (*id, Node { name: name.clone(), address: address.clone(), ..Node::default() }));
        match self.0.core.raft.initialize(nodes.collect::<BTreeMap<_, _>>()).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(StoreError::AlreadyInitialized),
            Err(RaftError::APIError(error)) => Err(StoreError::Storage(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(StoreError::Stopped),
        }
    }

    /// Adds a member that may not run yet, as a learner; with `promote` it votes as soon as it has
    /// caught up. Works on any member.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_learner(&self, id: u64, peer_addr: &str, promote: bool) -> Result<(), MemberError> {
        let node = Node { address: peer_addr.to_owned(), promote, ..Node::default() };
        self.change(Ask::AddLearner { id, node }).await
    }

    /// Lets a learner vote. Works on any member.
    ///
    /// # Errors
    /// `NotCaughtUp` if it has not; see [`MemberError`].
    pub async fn promote_member(&self, id: u64) -> Result<(), MemberError> {
        self.change(Ask::Promote { id }).await
    }

    /// Changes what the group knows about a member. Works on any member.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn update_member(
        &self,
        id: u64,
        name: &str,
        peer_addr: &str,
        client_urls: Vec<String>,
    ) -> Result<(), MemberError> {
        let promote =
            self.0.core.metrics(|m| m.membership_config.membership().get_node(&id).is_some_and(|n| n.promote));
        let node = Node { name: name.to_owned(), address: peer_addr.to_owned(), client_urls, promote };
        self.change(Ask::Update { id, node }).await
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
        match ask_leader(&self.0.core, ask, CHANGE_WAIT).await {
            Ok(answer) => decode_change(answer).unwrap_or(Err(MemberError::Unknown)),
            Err(AskError::NoLeader) => Err(MemberError::NoLeader),
            Err(AskError::Lost) => Err(MemberError::Unknown),
        }
    }

    /// Hands leadership to another voter, or to `target`. Works on any member.
    ///
    /// # Errors
    /// `NoSuccessor` if nobody could take over.
    pub async fn transfer_leadership(&self, target: Option<u64>) -> Result<(), StoreError> {
        match self.change(Ask::TransferLeadership { target }).await {
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
            Outcome::Txn(mut result) => {
                self.read_past(&mut result.responses).await?;
                Ok(result)
            }
            Outcome::Refused(refusal) => Err(refused(refusal)),
            // Only a newer program's leader could answer so.
            Outcome::Done { .. } => Err(WriteError::Unknown),
        }
    }

    /// Answers what a transaction asked of the past, which does not change any more.
    async fn read_past(&self, responses: &mut [Response]) -> Result<(), WriteError> {
        for response in responses {
            match &mut response.kind {
                ResponseKind::Past(query) => {
                    // This member may not show yet what the leader has decided.
                    self.barrier().await.map_err(|_| WriteError::Unknown)?;
                    let past = Arc::clone(self.view()).query_at(query.clone()).await;
                    response.kind = ResponseKind::Range(past.map_err(|_| WriteError::Unknown)?);
                }
                ResponseKind::Txn(inner) => Box::pin(self.read_past(&mut inner.responses)).await?,
                ResponseKind::Put(_) | ResponseKind::Delete(..) | ResponseKind::Range(_) => {}
            }
        }
        Ok(())
    }

    /// Decides a transaction that only reads, without the log. Works on any member.
    ///
    /// # Errors
    /// If `linearizable` was not possible in time, or the past asked for cannot be told.
    pub async fn read_txn(&self, txn: &Txn, linearizable: bool) -> Result<TxnResult, WriteError> {
        if linearizable {
            self.barrier().await.map_err(|error| match error {
                ReadError::NoLeader | ReadError::Behind => WriteError::NoLeader,
                ReadError::Stopped => WriteError::Stopped,
            })?;
        }
        let mut result = self.snapshot().read(txn).map_err(refused)?;
        self.read_past(&mut result.responses).await?;
        Ok(result)
    }

    /// Answers a query, and tells the revision that was current then. Works on any member.
    ///
    /// # Errors
    /// If `linearizable` was not possible in time, or the past asked for cannot be told.
    pub async fn query(&self, query: RangeQuery, linearizable: bool) -> Result<(RangeResult, Revision), QueryError> {
        if linearizable {
            self.0.core.barrier().await?;
        }
        if query.range.end == End::Key && query.revision == 0 {
            // Without a snapshot, which would make the next write to the key's neighbours copy them.
            return Ok(self.view().look(|state| (state.query(&query), state.revision())));
        }
        let now = self.snapshot();
        let current = now.revision();
        if query.revision == 0 || query.revision == current.0.cast_signed() {
            return Ok((now.query(&query), current));
        }
        match now.readable(query.revision) {
            Err(Refusal::Future) => Err(HistoryError::Future { current }.into()),
            Err(_) => Err(HistoryError::Compacted { oldest: now.compacted() }.into()),
            Ok(()) => Ok((Arc::clone(self.view()).query_at(query).await?, current)),
        }
    }

    /// Forgets what was superseded at or before a revision. Works on any member.
    ///
    /// # Errors
    /// `Refused` if it is compacted already or lies in the future; see [`WriteError`].
    pub async fn compact(&self, upto: Revision) -> Result<Revision, WriteError> {
        self.decide(Action::Compact { upto }).await
    }

    /// Makes a lease of so many seconds.
    ///
    /// # Errors
    /// `Refused` if the id is in use; see [`WriteError`].
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<Revision, WriteError> {
        self.decide(Action::Grant { id, ttl }).await
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// `Refused` if there is no such lease; see [`WriteError`].
    pub async fn revoke(&self, id: i64) -> Result<Revision, WriteError> {
        self.decide(Action::Revoke { id, fence: None }).await
    }

    async fn decide(&self, action: Action) -> Result<Revision, WriteError> {
        match self.0.core.write(action.encode()).await? {
            Outcome::Done { revision } => Ok(revision),
            Outcome::Refused(refusal) => Err(refused(refusal)),
            Outcome::Txn(_) => Err(WriteError::Unknown),
        }
    }

    /// Gives a lease its whole time again, which is told in seconds; `None` if there is no such lease.
    ///
    /// # Errors
    /// If the leader could not be asked.
    pub async fn keep_alive(&self, id: i64) -> Result<Option<u64>, ReadError> {
        Ok(self.keep_alive_all(&[id]).await?.pop().flatten())
    }

    /// As `keep_alive` for each of `ids`, with one question to the leader where all members know how. One answer each,
    /// in order.
    ///
    /// # Errors
    /// If the leader could not be asked.
    pub async fn keep_alive_all(&self, ids: &[i64]) -> Result<Vec<Option<u64>>, ReadError> {
        let core = &self.0.core;
        let together = if core.local.level() >= Level::DIGESTS { ids.len().max(1) } else { 1 };
        let mut answers = Vec::with_capacity(ids.len());
        for ids in ids.chunks(together) {
            let times = ask_leases(core, Ask::KeepAlive { leases: ids.to_vec() }).await?;
            // Leases that there are not are missing from it.
            let mut times = times.into_iter().peekable();
            answers.extend(ids.iter().map(|id| times.next_if(|(renewed, _)| renewed == id).map(|(_, ttl)| ttl)));
        }
        Ok(answers)
    }

    /// How long leases still have, in milliseconds: one, or all.
    ///
    /// # Errors
    /// If the leader could not be asked.
    pub async fn leases_left(&self, id: Option<i64>) -> Result<Vec<(i64, u64)>, ReadError> {
        ask_leases(&self.0.core, Ask::LeasesLeft { lease: id }).await
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
    pub async fn range_at(&self, prefix: &[u8], rev: Revision) -> Result<Vec<Arc<Entry>>, HistoryError> {
        let compacted = self.compacted();
        if rev < compacted {
            return Err(HistoryError::Compacted { oldest: compacted });
        }
        Arc::clone(self.view()).range_at(KeyRange::prefix(Bytes::copy_from_slice(prefix)), rev).await
    }

    /// What became of a key up to a moment: `limit` changes at most, and no more once they have so many bytes. Goes back
    /// further than what is compacted, as far as [`Config::past`] keeps it.
    ///
    /// # Errors
    /// `Future` if the moment has not come here yet. That it lies too far back is told by the answer.
    pub async fn tell(&self, key: Bytes, upto: When, limit: usize, bytes: usize) -> Result<Told, HistoryError> {
        Arc::clone(self.view()).tell_past(Question { key, upto, limit, bytes }).await
    }

    /// Watches the keys under `prefix`: all changes after `after`, or from now on. If `after` has
    /// not happened here yet, the first events are those after it.
    ///
    /// # Errors
    /// `Compacted` if the events after `after` are no longer all known.
    pub fn watch(&self, prefix: Bytes, after: Option<Revision>) -> Result<Watch, HistoryError> {
        Watch::new(Arc::clone(self.view()), KeyRange::prefix(prefix), after)
    }

    /// Watches a range of keys: from a revision on, itself included, or from now on. It is not ended
    /// for being slow, but reads on from history.
    ///
    /// # Errors
    /// `Compacted` if the events from there on are no longer all known.
    pub fn watch_range(&self, range: KeyRange, from: Option<Revision>) -> Result<Watch, HistoryError> {
        Watch::persistent(Arc::clone(self.view()), range, from)
    }

    /// Everything up to this revision is in the queues of the watches that it concerns.
    #[must_use]
    pub fn published(&self) -> Revision {
        self.view().hub.published()
    }

    /// A hash of all keys and leases as of a revision (zero: now), and that revision. Equal on all members.
    ///
    /// # Errors
    /// If that is compacted, or has not happened here yet.
    pub async fn hash(&self, revision: Revision) -> Result<(u32, Revision), HistoryError> {
        let now = self.snapshot();
        let revision = if revision == Revision(0) { now.revision() } else { revision };
        let compacted = now.compacted();
        if revision < compacted {
            return Err(HistoryError::Compacted { oldest: compacted });
        }
        let all = KeyRange::prefix("");
        let entries = match revision == now.revision() {
            true => now.entries(&all),
            false => Arc::clone(self.view()).range_at(all, revision).await?,
        };
        let hash = rt::blocking(move || reporter::hash(&entries)).await;
        Ok((hash.map_err(|error| HistoryError::Storage(error.to_string()))?, revision))
    }

    /// The whole state as of now, as one stream that carries its own checksum.
    ///
    /// # Errors
    /// If the store has stopped or the disk fails.
    pub async fn backup(&self) -> std::io::Result<Backup> {
        let taken = self.0.core.raft.with_state_machine(|machine| Box::pin(machine.take_snapshot())).await;
        backup::backup(taken.map_err(|_| crate::disk::failure::stopped())??.snapshot)
    }

    /// Whether this member's disk is full: writes are refused while the leader's is.
    #[must_use]
    pub fn disk_is_full(&self) -> bool {
        self.0.core.disk.is_full()
    }

    /// Bytes that the database takes on disk.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub async fn disk_usage(&self) -> std::io::Result<u64> {
        let dir = self.0.config.dir.join("db");
        rt::blocking(move || reporter::disk_usage(&dir)).await?
    }

    /// What tells this cluster from others: a hash of its CA certificate.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.0.cluster
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

    /// Shows members this certificate from now on, in place of the one it was opened with. Connections that are there stay.
    ///
    /// # Errors
    /// It is no member's, or the key is another's.
    pub fn renew_certificate(&self, cert_pem: &str, key_pem: &str) -> Result<(), OpenError> {
        self.0.core.peers.renew(cert_pem, key_pem)
    }

    /// Whether the store has stopped, as `stopped` waits for.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.core.stop.is_cancelled()
    }

    /// Why this member stopped by itself, if it did: one line for a person.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.0.core.local.halted()
    }

    /// The group's feature level, as applied here, and the newest that this member knows.
    #[must_use]
    pub fn feature_level(&self) -> (u32, u32) {
        let local = &self.0.core.local;
        (local.level().0, local.newest.0)
    }

    /// How often this member, while it led, compared all members and found their states equal.
    #[must_use]
    pub fn times_found_equal(&self) -> u64 {
        self.0.core.local.times_found_equal()
    }

    /// Hands leadership over if this member leads, then stops and closes everything.
    pub async fn shutdown(&self) {
        let core = &self.0.core;
        if core.leads()
            && !core.stop.is_cancelled()
            && let Err(error) = members::transfer(core, None).await
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

fn refused(refusal: Refusal) -> WriteError {
    match refusal {
        Refusal::Fenced => WriteError::Fenced,
        Refusal::Malformed => WriteError::Unknown,
        other => WriteError::Refused(other),
    }
}

async fn recover(config: &Config, cluster: &str) -> Result<(Arc<Db>, Loaded), OpenError> {
    let (config, cluster) = (config.clone(), cluster.to_owned());
    let task = rt::blocking(move || {
        let db = Db::open(&config, &cluster)?;
        let loaded = Loaded::read(&db).map_err(|error| open_error(&config.dir, &error))?;
        Ok((Arc::new(db), loaded))
    });
    task.await.map_err(|error| OpenError::Config(error.to_string()))?
}

/// openraft passes on the text of what its storage said, and that only.
fn raft_error(dir: &Path, error: &Fatal<TypeConfig>) -> OpenError {
    let text = error.to_string();
    let damaged = text.contains("Corruption") || text.contains("malformed");
    let kind = if damaged { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
    open_error(dir, &io::Error::new(kind, text))
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
