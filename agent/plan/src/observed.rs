//! What is seen of one pod: its sandboxes and containers in the runtime, and what the worker
//! remembers of its own attempts.
//!
//! Invariants
//! - [`Observed`] comes from the runtime alone; losing [`Memory`] (an agent restart) costs delays
//!   and probe results, never a container.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;

use crate::{
    backoff::{self, Backoff},
    granted::Resizing,
    probe::Probed,
    start_failure::StartFailure,
};

/// A sandbox of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created: Timestamp,
    pub ips: Vec<IpAddr>,
}

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    /// 0 for the first, one more with each restart.
    pub attempt: u32,
    pub state: State,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// As the runtime names it.
    pub image: String,
    /// Digest or id of the image.
    pub image_id: String,
    /// The hash of the definition it was made from; empty if unknown.
    pub definition: String,
}

impl Container {
    /// Whether it may still hold processes.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }
}

/// The pod in the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl Observed {
    /// The latest sandbox.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created))
    }

    /// The latest container of this name.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.named(name).max_by_key(|c| (c.attempt, c.created))
    }

    /// The one before the latest.
    #[must_use]
    pub fn previous(&self, name: &str) -> Option<&Container> {
        let latest = self.latest(name)?;
        self.named(name).filter(|c| c.id != latest.id).max_by_key(|c| (c.attempt, c.created))
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Container> + use<'a, 'n> {
        self.containers.iter().filter(move |c| c.name == name)
    }
}

/// Why a container could not be started, as its `waiting` state says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStart {
    pub why: StartFailure,
    pub message: String,
    pub retry: Timestamp,
}

/// Whether the pod's volumes are in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Unknown,
    Preparing,
    Ready,
    Failed {
        retry: Timestamp,
    },
    /// Torn down, after the end.
    TornDown,
}

/// What the worker remembers between turns.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub volumes: Volumes,
    /// How often in a row they could not be put in place.
    pub mount_failures: u32,
    /// No sandbox before this moment: the last attempt failed.
    pub sandbox_retry: Option<Timestamp>,
    /// How often in a row none could be made.
    pub sandbox_failures: u32,
    /// Image found for the next attempt of a container: name to (attempt, image reference).
    pub images: BTreeMap<String, (u32, String)>,
    /// Containers whose image is being looked for.
    pub pulling: BTreeSet<String>,
    pub failures: BTreeMap<String, FailedStart>,
    pub restarts: BTreeMap<String, Backoff>,
    /// Container ids being stopped, and when each will be killed.
    pub stopping: BTreeMap<String, Timestamp>,
    /// Container ids whose postStart hook has not ended.
    pub post_start: BTreeSet<String>,
    /// Sandbox ids that were stopped (their network is torn down).
    pub stopped_sandboxes: BTreeSet<String>,
    /// Container ids that must be stopped for a reason of the worker's own, and the event's text.
    pub condemned: BTreeMap<String, String>,
    /// Probe verdicts by container id.
    pub probed: BTreeMap<String, Probed>,
    /// Containers that this worker created and has not started: they are still good to start.
    pub fresh: BTreeSet<String>,
    /// Termination messages by container id.
    pub messages: BTreeMap<String, String>,
    /// Why the node ends the pod, or does not begin it, if so.
    pub ended_by_node: Option<EndedByNode>,
    /// Resources that change while the pod runs.
    pub resizing: Resizing,
}

/// Why the node itself ends a pod or does not take it, as its status says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedByNode {
    pub reason: &'static str,
    pub message: String,
}

impl EndedByNode {
    /// The reason of a pod that took more of the node than it may.
    pub const EVICTED: &'static str = "Evicted";
}

impl Memory {
    /// The volumes are in place.
    pub fn mounted(&mut self) {
        self.volumes = Volumes::Ready;
        self.mount_failures = 0;
    }

    /// A volume is not in place.
    pub fn mount_failed(&mut self, now: Timestamp) {
        self.mount_failures += 1;
        self.volumes = Volumes::Failed { retry: now + backoff::MOUNT.after(self.mount_failures) };
    }

    /// The latest sandbox could be made.
    pub fn sandbox_created(&mut self) {
        self.sandbox_failures = 0;
        self.sandbox_retry = None;
    }

    /// It could not.
    pub fn sandbox_failed(&mut self, now: Timestamp) {
        self.sandbox_failures += 1;
        self.sandbox_retry = Some(now + backoff::SANDBOX.after(self.sandbox_failures));
    }

    /// An object that volumes or environments may name has changed: what failed for want of it is tried at once.
    pub fn objects_changed(&mut self) {
        if matches!(self.volumes, Volumes::Failed { .. }) {
            self.volumes = Volumes::Unknown;
        }
        self.failures.retain(|_, failure| failure.why != StartFailure::CreateContainerConfigError);
    }

    /// Drops what is remembered of containers that the runtime does not have any more.
    pub fn forget_others(&mut self, seen: &Observed) {
        let known = |id: &String| seen.containers.iter().any(|c| &c.id == id);
        self.probed.retain(|id, _| known(id));
        self.condemned.retain(|id, _| known(id));
        self.messages.retain(|id, _| known(id));
        self.fresh.retain(|id| known(id));
        self.resizing.applied.retain(|id, _| known(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn failures_count_until_a_success() {
        let mut memory = Memory::default();
        let mut retries = Vec::new();
        for _ in 0..3 {
            memory.mount_failed(at(100));
            memory.sandbox_failed(at(200));
            let Volumes::Failed { retry } = memory.volumes else { panic!("{:?}", memory.volumes) };
            retries.push((retry.as_second(), memory.sandbox_retry.map(Timestamp::as_second)));
        }
        assert_eq!(retries, [(101, Some(201)), (102, Some(202)), (104, Some(204))]);
        memory.mounted();
        memory.sandbox_created();
        assert_eq!((&memory.volumes, memory.sandbox_retry), (&Volumes::Ready, None));
        memory.mount_failed(at(100));
        memory.sandbox_failed(at(200));
        assert_eq!((memory.volumes, memory.sandbox_retry), (Volumes::Failed { retry: at(101) }, Some(at(201))));
    }

    #[test]
    fn new_objects_end_the_wait_for_them() {
        let failure = |why| FailedStart { why, message: String::new(), retry: at(9) };
        let mut memory = Memory { volumes: Volumes::Failed { retry: at(9) }, ..Memory::default() };
        memory.failures.insert("config".into(), failure(StartFailure::CreateContainerConfigError));
        memory.failures.insert("pull".into(), failure(StartFailure::ErrImagePull));
        memory.objects_changed();
        assert_eq!(
            (memory.volumes, memory.failures.into_keys().collect()),
            (Volumes::Unknown, vec!["pull".to_owned()])
        );
        let mut memory = Memory { volumes: Volumes::Ready, ..Memory::default() };
        memory.objects_changed();
        assert_eq!(memory.volumes, Volumes::Ready);
    }
}
