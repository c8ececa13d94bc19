//! The I/O shell round openraft: one member at work, that finds the leader, proposes, and gets read indexes.
//! What is decided here is only whom to ask and when to ask again; deciding is openraft's.
//!
//! Invariants
//! - A command is tried again only while it is certain that nobody proposed it.
//! - Every call ends in bounded time, with or without a leader.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use openraft::{
    LinearizerOption,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, RaftError},
    metrics::RaftServerMetrics,
    type_config::alias::WatchReceiverOf,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, ReadError, WriteError,
    disk::{db::Db, space::Disk},
    raft::{
        forward::{self, Ask, Forwarder, Verdict},
        local::Local,
        log::LogStore,
        machine::Machine,
        peer::Peers,
    },
    rt::{Instant, sleep, timeout, timeout_at},
    serve::view::View,
    types::{Metrics, TypeConfig},
};
use kontiki_state::{
    Digest,
    command::{Command, Outcome},
    planted::{self, Bug},
};

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// How long a call looks for a leader. Several elections fit into it.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(3);
/// How long a proposed command may take before its outcome is called unknown.
pub(crate) const OUTCOME_WAIT: Duration = Duration::from_secs(5);
/// How soon a call tries again when the leader did not take it.
pub(crate) const RETRY: Duration = Duration::from_millis(15);
/// Reads that may wait for the same read index.
const READERS: usize = 16_384;

/// Raft's clock, derived from the configured election timeout.
///
/// openraft's followers wait for the leader's lease to run out and then for a random time of their
/// own, which openraft draws between `patience` and the lease. Both together start at the least
/// election timeout and stay well below the most, which is what a leader is given to confirm itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub heartbeat: Duration,
    /// How long a follower's promise to a leader holds.
    pub lease: Duration,
    /// The least time a follower waits after that; the most is one more lease.
    pub patience: Duration,
    /// The longest a healthy leader can be silent.
    pub election: Duration,
}

impl Timing {
    pub fn new(config: &Config) -> Self {
        let (least, most) = config.election;
        let lease = most / 3;
        let patience = (least / 3).max(config.heartbeat + Duration::from_millis(1));
        Self {
            heartbeat: config.heartbeat,
            lease: lease.max(patience + Duration::from_millis(1)),
            patience,
            election: most,
        }
    }
}

/// Who leads, as far as this member knows.
pub(crate) enum Leader {
    Here,
    At(String),
    Nobody,
}

/// One member at work.
pub(crate) struct Core {
    pub id: u64,
    pub raft: Raft,
    pub view: Arc<View>,
    pub peers: Arc<Peers>,
    pub disk: Arc<Disk>,
    pub log: LogStore,
    pub timing: Timing,
    pub local: Arc<Local>,
    pub db: Arc<Db>,
    pub stop: CancellationToken,
    forwarder: Forwarder,
    metrics: WatchReceiverOf<TypeConfig, Metrics>,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    readers: mpsc::Sender<Reader>,
}

type Reader = oneshot::Sender<Result<u64, ReadError>>;

impl Core {
    pub fn new(
        id: u64,
        raft: Raft,
        view: Arc<View>,
        peers: Arc<Peers>,
        disk: Arc<Disk>,
        log: LogStore,
        local: Arc<Local>,
        db: Arc<Db>,
        timing: Timing,
    ) -> (Self, mpsc::Receiver<Reader>) {
        let (readers, rx) = mpsc::channel(READERS);
        let forwarder = Forwarder::new(Arc::clone(&peers), OUTCOME_WAIT);
        let (metrics, server) = (raft.metrics(), raft.server_metrics());
        let stop = CancellationToken::new();
        (Self { id, raft, view, peers, disk, log, timing, local, db, stop, forwarder, metrics, server, readers }, rx)
    }

    /// Looks at openraft's metrics. `look` must be short: it holds up the Raft task.
    pub fn metrics<T>(&self, look: impl FnOnce(&Metrics) -> T) -> T {
        look(&self.metrics.borrow_watched())
    }

    pub fn server_metrics(&self) -> WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>> {
        self.server.clone()
    }

