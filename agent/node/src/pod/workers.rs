//! One worker per pod.
//!
//! Invariants
//! - Nothing is started or stopped before the first snapshot is complete: until then nobody knows
//!   which pods belong here.
//! - A pod in the runtime that no master knows gets a worker too, which ends it.
//! - A pod that was removed here is not started again under the same uid.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_cri::v1::{ListPodSandboxRequest, PodSandbox};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kontiki_agent_plan::housekeeping::{Found, GoneNotice, orphans};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use super::{
    sync::{self, End},
    worker::{Desired, Worker},
};
use crate::{host::cgroups, node::Node, volumes::pod_volumes};

/// How often the node is searched for what is left of pods that nobody wants.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

struct Workers {
    node: Arc<Node>,
    workers: BTreeMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<End>,
    uids: BTreeMap<Id, String>,
    /// Gone here, still in the API, by uid.
    gone: BTreeMap<String, Gone>,
    began: Instant,
    stop: CancellationToken,
}

/// A pod of which nothing is left here.
struct Gone {
    namespace: String,
    name: String,
    notice: GoneNotice,
}

/// Runs until `stop`, then waits for the workers to let go.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut changed = node.objects.pods_changed();
    let mut workers = Workers {
        node,
        workers: BTreeMap::new(),
        tasks: JoinSet::new(),
        uids: BTreeMap::new(),
        gone: BTreeMap::new(),
        began: Instant::now(),
        stop: stop.clone(),
    };
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    let mut repeat = tokio::time::interval(GoneNotice::PERIOD);
    let mut clean = false;
    loop {
        changed.borrow_and_update();
        if workers.node.objects.snapshots() > 0 {
            workers.assign();
            if !clean {
                clean = workers.clean_up().await;
            }
        }
        tokio::select! {
            // Each arm is cancel-safe: a receiver keeps the unseen version, a JoinSet its results,
            // an interval its ticks.
            _ = changed.changed() => {}
            Some(ended) = workers.tasks.join_next_with_id(), if !workers.tasks.is_empty() => workers.ended(ended),
            _ = housekeeping.tick() => clean = false,
            _ = repeat.tick() => workers.repeat_gone(),
            () = stop.cancelled() => break,
        }
    }
    while workers.tasks.join_next().await.is_some() {}
}

impl Workers {
    /// Gives every worker its pod's latest definition, and starts workers for new pods.
    fn assign(&mut self) {
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
        let pod = rx.borrow().pod.clone();
        let span = debug_span!("pod", namespace = pod.metadata.namespace, name = pod.metadata.name, uid);
        let worker = Worker::new(self.node.clone(), rx);
        let task = self.tasks.spawn(sync::run(worker, self.stop.clone()).instrument(span));
        self.uids.insert(task.id(), uid.clone());
        self.workers.insert(uid, tx);
    }

    fn ended(&mut self, ended: Result<(Id, End), JoinError>) {
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
            let notice = GoneNotice::new(self.began.elapsed());
            self.gone.insert(uid, Gone { namespace: text(&meta.namespace), name: text(&meta.name), notice });
        }
    }

    fn repeat_gone(&mut self) {
        let now = self.began.elapsed();
        for (uid, gone) in &mut self.gone {
            if gone.notice.repeat(now) {
                self.node.outbox.pod_gone(&gone.namespace, &gone.name, uid);
            }
        }
    }

    /// Ends and removes what is left of pods that nobody wants. `false`: the runtime did not answer.
    async fn clean_up(&mut self) -> bool {
        let Ok(answer) = self.node.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await else { return false };
        let snapshot = self.node.objects.snapshots();
        let sandboxes: BTreeMap<&str, &PodSandbox> =
            answer.items.iter().rev().filter_map(|s| Some((s.metadata.as_ref()?.uid.as_str(), s))).collect();
        let dir = self.node.config.data_dir.join("pods");
        let directories = names(&dir);
        let workers: BTreeSet<String> = self.workers.keys().cloned().collect();
        let orphans = orphans(&Found {
            snapshots: snapshot,
            workers: workers.iter().map(String::as_str).collect(),
            sandboxes: sandboxes.keys().copied().collect(),
            directories: directories.iter().map(String::as_str).collect(),
        });
        for uid in orphans.end {
            let pod = skeleton(sandboxes[uid]);
            let (name, namespace) = (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref());
            tracing::info!(pod = name, namespace, %uid, "a pod that no master knows is ended");
            self.want(uid.to_owned(), Desired { pod: Arc::new(pod), present: false, snapshot });
        }
        for uid in orphans.remove {
            if let Err(error) = remove(&dir, uid) {
                tracing::warn!(%uid, %error, "the directory of a pod that is gone cannot be removed yet");
            }
        }
        true
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(dir: &Path, uid: &str) -> io::Result<()> {
    pod_volumes::remove_pod_dir(&dir.join(uid))?;
    cgroups::remove(uid)
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
