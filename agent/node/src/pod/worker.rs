//! One pod, from its assignment to its end.
//!
//! Invariants
//! - One worker per pod uid; it alone changes the pod in the runtime and on the disk.
//! - A turn looks, asks [`next_step`], and performs that step to its end. What may take long
//!   (pulls, stops, hooks, volumes) runs beside the turns and reports back.
//! - A worker that is dropped leaves its containers running; the next one adopts them.
//!
//! Not here: any decision about what to do next (kontiki-agent-plan).

mod container;
mod image;
mod observe;
mod perform;
mod probing;
mod report;
mod stopping;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kontiki_agent_plan::{
    backoff::Backoff,
    observed::{Memory, Observed, Volumes},
    probe, rules,
    step::{Ending, Step, View, next_step},
};
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{events::Kind, node::Node, volumes};

/// A worker looks at its pod this often even if nobody reports anything.
const RELIST: Duration = Duration::from_secs(20);
/// Volumes are brought up to date this often: tokens expire.
const REFRESH: Duration = Duration::from_secs(60);
/// After a step that failed without a delay of its own.
const HOLD: Duration = Duration::from_secs(1);
/// A pod that is gone from the API gets no longer than this to end.
const ORPHAN_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// A deletion learned of so soon after a reconnect was asked for earlier: it is due when the API
/// said so, not a whole grace period from now.
const CATCHING_UP: Duration = Duration::from_secs(5);
/// What such a pod gets at least, to close its files.
const OVERDUE_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// The runtime learns of an exit a moment after it is reported, on a busy machine much later: look
/// again after these delays (milliseconds).
const LOOK_AGAIN: [u64; 9] = [10, 25, 50, 100, 200, 400, 800, 1600, 3200];
/// Looks that follow one that saw a change: another container may have ended too.
const LOOK_ON: usize = 4;
const VERDICTS: usize = 64;

/// What the masters want of a pod.
#[derive(Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// `false`: it is not in the API any more.
    pub present: bool,
    /// Which snapshot of the session said so: statuses are due again after a new one.
    pub snapshot: u64,
}

/// How a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing of the pod is left.
    Gone,
    /// The agent stops; the pod goes on.
    Left,
}

/// News from work beside the turns.
enum Report {
    Volumes(Result<(), volumes::Failure>),
    Refreshed(Result<(), volumes::Failure>),
    Image { container: String, attempt: u32, result: Result<String, String> },
    Stopped { id: String, result: Result<(), String> },
    PostStart { id: String, container: String, result: Result<(), String> },
}

/// A verdict of a probe.
struct Verdict {
    container: String,
    kind: probe::Kind,
    healthy: bool,
}

/// The worker of one pod.
pub struct Worker {
    node: Arc<Node>,
    uid: String,
    desired: watch::Receiver<Desired>,
    seen: Observed,
    memory: Memory,
    ending: Option<Ending>,
    /// The status as last computed: the base of the next one until the API shows it.
    last: Option<PodStatus>,
    sent: Option<(PodStatus, Instant)>,
    snapshot: u64,
    wake: Arc<Notify>,
    jobs: JoinSet<Report>,
    pulls: BTreeMap<String, AbortHandle>,
    image_backoff: BTreeMap<String, (Backoff, Timestamp, String)>,
    probes: BTreeMap<(String, probe::Kind), AbortHandle>,
    probe_tasks: JoinSet<()>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    tokens: Arc<Mutex<volumes::Tokens>>,
    data_changed: watch::Receiver<u64>,
    refresh_due: Instant,
    refreshing: bool,
    mount_failures: u32,
    sandbox_failures: u32,
    /// The attempt of each container whose back-off was told.
    announced: BTreeMap<String, u32>,
    /// Set once containers are removed: the last status stands.
    frozen: bool,
    look_due: Option<Instant>,
    looks: usize,
}

impl Worker {
    #[must_use]
    pub fn new(node: Arc<Node>, desired: watch::Receiver<Desired>) -> Self {
        let uid = desired.borrow().pod.metadata.uid.clone().unwrap_or_default();
        let data_changed = node.objects.data_changed();
        Self {
            node,
            uid,
            desired,
            seen: Observed::default(),
            memory: Memory::default(),
            ending: None,
            last: None,
            sent: None,
            snapshot: 0,
            wake: Arc::default(),
            jobs: JoinSet::new(),
            pulls: BTreeMap::new(),
            image_backoff: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_tasks: JoinSet::new(),
            verdicts: mpsc::channel(VERDICTS),
            tokens: Arc::default(),
            data_changed,
            refresh_due: Instant::now() + REFRESH,
            refreshing: false,
            mount_failures: 0,
            sandbox_failures: 0,
            announced: BTreeMap::new(),
            frozen: false,
            look_due: None,
            looks: 0,
        }
    }

