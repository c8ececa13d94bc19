//! Keeps a pod of each DaemonSet on each node that fits.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::workloads::daemonset::{self, FailedPods, View};
use kontiki_plan::workloads::managed;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces, Selectors};

pub(crate) struct DaemonSetController {
    sets: Selectors<DaemonSet>,
    pods: Managed<Pod>,
    revisions: Managed<ControllerRevision>,
    nodes: Informer<Node>,
    namespaces: Namespaces,
    failed: Mutex<FailedPods>,
}

impl DaemonSetController {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        let selecting = |pod: &Pod| self.sets.candidates(&pod.metadata);
        managed::concerned(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_revision(&self, change: &TypedChange<ControllerRevision>) -> Vec<NamespacedName> {
        let selecting = |revision: &ControllerRevision| self.sets.candidates(&revision.metadata);
        managed::concerned(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_node(&self, change: &TypedChange<Node>) -> Vec<NamespacedName> {
        daemonset::by_node(change.old.as_deref(), change.new.as_deref(), || self.sets.all.list())
    }

    fn get(&self, key: &NamespacedName) -> Option<Arc<DaemonSet>> {
        self.sets.all.get(Some(&key.namespace), &key.name)
    }
}

impl Controller for DaemonSetController {
    const NAME: &'static str = "daemonset";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            sets: Selectors::new(api),
            pods: Managed::new(api),
            revisions: Managed::new(api),
            nodes: api.cache().get(),
            namespaces: Namespaces::new(api),
            failed: Mutex::default(),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.sets.all);
        inputs.on(&self.pods.all, Self::by_pod);
        inputs.on(&self.revisions.all, Self::by_revision);
        inputs.on(&self.nodes, Self::by_node);
    }

    fn view(&self, key: &NamespacedName, context: &Context<'_, NoFailure>) -> Option<View> {
        let set = self.get(key)?;
        let pods = self.pods.around(set.as_ref());
        // Nothing panics while the lock is held, so a poisoned one is whole.
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let retry_at = failed.see(&set, &pods, context.now);
        drop(failed);
        Some(View {
            nodes: self.nodes.list(),
            pods,
            revisions: self.revisions.around(set.as_ref()),
            namesake: self.revisions.all.get(Some(&key.namespace), &daemonset::revision_name(&set)),
            retry_at,
            namespace_terminating: self.namespaces.terminating(&key.namespace),
            set,
        })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        daemonset::plan(view, now)
    }
}
