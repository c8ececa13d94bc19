//! What is known of one pod, and what is running for it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kontiki_agent_plan::{
    disk::DiskUse,
    image::Pulls,
    observed::{FailedStart, Memory, Observed},
    probe,
    relist::Relist,
    remount::Remount,
    start_failure::StartFailure,
    status::sync::StatusSync,
    step::{Ending, View},
};
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    node::Node,
    session::recorder::EventType,
    volumes::{credentials::Credentials, pod_volumes},
};

/// After a step that failed without a delay of its own.
pub(super) const RETRY: Duration = Duration::from_secs(1);
const PROBE_RESULTS: usize = 64;

/// What the masters want of a pod.
#[derive(Clone)]
pub(super) struct Desired {
    pub(super) pod: Arc<Pod>,
    /// `false`: it is not in the API any more.
    pub(super) present: bool,
    /// Which snapshot of the session said so: statuses are due again after a new one.
    pub(super) snapshot: u64,
}

/// News from work beside the loop.
pub(super) enum Report {
    Mounted(Result<(), pod_volumes::MountFailure>),
    Remounted(Result<(), pod_volumes::MountFailure>),
    Pulled { container: String, attempt: u32, result: Result<String, String> },
    Stopped { id: String, result: Result<(), String> },
    PostStart { id: String, container: String, result: Result<(), String> },
    DiskUse(DiskUse),
}

/// What a probe says of a container, once it is firm.
pub(super) struct ProbeResult {
    pub(super) id: String,
    pub(super) kind: probe::Kind,
    pub(super) healthy: bool,
}

/// The worker of one pod.
pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) uid: String,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) snapshot: u64,
    pub(super) data_changed: watch::Receiver<u64>,
    pub(super) seen: Observed,
    pub(super) memory: Memory,
    pub(super) ending: Option<Ending>,
    pub(super) status: StatusSync,
    /// Set once containers are removed: the last status stands.
    pub(super) status_final: bool,
    /// The attempt of each container whose back-off was told.
    pub(super) backoff_told: BTreeMap<String, u32>,
    pub(super) pulls: Pulls,
    pub(super) credentials: Arc<Mutex<Credentials>>,
    /// Woken by the runtime's events.
    pub(super) wake: Arc<Notify>,
    pub(super) jobs: JoinSet<Report>,
    pub(super) pull_jobs: BTreeMap<String, AbortHandle>,
    pub(super) probes: BTreeMap<(String, probe::Kind), AbortHandle>,
    pub(super) probe_jobs: JoinSet<()>,
    pub(super) probe_results: (mpsc::Sender<ProbeResult>, mpsc::Receiver<ProbeResult>),
    pub(super) relist: Relist,
    pub(super) remount: Remount,
    /// When the disk was measured last, and whether it is being measured.
    pub(super) measured: Duration,
    pub(super) measuring: bool,
    began: Instant,
}

impl Worker {
    pub(super) fn new(node: Arc<Node>, desired: watch::Receiver<Desired>) -> Self {
        let uid = desired.borrow().pod.metadata.uid.clone().unwrap_or_default();
        let data_changed = node.objects.data_changed();
        Self {
            node,
            uid,
            desired,
            snapshot: 0,
            data_changed,
            seen: Observed::default(),
            memory: Memory::default(),
            ending: None,
            status: StatusSync::default(),
            status_final: false,
            backoff_told: BTreeMap::new(),
            pulls: Pulls::default(),
            credentials: Arc::default(),
            wake: Arc::default(),
            jobs: JoinSet::new(),
            pull_jobs: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_jobs: JoinSet::new(),
            probe_results: mpsc::channel(PROBE_RESULTS),
            relist: Relist::default(),
            remount: Remount::new(Duration::ZERO),
            measured: Duration::ZERO,
            measuring: false,
            began: Instant::now(),
        }
    }

    /// Time since the worker began: the clock of what is done again and again.
    pub(super) fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    /// That clock's time as the runtime's timers want it.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.began + at
    }

    pub(super) fn view<'a>(&'a self, pod: &'a Pod, now: Timestamp) -> View<'a> {
        View { pod, seen: &self.seen, memory: &self.memory, ending: self.ending, now }
    }

    /// The pod as the API has it.
    pub(super) fn api_pod(&self) -> Arc<Pod> {
        self.desired.borrow().pod.clone()
    }

    /// The pod as the API has it, with our own part of its status where the API is behind, and with the resources that it
    /// is granted.
    pub(super) fn effective_pod(&self) -> Pod {
        let mut pod = (*self.api_pod()).clone();
        self.status.overlay(pod.status.get_or_insert_default());
        if let Some(spec) = &mut pod.spec {
            self.memory.resizing.overlay(spec);
        }
        pod
    }

    pub(super) fn pod_ips(&self) -> Vec<IpAddr> {
        let host = self.desired.borrow().pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        if host {
            return self.node.host_ips();
        }
        self.seen.sandbox().filter(|s| s.ready).map(|s| s.ips.clone()).unwrap_or_default()
    }

    /// An event about the pod.
    pub(super) fn pod_event(&self, pod: &Pod, type_: EventType, reason: &'static str, message: &str) {
        self.node.recorder.pod(&self.node.outbox, pod, None, type_, reason, message);
    }

    /// An event about a container.
    pub(super) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        type_: EventType,
        reason: &'static str,
        message: &str,
    ) {
        self.node.recorder.pod(&self.node.outbox, pod, Some(container), type_, reason, message);
    }

    /// Records why a container cannot be started, in its status and as an event.
    pub(super) fn start_failed(&mut self, pod: &Pod, name: &str, why: StartFailure, message: String) {
        self.start_waits(pod, name, why, message, Timestamp::now() + why.retry_after());
    }

    /// The same, for a delay that is not the reason's own.
    pub(super) fn start_waits(&mut self, pod: &Pod, name: &str, why: StartFailure, message: String, retry: Timestamp) {
        self.container_event(pod, name, EventType::Warning, "Failed", &why.event(&message));
        self.memory.failures.insert(name.to_owned(), FailedStart { why, message, retry });
    }
}

/// The pod's definition; an empty one for a pod of which only its sandbox is known.
pub(super) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// When a step that failed is tried again.
pub(super) fn soon() -> Timestamp {
    Timestamp::now() + SignedDuration::try_from(RETRY).expect("a second fits")
}