    /// Works until the pod is gone or the agent stops.
    pub async fn run(mut self, stop: CancellationToken) -> End {
        while !self.look().await {
            tokio::select! {
                () = tokio::time::sleep(HOLD) => {}
                () = stop.cancelled() => return End::Left,
            }
        }
        self.adopt();
        loop {
            if stop.is_cancelled() {
                return End::Left;
            }
            self.take_news().await;
            let pod = self.effective_pod();
            self.update_ending(&pod);
            self.update_probes(&pod);
            let now = Timestamp::now();
            let step = next_step(&self.view(&pod, now));
            let last_chance = matches!(step, Step::StopSandbox { .. } | Step::RemoveSandbox { .. } | Step::Gone);
            if matches!(step, Step::Wait(_)) || (self.ending.is_some() && last_chance) {
                self.publish(&pod, now);
                self.announce_backoff(&pod, now);
            }
            let wait = match step {
                Step::Gone if self.finish(&pod).await => {
                    self.node.watchers.forget(&self.wake);
                    return End::Gone;
                }
                Step::Gone => Some(now + SignedDuration::try_from(HOLD).expect("a second fits")),
                Step::Wait(until) => until,
                step => match self.perform(&pod, step).await {
                    Ok(()) => continue,
                    Err(until) => Some(until),
                },
            };
            self.wait(wait, &stop).await;
        }
    }

    fn view<'a>(&'a self, pod: &'a Pod, now: Timestamp) -> View<'a> {
        View { pod, seen: &self.seen, memory: &self.memory, ending: self.ending, now }
    }

    /// The pod as the API has it, with our own part of its status where the API is behind.
    fn effective_pod(&self) -> Pod {
        let mut pod = (*self.desired.borrow().pod).clone();
        if let Some(last) = &self.last {
            report::overlay(pod.status.get_or_insert_default(), last);
        }
        pod
    }

