//! Rolls Deployments out.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Api;
use kontiki_cache::TypedChange;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::uid;
use kontiki_plan::workloads::deployment::{self, View};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces, Selectors};

pub(crate) struct DeploymentController {
    deployments: Selectors<Deployment>,
    sets: Managed<ReplicaSet>,
    pods: Managed<Pod>,
    namespaces: Namespaces,
}

impl DeploymentController {
    fn by_set(&self, change: &TypedChange<ReplicaSet>) -> Vec<NamespacedName> {
        let selecting = |set: &ReplicaSet| self.deployments.candidates(&set.metadata);
        deployment::by_set(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Option<NamespacedName> {
        let set = |key: &NamespacedName| self.sets.all.get(Some(&key.namespace), &key.name);
        deployment::by_pod(change.old.as_deref(), change.new.as_deref(), set, |key| self.get(key))
    }

    fn get(&self, key: &NamespacedName) -> Option<Arc<Deployment>> {
        self.deployments.all.get(Some(&key.namespace), &key.name)
    }
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment";
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            deployments: Selectors::new(api),
            sets: Managed::new(api),
            pods: Managed::new(api),
            namespaces: Namespaces::new(api),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.deployments.all);
        inputs.on(&self.sets.all, Self::by_set);
        inputs.on(&self.pods.all, Self::by_pod);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let deployment = self.get(key)?;
        let mut sets = self.sets.of(uid(&deployment.metadata));
        let pods = if deployment::recreates(&deployment) {
            sets.iter().flat_map(|set| self.pods.of(uid(&set.metadata))).collect()
        } else {
            Vec::new()
        };
        sets.extend(self.sets.unmanaged(&key.namespace));
        let namesake = self.sets.all.get(Some(&key.namespace), &deployment::set_name(&deployment));
        let namespace_terminating = self.namespaces.terminating(&key.namespace);
        Some(View { deployment, sets, namesake, pods, namespace_terminating })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        deployment::plan(view, now)
    }
}