    pub fn leader(&self) -> Leader {
        self.metrics(|metrics| match metrics.current_leader {
            Some(id) if id == self.id => Leader::Here,
            Some(id) => match metrics.membership_config.membership().get_node(&id) {
                Some(node) => Leader::At(node.address.clone()),
                None => Leader::Nobody,
            },
            None => Leader::Nobody,
        })
    }

    pub fn leads(&self) -> bool {
        matches!(self.leader(), Leader::Here)
    }

    /// Gets a command decided, wherever the leader is.
    pub async fn write(&self, command: Command) -> Result<Outcome, WriteError> {
        let started = Instant::now();
        loop {
            if self.stop.is_cancelled() {
                return Err(WriteError::Stopped);
            }
            let verdict = timeout_at(started + OUTCOME_WAIT, self.propose(&command)).await.unwrap_or(Verdict::Unknown);
            match verdict {
                Verdict::Done(outcome) => return Ok(outcome),
                Verdict::DiskFull => return Err(WriteError::DiskFull),
                Verdict::Unknown => return Err(WriteError::Unknown),
                Verdict::Stopped | Verdict::NotLeader if started.elapsed() >= LEADER_WAIT => {
                    return Err(WriteError::NoLeader);
                }
                Verdict::Stopped | Verdict::NotLeader => self.wait_for_leader().await,
            }
        }
    }

    async fn propose(&self, command: &Command) -> Verdict {
        match self.leader() {
            Leader::Here => self.propose_here(command.clone()).await,
            Leader::At(address) => self.forwarder.propose(&address, command.clone()).await,
            Leader::Nobody => Verdict::NotLeader,
        }
    }

    async fn propose_here(&self, command: Command) -> Verdict {
        if let Some(refusal) = self.refusal() {
            return refusal;
        }
        match self.raft.client_write(command).await {
            Ok(response) => Verdict::Done(response.data),
            Err(RaftError::APIError(error)) => refused(&error),
            Err(RaftError::Fatal(_)) => Verdict::Unknown,
        }
    }

    /// Why nothing can be proposed here now.
    fn refusal(&self) -> Option<Verdict> {
        if self.stop.is_cancelled() {
            Some(Verdict::Stopped)
        } else if !self.leads() {
            Some(Verdict::NotLeader)
        } else {
            self.disk.is_full().then_some(Verdict::DiskFull)
        }
    }

    pub async fn propose_all_here(&self, commands: Vec<Command>) -> Vec<Verdict> {
        let count = commands.len();
        if let Some(refusal) = self.refusal() {
            return vec![refusal; count];
        }
        let Ok(results) = self.raft.client_write_many(commands).await else {
            return vec![Verdict::Unknown; count];
        };
        let verdicts = results.map(|result| match result {
            Ok(Ok(response)) => Verdict::Done(response.response),
            Ok(Err(error)) => refused(&error),
            Err(_) => Verdict::Unknown,
        });
        verdicts.collect().await
    }

    /// Until somebody else leads, or for a moment.
    pub async fn wait_for_leader(&self) {
        let mut server = self.server.clone();
        // The clone takes what is there already for news; what comes after that is.
        let news = async {
            server.changed().await?;
            server.changed().await
        };
        if let Ok(Err(_)) = timeout(RETRY, news).await {
            // Raft is gone and will not tell of leaders any more: whoever asks again would spin.
            sleep(RETRY).await;
        }
    }

