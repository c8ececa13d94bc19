//! One worker per pod.
//!
//! Invariants
//! - Nothing is started or stopped before the first snapshot is complete: until then nobody knows
//!   which pods belong here.
//! - A pod in the runtime that no master knows gets a worker too, which ends it.
//! - A pod that was removed here is not started again under the same uid.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_cri::v1::{ListPodSandboxRequest, PodSandbox};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cgroups,
    node::Node,
    volumes,
    worker::{Desired, End, Worker},
};

/// How often the runtime is searched for pods that nobody wants.
const SWEEP: Duration = Duration::from_secs(60);
/// How soon a `PodGone` is repeated while the API still has the pod. The pause doubles each time: what holds the
/// pod then are finalizers, more likely than a lost message.
const REPEAT: Duration = Duration::from_secs(5);
const LONGEST_REPEAT: Duration = Duration::from_secs(300);

struct Manager {
    node: Arc<Node>,
    workers: BTreeMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<End>,
    uids: BTreeMap<Id, String>,
    /// Gone here, still in the API, by uid.
    gone: BTreeMap<String, Gone>,
    stop: CancellationToken,
}

/// A pod of which nothing is left here.
struct Gone {
    namespace: String,
    name: String,
    /// When the masters are told again.
    due: Instant,
    pause: Duration,
}

impl Gone {
    fn new(namespace: String, name: String) -> Self {
        Self { namespace, name, due: Instant::now() + REPEAT, pause: REPEAT }
    }

    /// Whether it is time to say so again.
    fn again(&mut self, now: Instant) -> bool {
        let due = self.due <= now;
        if due {
            self.pause = (self.pause * 2).min(LONGEST_REPEAT);
            self.due = now + self.pause;
        }
        due
    }
}

/// Runs until `stop`, then waits for the workers to let go.
pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut changed = node.objects.pods_changed();
    let mut manager = Manager {
        node,
        workers: BTreeMap::new(),
        tasks: JoinSet::new(),
        uids: BTreeMap::new(),
        gone: BTreeMap::new(),
        stop: stop.clone(),
    };
    let mut sweep = tokio::time::interval(SWEEP);
    let mut repeat = tokio::time::interval(REPEAT);
    let mut swept = false;
    loop {
        changed.borrow_and_update();
        if manager.node.objects.snapshots() > 0 {
            manager.turn();
            if !swept {
                swept = manager.sweep().await;
            }
        }
        tokio::select! {
            // Each arm is cancel-safe: a receiver keeps the unseen version, a JoinSet its results,
            // an interval its ticks.
            _ = changed.changed() => {}
            Some(ended) = manager.tasks.join_next_with_id(), if !manager.tasks.is_empty() => manager.ended(ended),
            _ = sweep.tick() => swept = false,
            _ = repeat.tick() => manager.repeat_gone(),
            () = stop.cancelled() => break,
        }
    }
    while manager.tasks.join_next().await.is_some() {}
}

impl Manager {
    /// Gives every worker its pod's latest definition, and starts workers for new pods.
    fn turn(&mut self) {
        let pods = self.node.objects.pods();
        let snapshot = self.node.objects.snapshots();
        let mut present = BTreeSet::new();
        for pod in pods {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            present.insert(uid.clone());
            if !self.gone.contains_key(&uid) {
                self.want(uid, Desired { pod, present: true, snapshot });
            }
        }
        for (uid, tx) in &self.workers {
            if !present.contains(uid) {
                tx.send_if_modified(|desired| std::mem::replace(&mut desired.present, false));
            }
        }
        self.gone.retain(|uid, gone| {
            let keep = present.contains(uid);
            if !keep {
                self.node.outbox.forget_gone(&gone.namespace, &gone.name, uid);
            }
            keep
        });
    }

    fn want(&mut self, uid: String, desired: Desired) {
        if let Some(tx) = self.workers.get(&uid) {
            tx.send_if_modified(|known| {
                let same = Arc::ptr_eq(&known.pod, &desired.pod) && known.present && known.snapshot == desired.snapshot;
                if !same {
                    *known = desired;
                }
                !same
            });
            return;
        }
        let (tx, rx) = watch::channel(desired);
        let worker = Worker::new(self.node.clone(), rx);
        let task = self.tasks.spawn(worker.run(self.stop.clone()));
        self.uids.insert(task.id(), uid.clone());
        self.workers.insert(uid, tx);
    }

    fn ended(&mut self, ended: Result<(Id, End), tokio::task::JoinError>) {
        let (id, end) = match ended {
            Ok((id, end)) => (id, Some(end)),
            Err(error) => {
                tracing::error!(%error, "a pod's worker failed; another takes over");
                (error.id(), None)
            }
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        let Some(tx) = self.workers.remove(&uid) else { return };
        if end == Some(End::Gone) {
            let desired = tx.borrow();
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let meta = &desired.pod.metadata;
            self.gone.insert(uid, Gone::new(text(&meta.namespace), text(&meta.name)));
        }
    }

    fn repeat_gone(&mut self) {
        let now = Instant::now();
        for (uid, gone) in &mut self.gone {
            if gone.again(now) {
                self.node.outbox.pod_gone(&gone.namespace, &gone.name, uid);
            }
        }
    }

    /// Finds what is left of pods that nobody wants: sandboxes and directories.
    async fn sweep(&mut self) -> bool {
        let Ok(answer) = self.node.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await else { return false };
        let snapshot = self.node.objects.snapshots();
        let mut found = BTreeSet::new();
        for sandbox in answer.items {
            let Some(metadata) = &sandbox.metadata else { continue };
            let uid = metadata.uid.clone();
            if !self.workers.contains_key(&uid) && found.insert(uid.clone()) {
                tracing::info!(pod = %metadata.name, namespace = %metadata.namespace, %uid, "a pod that no master knows is ended");
                self.want(uid, Desired { pod: Arc::new(skeleton(&sandbox)), present: false, snapshot });
            }
        }
        self.remove_directories();
        true
    }

    fn remove_directories(&self) {
        let dir = self.node.config.data_dir.join("pods");
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(uid) = entry.file_name().into_string() else { continue };
            if self.workers.contains_key(&uid) {
                continue;
            }
            let removed = volumes::remove_pod_dir(&entry.path()).and_then(|()| cgroups::remove(&uid));
            if let Err(error) = removed {
                tracing::warn!(%uid, %error, "the directory of a pod that is gone cannot be removed yet");
            }
        }
    }
}

/// As much of a pod as its sandbox remembers.
fn skeleton(sandbox: &PodSandbox) -> Pod {
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
    pod.metadata.name = Some(metadata.name);
    pod.metadata.namespace = Some(metadata.namespace);
    pod.metadata.uid = Some(metadata.uid);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_finalizers_hold_is_reported_less_and_less() {
        let mut gone = Gone::new("ns".into(), "held".into());
        let start = gone.due;
        let seconds = (0..1800).filter(|second| gone.again(start + Duration::from_secs(*second)));
        assert_eq!(seconds.collect::<Vec<_>>(), [0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510]);
    }
}
