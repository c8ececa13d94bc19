//! One member at work: finds the leader, proposes, reads, and answers the other members.
//!
//! Invariants
//! - A command is tried again only while it is certain that nobody proposed it.
//! - Every call ends in bounded time, with or without a leader.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
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
    Config, Lease, ReadError, Term, WriteError,
    codec::Malformed,
    command::{Command, Outcome},
    disk::Disk,
    forward::{self, Ask, Forwarder, LeaseTimes, Verdict},
    lessor::Lessor,
    log::LogStore,
    members,
    peer::{ForwardError, Peers},
    planted::{self, Bug},
    raft::{Metrics, Raft, TypeConfig},
    rt::{Instant, sleep, timeout, timeout_at},
    view::View,
};

/// How long a call looks for a leader. Several elections fit into it.
const LEADER_WAIT: Duration = Duration::from_secs(3);
/// How long a proposed command may take before its outcome is called unknown.
pub(crate) const OUTCOME_WAIT: Duration = Duration::from_secs(5);
/// How soon a call tries again when the leader did not take it.
const RETRY: Duration = Duration::from_millis(15);
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
    pub lessor: Lessor,
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
        timing: Timing,
    ) -> (Self, mpsc::Receiver<Reader>) {
        let (readers, rx) = mpsc::channel(READERS);
        let forwarder = Forwarder::new(Arc::clone(&peers), OUTCOME_WAIT);
        let (metrics, server) = (raft.metrics(), raft.server_metrics());
        let (lessor, stop) = (Lessor::default(), CancellationToken::new());
        (Self { id, raft, view, peers, disk, log, timing, lessor, stop, forwarder, metrics, server, readers }, rx)
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
        match () {
            () if self.stop.is_cancelled() => Some(Verdict::Stopped),
            () if !self.leads() => Some(Verdict::NotLeader),
            () if self.disk.is_full() => Some(Verdict::DiskFull),
            () => None,
        }
    }

    async fn propose_all_here(&self, commands: Vec<Command>) -> Vec<Verdict> {
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
    async fn wait_for_leader(&self) {
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

    async fn read_index_here(&self) -> Option<u64> {
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

    /// Asks the leader about leases, until somebody who leads answers.
    pub async fn ask_leases(&self, ask: Ask) -> Result<Vec<(i64, u64)>, ReadError> {
        let started = Instant::now();
        let request = ask.encode();
        while started.elapsed() < LEADER_WAIT {
            if self.stop.is_cancelled() {
                return Err(ReadError::Stopped);
            }
            let answer = match self.leader() {
                Leader::Here => self.serve(request.clone()).await.ok(),
                Leader::At(address) => self.peers.forward(&address, request.clone(), LEADER_WAIT).await.ok(),
                Leader::Nobody => None,
            };
            if let Some(Ok(Some(times))) = answer.map(forward::decode_leases) {
                return Ok(times);
            }
            self.wait_for_leader().await;
        }
        Err(ReadError::NoLeader)
    }

    /// The term in which this member surely leads, once it shows all that was decided before.
    async fn leading_term(&self) -> Option<Term> {
        let term = self.metrics(|metrics| metrics.current_term);
        let index = self.read_index_here().await?;
        let mut applied = self.view.applied();
        let shown = timeout(LEADER_WAIT, applied.wait_for(|at| *at >= index)).await;
        shown.is_ok_and(|shown| shown.is_ok()).then_some(Term(term))
    }

    async fn keep_alive_here(&self, id: i64) -> LeaseTimes {
        let term = self.leading_term().await?;
        let mut applied = self.view.applied();
        let ending = async {
            loop {
                applied.mark_unchanged();
                let snapshot = self.view.snapshot();
                let Some(lease) = snapshot.leases().get(&id) else { return Vec::new() };
                if self.lessor.keep_alive(term, id, lease, Instant::now()) {
                    return vec![(id, lease.ttl.unsigned_abs())];
                }
                // Its end has been proposed: it is gone as soon as that is applied.
                let _ = timeout(RETRY, applied.changed()).await;
            }
        };
        timeout(LEADER_WAIT, ending).await.ok()
    }

    async fn leases_left_here(&self, wanted: Option<i64>) -> LeaseTimes {
        let term = self.leading_term().await?;
        let snapshot = self.view.snapshot();
        let now = Instant::now();
        let left = |id: i64, lease: &Lease| {
            let left = self.lessor.remaining(term, id, lease, now);
            (id, u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
        };
        let leases = snapshot.leases();
        Some(match wanted {
            Some(id) => leases.get(&id).map(|lease| left(id, lease)).into_iter().collect(),
            None => leases.iter().map(|(id, lease)| left(*id, lease)).collect(),
        })
    }

    /// Asks the leader, wherever it is, until somebody who leads answers.
    pub async fn ask_leader(&self, ask: Ask, wait: Duration) -> Result<Bytes, AskError> {
        let started = Instant::now();
        let request = ask.encode();
        while started.elapsed() < LEADER_WAIT {
            match self.leader() {
                Leader::Here => return self.serve(request).await.map_err(|_| AskError::NoLeader),
                Leader::At(address) => match self.peers.forward(&address, request.clone(), wait).await {
                    Ok(answer) => return Ok(answer),
                    Err(ForwardError::Lost) => return Err(AskError::Lost),
                    Err(ForwardError::NotSent) => {}
                },
                Leader::Nobody => {}
            }
            self.wait_for_leader().await;
        }
        Err(AskError::NoLeader)
    }

    /// Answers another member.
    pub async fn serve(&self, request: Bytes) -> Result<Bytes, Malformed> {
        Ok(match Ask::decode(request)? {
            Ask::Propose(commands) => forward::encode_verdicts(&self.propose_all_here(commands).await),
            Ask::ReadIndex => forward::encode_index(self.read_index_here().await),
            Ask::AddMember { id, name, address } => {
                forward::encode_change(&members::add(self, id, &name, &address).await)
            }
            Ask::RemoveMember { id } => forward::encode_change(&members::remove(self, id).await),
            Ask::TransferLeadership { target } => {
                let moved = members::transfer(self, target).await;
                forward::encode_change(&moved.map_err(|error| crate::MemberError::Refused(error.to_string())))
            }
            Ask::Members => forward::encode_members(&if self.leads() { members::list(self) } else { Vec::new() }),
            Ask::AddLearner { id, node } => {
                forward::encode_change(&members::add_learner(self, id, node).await.map(|_| ()))
            }
            Ask::Promote { id } => forward::encode_change(&members::promote(self, id).await),
            Ask::Update { id, node } => forward::encode_change(&members::update(self, id, node).await),
            Ask::KeepAlive { lease } => forward::encode_leases(&self.keep_alive_here(lease).await),
            Ask::LeasesLeft { lease } => forward::encode_leases(&self.leases_left_here(lease).await),
        })
    }
}

/// Why the leader did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AskError {
    /// Nobody was asked.
    NoLeader,
    /// Somebody was, and may have done it.
    Lost,
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
        for (heartbeat, election, lease, patience) in
            [(50, (300, 600), 200, 100), (500, (3000, 6000), 2000, 1000), (50, (100, 120), 52, 51)]
        {
            let ms = Duration::from_millis;
            let tls =
                PeerTls { ca_pem: String::new(), cert_pem: String::new(), key_pem: String::new(), organization: None };
            let config = Config {
                id: 1,
                name: "s1".into(),
                dir: "/nowhere".into(),
                listen: ([127, 0, 0, 1], 0).into(),
                advertise: String::new(),
                tls,
                heartbeat: ms(heartbeat),
                election: (ms(election.0), ms(election.1)),
            };
            let timing = Timing::new(&config);
            assert_eq!((timing.lease, timing.patience), (ms(lease), ms(patience)));
        }
    }
}
