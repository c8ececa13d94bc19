//! What the scheduler knows: the table of nodes with the pods on them, and the pods that wait.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use kontiki_cache::{Cache, Informer};
use kontiki_model::ObjectKey;
use kontiki_plan::object::{deleting, label, name, namespace, uid};
use kontiki_plan::pod;
use kontiki_plan::scheduler::{Assignment, Budget, ClusterEvent, Diagnosis, PodInfo, Scheduler, Victim, Volumes};

use crate::metrics::{Attempt, Metrics};
use crate::queue::{Candidate, SchedulingQueue};

/// Who we are in `spec.schedulerName`.
pub(crate) const NAME: &str = "default-scheduler";

/// The caches that decisions are made from.
pub(crate) struct Caches {
    pub pods: Informer<Pod>,
    pub nodes: Informer<Node>,
    pub services: Informer<Service>,
    pub namespaces: Informer<Namespace>,
    pub budgets: Informer<PodDisruptionBudget>,
    pub claims: Informer<PersistentVolumeClaim>,
    pub volumes: Informer<PersistentVolume>,
    pub classes: Informer<StorageClass>,
    pub csi_nodes: Informer<CSINode>,
}

impl Caches {
    pub fn new(cache: &Cache) -> Self {
        Self {
            pods: cache.get(),
            nodes: cache.get(),
            services: cache.get(),
            namespaces: cache.get(),
            budgets: cache.get(),
            claims: cache.get(),
            volumes: cache.get(),
            classes: cache.get(),
            csi_nodes: cache.get(),
        }
    }
}

/// What was decided about a pod.
pub(crate) enum Decision {
    /// It goes there.
    Bind(Candidate, Assignment),
    /// It fits nowhere; people and the pod's status are told.
    Explain(Candidate, Diagnosis),
}

/// What became of a decision.
pub(crate) enum BindOutcome {
    /// There was nothing to bind; these pods should have gone, but are still there.
    Explained(Vec<Victim>),
    /// The pod was bound.
    Bound,
    /// The pod was not bound as decided. The caches show what there is instead.
    NotBound(Candidate),
}

/// See the module.
pub(crate) struct State {
    caches: Caches,
    metrics: Arc<Metrics>,
    scheduler: Scheduler,
    queue: SchedulingQueue,
    /// Uids of the pods that were seen, by key: what is gone has to be found by its key.
    known: HashMap<ObjectKey, String>,
    /// What happened since the queue was told.
    events: Vec<ClusterEvent>,
}

impl State {
    pub fn new(caches: Caches, metrics: Arc<Metrics>) -> Self {
        Self {
            caches,
            metrics,
            scheduler: Scheduler::default(),
            queue: SchedulingQueue::default(),
            known: HashMap::new(),
            events: Vec::new(),
        }
    }

