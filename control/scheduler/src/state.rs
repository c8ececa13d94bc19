//! What the scheduler knows: the table of nodes, the pods that wait, and those it has placed whose
//! bindings have not been seen yet.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kontiki_api::informer::{Informer, Informers};
use kontiki_model::ObjectKey;
use kontiki_plan::object::{deleting, label, name, namespace, uid};
use kontiki_plan::pod;
use kontiki_plan::scheduler::{NodeName, PodInfo, Snapshot, Unschedulable, place};

use crate::metrics::Metrics;
use crate::pending::{Candidate, Pending};

/// Who we are in `spec.schedulerName`.
pub(crate) const NAME: &str = "default-scheduler";

/// The caches that decisions are made from.
pub(crate) struct Caches {
    pub pods: Informer<Pod>,
    pub nodes: Informer<Node>,
    pub services: Informer<Service>,
}

impl Caches {
    pub fn new(informers: &Informers) -> Self {
        Self { pods: informers.get(), nodes: informers.get(), services: informers.get() }
    }
}

/// What was decided about a pod.
pub(crate) enum Decision {
    /// It goes there.
    Bind(Candidate, NodeName),
    /// It fits nowhere; people and the pod's status are told.
    Explain(Candidate, Unschedulable),
}

/// What became of a decision.
pub(crate) enum Outcome {
    /// Nothing more to do.
    Done,
    /// The pod was bound.
    Bound,
    /// The pod was not bound as decided. The caches show what there is instead.
    NotBound(Candidate),
}

/// See the module.
pub(crate) struct State {
    caches: Caches,
    metrics: Arc<Metrics>,
    table: Snapshot,
    pending: Pending,
    /// Placed, and not yet seen bound: uid to node.
    assumed: HashMap<String, NodeName>,
    /// Uids of the pods that were seen, by key: what is gone has to be found by its key.
    known: HashMap<ObjectKey, String>,
}

impl State {
    pub fn new(caches: Caches, metrics: Arc<Metrics>) -> Self {
        Self {
            caches,
            metrics,
            table: Snapshot::default(),
            pending: Pending::default(),
            assumed: HashMap::new(),
            known: HashMap::new(),
        }
    }

    pub fn nodes_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        let mut helpful = false;
        for key in keys {
            match self.caches.nodes.get_key(&key) {
                Some(node) => helpful |= self.table.set_node(&node),
                None => self.table.remove_node(&key.name),
            }
        }
        if helpful {
            self.pending.wake_all(Instant::now());
        }
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
    }

    pub fn pods_changed(&mut self, keys: BTreeSet<ObjectKey>) {
        let mut freed = false;
        for key in keys {
            let pod = self.caches.pods.get_key(&key);
            let now = pod.as_ref().map(|pod| uid(&pod.metadata).to_owned());
            if let Some(old) = self.known.get(&key).filter(|old| Some(*old) != now.as_ref()).cloned() {
                freed |= self.forget(&old);
            }
            match now {
                Some(uid) => drop(self.known.insert(key, uid)),
                None => drop(self.known.remove(&key)),
            }
            if let Some(pod) = pod {
                freed |= self.file(&pod);
            }
        }
        if freed {
            self.pending.wake_all(Instant::now());
        }
    }

    /// A pod is gone or has ended. True if that made room.
    fn forget(&mut self, uid: &str) -> bool {
        self.pending.forget(uid);
        self.assumed.remove(uid);
        let bound = self.table.node_of(uid).is_some();
        self.table.remove_pod(uid);
        bound
    }

    /// Files a pod where it belongs now. True if that made room.
    fn file(&mut self, pod: &Arc<Pod>) -> bool {
        let uid = uid(&pod.metadata);
        if pod::finished(pod) {
            return self.forget(uid);
        }
        if let Some(node) = pod::node(pod) {
            self.pending.forget(uid);
            self.assumed.remove(uid);
            self.table.add_pod(self.info(pod), node);
            return false;
        }
        if !ours(pod) {
            return self.forget(uid);
        }
        if !self.assumed.contains_key(uid) {
            let candidate = Candidate { info: self.info(pod), pod: pod.clone() };
            self.pending.put(candidate, Instant::now());
        }
        false
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
            && let Some(candidate) = self.pending.next(began)
        {
            let uid = candidate.info.uid.clone();
            match place(&self.table, &candidate.info) {
                Ok(node) => {
                    self.pending.forget(&uid);
                    self.table.add_pod(candidate.info.clone(), &node);
                    self.assumed.insert(uid, node.clone());
                    decisions.push(Decision::Bind(candidate, node));
                }
                Err(why) => {
                    self.pending.failed(&uid, Instant::now());
                    decisions.push(Decision::Explain(candidate, why));
                }
            }
        }
        self.metrics.decided(&decisions, began.elapsed(), self.pending.len());
        decisions
    }

    /// Takes note of what became of a decision.
    pub fn settle(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => {}
            Outcome::Bound => self.metrics.bound(),
            Outcome::NotBound(candidate) => {
                let uid = candidate.info.uid.clone();
                // The informer may have told the truth already; then there is nothing to undo.
                if self.assumed.remove(&uid).is_none() {
                    return;
                }
                self.metrics.not_bound();
                self.table.remove_pod(&uid);
                let current = self.caches.pods.get(Some(&candidate.info.namespace), &candidate.info.name);
                match current.filter(|pod| kontiki_plan::object::uid(&pod.metadata) == uid) {
                    Some(pod) if pod::node(&pod).is_none() && ours(&pod) => {
                        let candidate = Candidate { info: self.info(&pod), pod };
                        self.pending.retry(candidate, Instant::now());
                    }
                    Some(pod) => drop(self.file(&pod)),
                    None => {}
                }
            }
        }
    }

    /// When there is something to decide without anything happening.
    pub fn next_retry(&self, room: bool) -> Option<Instant> {
        if room { self.pending.next_due(Instant::now()) } else { None }
    }
}

/// Whether a pod without a node is ours to place.
fn ours(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    scheduler == NAME && !gated && !deleting(&pod.metadata)
}