    fn spec<'a>(&self, pod: &'a Pod) -> &'a PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// Whether, and until when, the pod has to stop.
    fn update_ending(&mut self, pod: &Pod) {
        let now = Timestamp::now();
        let present = self.desired.borrow().present;
        let deadline = match &pod.metadata.deletion_timestamp {
            _ if !present => now + rules::grace(pod).min(ORPHAN_GRACE),
            None => return,
            Some(due) => {
                let seconds = pod.metadata.deletion_grace_period_seconds;
                let full = seconds.map_or_else(|| rules::grace(pod), SignedDuration::from_secs);
                let late = self.node.objects.catching_up(CATCHING_UP);
                let left = due.0.duration_since(now).max(OVERDUE_GRACE);
                now + if late { full.min(left) } else { full }
            }
        };
        // Only ever sooner: seeing the same deletion again must not give more time.
        let sooner = self.ending.is_none_or(|known| deadline < known.deadline);
        if self.ending.is_none() {
            self.pulls.values().for_each(AbortHandle::abort);
            self.pulls.clear();
            self.memory.pulling.clear();
        }
        if sooner {
            self.ending = Some(Ending { deadline, remove: true });
        }
    }

    /// Takes everything that has come in, without waiting.
    async fn take_news(&mut self) {
        let mut look = false;
        while let Ok(verdict) = self.verdicts.1.try_recv() {
            self.memory.probed.entry(verdict.container).or_default().set(verdict.kind, verdict.healthy);
        }
        while let Some(done) = self.jobs.try_join_next() {
            match done {
                Ok(report) => look |= self.take_report(report),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(uid = %self.uid, %error, "work for a pod failed unexpectedly"),
            }
        }
        if self.look_due.is_some_and(|due| due <= Instant::now()) {
            look = true;
        }
        if self.data_changed.has_changed().unwrap_or(false) {
            self.data_changed.borrow_and_update();
            self.refresh_due = Instant::now();
            if matches!(self.memory.volumes, Volumes::Failed { .. }) {
                self.memory.volumes = Volumes::Unknown;
            }
            self.memory.failures.retain(|_, failure| failure.reason != "CreateContainerConfigError");
        }
        let (snapshot, changed) = (self.desired.borrow().snapshot, self.desired.has_changed().unwrap_or(false));
        if changed {
            self.desired.borrow_and_update();
            self.refresh_due = Instant::now(); // labels and annotations may be in a volume
        }
        if snapshot != std::mem::replace(&mut self.snapshot, snapshot) {
            self.sent = None;
        }
        if look {
            self.look_again().await;
        }
        self.refresh_volumes();
    }

    async fn look_again(&mut self) {
        let before = self.seen.clone();
        self.look_due = Some(Instant::now() + RELIST);
        if !self.look().await {
            self.look_due = Some(Instant::now() + HOLD);
        } else if self.looks > 0 {
            self.looks -= 1;
            if self.seen != before {
                self.looks = self.looks.min(LOOK_ON);
            }
            let delay = LOOK_AGAIN[LOOK_AGAIN.len() - 1 - self.looks.min(LOOK_AGAIN.len() - 1)];
            self.look_due = Some(Instant::now() + Duration::from_millis(delay));
        }
    }

    /// Takes one report; whether the runtime must be looked at.
    fn take_report(&mut self, report: Report) -> bool {
        match report {
            Report::Volumes(Ok(())) => {
                self.memory.volumes = Volumes::Ready;
                self.mount_failures = 0;
                self.refresh_due = Instant::now() + REFRESH;
                false
            }
            Report::Volumes(Err(failure)) => {
                self.mount_failed(&failure);
                false
            }
            Report::Refreshed(result) => {
                self.refreshing = false;
                if let Err(failure) = result {
                    tracing::warn!(uid = %self.uid, volume = %failure.volume, reason = %failure.message, "a volume was not updated");
                }
                false
            }
            Report::Image { container, attempt, result } => {
                self.image_found(&container, attempt, result);
                false
            }
            Report::Stopped { id, result } => {
                if let Err(error) = &result {
                    tracing::warn!(uid = %self.uid, container = %id, %error, "a container did not stop");
                }
                self.memory.stopping.remove(&id);
                true
            }
            Report::PostStart { id, container, result } => {
                self.memory.post_start.remove(&id);
                if let Err(reason) = result {
                    self.post_start_failed(&id, &container, &reason);
                }
                false
            }
        }
    }

    fn mount_failed(&mut self, failure: &volumes::Failure) {
        self.mount_failures += 1;
        let millis = 500_i64.saturating_mul(1 << self.mount_failures.min(8)).min(122_000);
        let retry = Timestamp::now() + SignedDuration::from_millis(millis);
        self.memory.volumes = Volumes::Failed { retry };
        let message = format!("MountVolume.SetUp failed for volume \"{}\" : {}", failure.volume, failure.message);
        let pod = self.desired.borrow().pod.clone();
        self.node.recorder.pod(&self.node.outbox, &pod, None, Kind::Warning, "FailedMount", &message);
    }

    /// Brings generated files up to date when it is time.
    fn refresh_volumes(&mut self) {
        let due = self.refresh_due <= Instant::now();
        if !due || self.refreshing || self.ending.is_some() || self.memory.volumes != Volumes::Ready {
            return;
        }
        self.refreshing = true;
        self.refresh_due = Instant::now() + REFRESH;
        let prepare = self.prepare_volumes();
        self.jobs.spawn(async move { Report::Refreshed(prepare.await) });
    }

    fn prepare_volumes(&self) -> impl Future<Output = Result<(), volumes::Failure>> + Send + 'static {
        let (node, tokens, pod) = (self.node.clone(), self.tokens.clone(), self.desired.borrow().pod.clone());
        let ips = self.pod_ips();
        async move {
            let mut tokens = tokens.lock().await;
            volumes::prepare(&node, &pod, &ips, &mut tokens).await
        }
    }

    /// Waits for news, at most until the given moment.
    async fn wait(&mut self, until: Option<Timestamp>, stop: &CancellationToken) {
        let now = Timestamp::now();
        let timer = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
        let look = self.look_due.get_or_insert_with(|| Instant::now() + RELIST);
        let deadline = timer.map_or(*look, |timer| (*look).min(Instant::now() + timer));
        let may_refresh = self.memory.volumes == Volumes::Ready && self.ending.is_none() && !self.refreshing;
        let refresh = may_refresh.then_some(self.refresh_due);
        let deadline = refresh.map_or(deadline, |at| deadline.min(at.max(Instant::now() + Duration::from_millis(1))));
        tokio::select! {
            // Each arm is cancel-safe: receivers keep what was not taken, a JoinSet keeps its
            // results, and the timer is only a bound.
            _ = self.desired.changed() => self.refresh_due = Instant::now(),
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                if let Ok(report) = done && self.take_report(report) {
                    self.look_due = Some(Instant::now());
                }
            }
            Some(verdict) = self.verdicts.1.recv() => {
                self.memory.probed.entry(verdict.container).or_default().set(verdict.kind, verdict.healthy);
            }
            () = self.wake.notified() => {
                self.looks = LOOK_AGAIN.len();
                self.look_due = Some(Instant::now());
            }
            changed = self.data_changed.changed() => {
                if changed.is_ok() {
                    self.data_changed.mark_changed();
                }
            }
            () = tokio::time::sleep_until(deadline) => {}
            () = stop.cancelled() => {}
        }
    }
}