    pub fn nodes_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        for key in keys {
            match self.caches.nodes.get_key(&key) {
                Some(node) => self.events.extend(self.scheduler.set_node(&node)),
                None => self.events.extend(self.scheduler.remove_node(&key.name)),
            }
        }
        self.wake();
    }

    /// Terms of pods may select namespaces by their labels.
    pub fn namespaces_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        for key in keys {
            let labels = self.caches.namespaces.get_key(&key).map(|space| space.metadata.labels.clone());
            let event = self.scheduler.set_namespace(&key.name, labels.map(Option::unwrap_or_default));
            self.events.extend(event);
        }
        self.wake();
    }

    pub fn claims_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        self.volumes_differ(keys, |caches, volumes, key| {
            let claim = caches.claims.get_key(key);
            volumes.set_claim((key.namespace.clone().unwrap_or_default(), key.name.clone()), claim);
        });
    }

    pub fn volumes_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        self.volumes_differ(keys, |caches, volumes, key| volumes.set_volume(&key.name, caches.volumes.get_key(key)));
    }

    pub fn classes_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        self.volumes_differ(keys, |caches, volumes, key| volumes.set_class(&key.name, caches.classes.get_key(key)));
    }

    pub fn csi_nodes_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        self.volumes_differ(keys, |caches, volumes, key| {
            volumes.set_limits(&key.name, caches.csi_nodes.get_key(key).as_deref());
        });
    }

    /// Something about volumes changed: `set` tells the scheduler what the caches say.
    fn volumes_differ(&mut self, keys: BTreeSet<ObjectKey>, set: impl Fn(&Caches, &mut Volumes, &ObjectKey)) {
        let caches = &self.caches;
        let event = self.scheduler.change_volumes(|volumes| keys.iter().for_each(|key| set(caches, volumes, key)));
        self.events.push(event);
        self.wake();
    }

    /// Whose going a budget allows matters only when somebody has to go, and then all of them.
    pub fn budgets_changed(&mut self) {
        let budgets = self.caches.budgets.list();
        self.scheduler.set_budgets(budgets.iter().filter_map(|budget| Budget::read(budget)).collect());
    }

    /// Pods are spread by the Services that select them, so a Service re-files its namespace's pods.
    pub fn services_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        let spaces: BTreeSet<String> = keys.into_iter().filter_map(|key| key.namespace).collect();
        for space in spaces {
            let mut pods = self.caches.pods.by_namespace(&space);
            pods.retain(|pod| pod::node(pod).is_some());
            for pod in &pods {
                self.file(pod);
            }
        }
        self.wake();
    }

    pub fn pods_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        for key in keys {
            let pod = self.caches.pods.get_key(&key);
            let now = pod.as_ref().map(|pod| uid(&pod.metadata).to_owned());
            if let Some(old) = self.known.get(&key).filter(|old| Some(*old) != now.as_ref()).cloned() {
                self.forget(&old);
            }
            match now {
                Some(uid) => drop(self.known.insert(key, uid)),
                None => drop(self.known.remove(&key)),
            }
            if let Some(pod) = pod {
                self.file(&pod);
            }
        }
        self.wake();
    }

    /// Tells the queue what happened.
    fn wake(&mut self) {
        self.events.extend(self.scheduler.take_events());
        if self.events.is_empty() {
            return;
        }
        let events = ClusterEvent::merge(std::mem::take(&mut self.events));
        let scheduler = &mut self.scheduler;
        self.queue.wake(Instant::now(), |pod, rejectors| scheduler.queueing_hint(pod, rejectors, &events));
    }

    /// A pod is gone, has ended or is nobody's to place.
    fn forget(&mut self, uid: &str) {
        self.queue.forget(uid);
        self.events.extend(self.scheduler.remove_pod(uid));
    }

    /// Files a pod where it belongs now.
    fn file(&mut self, pod: &Arc<Pod>) {
        let uid = uid(&pod.metadata);
        if pod::finished(pod) {
            return self.forget(uid);
        }
        if let Some(node) = pod::node(pod) {
            self.queue.forget(uid);
            let info = self.info(pod);
            self.events.extend(self.scheduler.add_pod(info, node));
            return;
        }
        if !ours(pod) {
            return self.forget(uid);
        }
        if !self.scheduler.is_assumed(uid) {
            let candidate = Candidate { info: self.info(pod), pod: pod.clone() };
            self.scheduler.set_waiting(&candidate.info);
            self.queue.put(candidate, Instant::now());
        }
    }

    fn info(&self, pod: &Pod) -> Arc<PodInfo> {
        let services = self.caches.services.by_namespace(namespace(&pod.metadata));
        let selects = |service: &&Arc<Service>| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|map| !map.is_empty() && map.iter().all(|(k, v)| label(&pod.metadata, k) == Some(v)))
        };
        let names: Vec<String> = services.iter().filter(selects).map(|s| name(&s.metadata).to_owned()).collect();
        Arc::new(PodInfo::new(pod, &names))
    }

    /// Decides about up to `most` pods.
    pub fn decide(&mut self, most: usize) -> Vec<Decision> {
        let began = Instant::now();
        let mut decisions = Vec::new();
        while decisions.len() < most
            && let Some(candidate) = self.queue.next(began)
        {
            let (uid, started) = (&candidate.info.uid, Instant::now());
            let decided = self.scheduler.decide(&candidate.info);
            self.metrics.took(started.elapsed());
            match decided {
                Ok(assignment) => {
                    self.queue.forget(uid);
                    decisions.push(Decision::Bind(candidate, assignment));
                }
                Err(why) => {
                    self.metrics.ended(Attempt::Unschedulable);
                    self.queue.unschedulable(uid, why.rejectors, Instant::now());
                    decisions.push(Decision::Explain(candidate, why));
                }
            }
        }
        self.wake();
        self.metrics.waiting(self.queue.waiting());
        decisions
    }

    /// Takes note of what became of a decision.
    pub fn settle(&mut self, outcome: BindOutcome) {
        match outcome {
            BindOutcome::Explained(spared) => {
                for victim in spared {
                    if let Some(pod) = self.caches.pods.get(Some(&victim.namespace), &victim.name) {
                        self.file(&pod);
                    }
                }
                self.wake();
            }
            BindOutcome::Bound => self.metrics.ended(Attempt::Scheduled),
            BindOutcome::NotBound(candidate) => {
                let uid = candidate.info.uid.clone();
                // The informer may have told the truth already; then there is nothing to undo.
                if !self.scheduler.is_assumed(&uid) {
                    return;
                }
                self.metrics.ended(Attempt::Error);
                self.events.extend(self.scheduler.remove_pod(&uid));
                let current = self.caches.pods.get(Some(&candidate.info.namespace), &candidate.info.name);
                match current.filter(|pod| kontiki_plan::object::uid(&pod.metadata) == uid) {
                    Some(pod) if pod::node(&pod).is_none() && ours(&pod) => {
                        let candidate = Candidate { info: self.info(&pod), pod };
                        self.queue.retry(candidate, Instant::now());
                    }
                    Some(pod) => self.file(&pod),
                    None => {}
                }
                self.wake();
            }
        }
    }

    /// When there is something to decide without anything happening.
    pub fn next_retry(&self, room: bool) -> Option<Instant> {
        if room { self.queue.next_due(Instant::now()) } else { None }
    }
}

/// Whether a pod without a node is ours to place.
fn ours(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    scheduler == NAME && !gated && !deleting(&pod.metadata)
}
