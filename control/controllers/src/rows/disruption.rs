//! Keeps the statuses of PodDisruptionBudgets, and takes marks of disruptions off pods that stay.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::{controller, label, uid};
use kontiki_plan::policy::disruption::{self, Scale};
use kontiki_plan::selection::Selects as _;
use kontiki_plan::{Plan, pod};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Selectors;

pub(crate) struct DisruptionController {
    budgets: Selectors<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
}

/// What a plan is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Budget(NamespacedName),
    /// A pod that says that it is disrupted.
    Marked(NamespacedName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(name) => name.fmt(f),
            Self::Marked(name) => write!(f, "pod {name}"),
        }
    }
}

/// What a plan is made from.
pub(crate) enum View {
    Budget(disruption::View),
    Marked(Arc<Pod>),
}

impl DisruptionController {
    fn by_budget(&self, change: &TypedChange<PodDisruptionBudget>) -> Option<Key> {
        Some(Key::Budget(NamespacedName::from(&change.key)))
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<Key> {
        let selecting = |pod: &Pod| self.budgets.candidates(&pod.metadata);
        let budgets = disruption::concerned(change.old.as_deref(), change.new.as_deref(), selecting);
        let marked = change.new.iter().filter(|pod| pod::condition(pod, "DisruptionTarget").is_some());
        let marked = marked.map(|pod| Key::Marked(NamespacedName::of(&pod.metadata)));
        budgets.into_iter().map(Key::Budget).chain(marked).collect()
    }

    fn budget(&self, key: &NamespacedName) -> Option<disruption::View> {
        let budget = self.budgets.all.get(Some(&key.namespace), &key.name)?;
        let pods = match budget.selector() {
            None => Vec::new(),
            Some(selector) => {
                let mut pods = self.pods.by_namespace(&key.namespace);
                pods.retain(|pod| selector.matches_with(|key| label(&pod.metadata, key)));
                pods
            }
        };
        let owners = pods.iter().filter_map(|pod| controller(&pod.metadata));
        let scales = owners.filter_map(|owner| Some((owner.uid.clone(), self.scale(&key.namespace, owner)?))).collect();
        Some(disruption::View { budget, pods, scales })
    }

    /// How many pods the manager wants that a pod names; a ReplicaSet's is its Deployment's affair.
    fn scale(&self, namespace: &str, owner: &OwnerReference) -> Option<Scale> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            (ReplicaSet::GROUP, ReplicaSet::KIND) => {
                let set = self.sets.get(Some(namespace), &owner.name)?;
                let own = of(uid(&set.metadata), owner, set.spec.replicas)?;
                match controller(&set.metadata).filter(|owner| owner.kind == Deployment::KIND) {
                    Some(above) => self.scale(namespace, above),
                    None => Some(own),
                }
            }
            (Deployment::GROUP, Deployment::KIND) => {
                let found = self.deployments.get(Some(namespace), &owner.name)?;
                of(uid(&found.metadata), owner, found.spec.replicas)
            }
            (StatefulSet::GROUP, StatefulSet::KIND) => {
                let found = self.stateful.get(Some(namespace), &owner.name)?;
                of(uid(&found.metadata), owner, found.spec.replicas)
            }
            (ReplicationController::GROUP, ReplicationController::KIND) => {
                let found = self.controllers.get(Some(namespace), &owner.name)?;
                of(uid(&found.metadata), owner, found.spec.as_ref()?.replicas)
            }
            _ => None,
        }
    }
}

/// The scale of what was found, if it is what was meant.
fn of(found: &str, wanted: &OwnerReference, replicas: Option<i32>) -> Option<Scale> {
    (found == wanted.uid).then(|| Scale { uid: found.to_owned(), replicas: replicas.unwrap_or(1) })
}

impl Controller for DisruptionController {
    const NAME: &'static str = "disruption";
    const WORKERS: usize = 4;
    type Key = Key;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            budgets: Selectors::new(api),
            pods: api.cache().get(),
            sets: api.cache().get(),
            deployments: api.cache().get(),
            stateful: api.cache().get(),
            controllers: api.cache().get(),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.budgets.all, Self::by_budget);
        inputs.on(&self.pods, Self::by_pod);
    }

    fn view(&self, key: &Key, _: &Context<'_, NoFailure>) -> Option<View> {
        match key {
            Key::Budget(name) => self.budget(name).map(View::Budget),
            Key::Marked(name) => self.pods.get(Some(&name.namespace), &name.name).map(View::Marked),
        }
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        match view {
            View::Budget(view) => disruption::plan(view, now),
            View::Marked(pod) => disruption::unmark(pod, now),
        }
    }
}
