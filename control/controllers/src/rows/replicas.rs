//! ReplicaSets and ReplicationControllers: one controller, for each of the two kinds.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kontiki_api::Api;
use kontiki_cache::{Cached, TypedChange};
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::{controller, uid};
use kontiki_plan::workloads::managed;
use kontiki_plan::workloads::replicas::{self, ReplicaFailure, Replicas, View};
use kontiki_plan::{Plan, Refusal};

use crate::controller::{Context, Controller, Inputs};
use crate::index::{Managed, Namespaces, Selectors};

pub(crate) type ReplicaSetController = ReplicaController<ReplicaSet>;
pub(crate) type ReplicationControllerManager = ReplicaController<ReplicationController>;

pub(crate) struct ReplicaController<S> {
    sets: Selectors<S>,
    managed_sets: Managed<S>,
    pods: Managed<Pod>,
    namespaces: Namespaces,
}

/// A kind that keeps a number of pods, and the name of its controller.
pub(crate) trait Kept: Replicas + Cached {
    const CONTROLLER: &'static str;
}

impl Kept for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset";
}

impl Kept for ReplicationController {
    const CONTROLLER: &'static str = "replicationcontroller";
}

impl<S: Kept> ReplicaController<S> {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        let selecting = |pod: &Pod| self.sets.candidates(&pod.metadata);
        managed::concerned(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    /// Active pods per node of all sets with the same manager.
    fn related_per_node(&self, set: &Arc<S>) -> HashMap<String, usize> {
        let related = match controller(set.metadata()) {
            Some(owner) => self.managed_sets.of(&owner.uid),
            None => vec![set.clone()],
        };
        let pods: Vec<Arc<Pod>> = related.iter().flat_map(|set| self.pods.of(uid(set.metadata()))).collect();
        replicas::per_node(&pods)
    }
}

impl<S: Kept> Controller for ReplicaController<S> {
    const NAME: &'static str = S::CONTROLLER;
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View<S>;
    type Failure = ReplicaFailure;

    fn new(api: &Api) -> Self {
        let (sets, managed_sets) = (Selectors::new(api), Managed::new(api));
        Self { sets, managed_sets, pods: Managed::new(api), namespaces: Namespaces::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.sets.all);
        inputs.on(&self.pods.all, Self::by_pod);
    }

    fn view(&self, key: &NamespacedName, context: &Context<'_, ReplicaFailure>) -> Option<View<S>> {
        let set = self.sets.all.get(Some(&key.namespace), &key.name)?;
        let pods = self.pods.around(set.as_ref());
        let surplus = replicas::surplus(set.as_ref(), pods.len());
        let related_per_node = if surplus { self.related_per_node(&set) } else { HashMap::new() };
        Some(View {
            set,
            pods,
            related_per_node,
            failure: context.failure.cloned(),
            namespace_terminating: self.namespaces.terminating(&key.namespace),
        })
    }

    fn plan(view: &View<S>, now: Timestamp) -> Plan {
        replicas::plan(view, now)
    }

    fn refused(refusal: &Refusal) -> Option<ReplicaFailure> {
        replicas::refused(refusal)
    }
}