    /// Waits until this member shows everything that was acknowledged anywhere before the call.
    pub async fn barrier(&self) -> Result<(), ReadError> {
        if planted::is(Bug::StaleRead) {
            return Ok(());
        }
        let deadline = Instant::now() + LEADER_WAIT;
        let (tx, rx) = oneshot::channel();
        self.readers.send(tx).await.map_err(|_| ReadError::Stopped)?;
        let index = timeout_at(deadline, rx).await.map_err(|_| ReadError::NoLeader)?;
        let index = index.map_err(|_| ReadError::Stopped)??;
        let mut applied = self.view.applied();
        match timeout_at(deadline, applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind),
        }
    }

    /// Gets read indexes; whoever waits while one is being fetched shares the next.
    pub async fn run_readers(self: Arc<Self>, mut rx: mpsc::Receiver<Reader>) {
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                // Cancel-safe: nothing is taken before it returns.
                count = rx.recv_many(&mut waiting, READERS) => if count == 0 { return },
            }
            let index = self.read_index().await;
            for reader in waiting {
                // Whoever asked may have given up.
                let _ = reader.send(index);
            }
        }
    }

    async fn read_index(&self) -> Result<u64, ReadError> {
        let started = Instant::now();
        while started.elapsed() < LEADER_WAIT {
            if self.stop.is_cancelled() {
                return Err(ReadError::Stopped);
            }
            let index = match self.leader() {
                Leader::Here => self.read_index_here().await,
                Leader::At(address) => self.read_index_at(&address).await,
                Leader::Nobody => None,
            };
            if let Some(index) = index {
                return Ok(index);
            }
            self.wait_for_leader().await;
        }
        Err(ReadError::NoLeader)
    }

    pub async fn read_index_here(&self) -> Option<u64> {
        let (asked, term) = (Instant::now(), self.metrics(|metrics| metrics.current_term));
        // A lease that has just run out is renewed rather than reported.
        let option = LinearizerOption::new(None, true).with_wait_timeout(self.timing.lease);
        let linearizer = self.raft.get_read_linearizer(option).await.ok()?;
        let voters = self.metrics(|metrics| metrics.membership_config.membership().get_joint_config().clone());
        // openraft can be wrong about the lease (see `peer::followers`), not about the index.
        let led = self.peers.followers.confirm(term, self.id, &voters, asked, self.timing.lease).await;
        led.then(|| linearizer.read_log_id().index())
    }

    async fn read_index_at(&self, address: &str) -> Option<u64> {
        // Asking again costs nothing, so a silent leader is not waited for.
        let wait = self.timing.election;
        let answer = self.peers.forward(address, Ask::ReadIndex.encode(), wait).await.ok()?;
        forward::decode_index(answer).ok().flatten()
    }
    /// Stops this member for good, if its state as of an entry is not what the majority's is.
    pub fn condemn(&self, index: u64, most: Digest) {
        let Some(own) = self.local.samples.at(index).filter(|own| *own != most) else { return };
        let reason = format!(
            "its state differs from the majority's as of log entry {index} ({:08x} against {:08x})",
            own.0 as u32, most.0 as u32
        );
        if let Err(error) = self.db.condemn(&reason) {
            tracing::error!(%error, "the directory could not be marked");
        }
        self.local.halt(format!("{reason}; remove this member, move its data directory away, and add it again"));
        self.view.hub.close();
        self.stop.cancel();
    }
}

fn refused(error: &ClientWriteError<TypeConfig>) -> Verdict {
    match error {
        // Rejected before it was appended.
        ClientWriteError::ForwardToLeader(_) => Verdict::NotLeader,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerTls;

    #[test]
    fn lease_and_patience_add_up_to_the_election_timeout() {
        for (heartbeat, election, lease, patience) in [
            (50, (300, 600), 200, 100),
            (100, (300, 600), 200, 101),
            (500, (3000, 6000), 2000, 1000),
            (50, (100, 120), 52, 51),
        ] {
            let ms = Duration::from_millis;
            let tls = PeerTls {
                ca_pem: String::new(),
                cert_pem: String::new(),
                key_pem: String::new(),
                organization: None,
                names: Vec::new(),
            };
            let config = Config {
                id: 1,
                name: "s1".into(),
                dir: "/nowhere".into(),
                listen: ([127, 0, 0, 1], 0).into(),
                advertise: String::new(),
                tls,
                heartbeat: ms(heartbeat),
                election: (ms(election.0), ms(election.1)),
                max_feature_level: None,
                past: crate::Past::NONE,
            };
            let timing = Timing::new(&config);
            assert_eq!((timing.lease, timing.patience), (ms(lease), ms(patience)));
        }
    }
}
