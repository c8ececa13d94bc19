//! Keeps the pods of StatefulSets, each with its name and volumes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::workloads::managed;
use kontiki_plan::workloads::statefulset::{self, View};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces, Selectors};

pub(crate) struct StatefulSetController {
    sets: Selectors<StatefulSet>,
    pods: Managed<Pod>,
    revisions: Managed<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    namespaces: Namespaces,
}

impl StatefulSetController {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        let selecting = |pod: &Pod| self.sets.candidates(&pod.metadata);
        managed::concerned(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_revision(&self, change: &TypedChange<ControllerRevision>) -> Vec<NamespacedName> {
        let selecting = |revision: &ControllerRevision| self.sets.candidates(&revision.metadata);
        managed::concerned(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn by_claim(&self, change: &TypedChange<PersistentVolumeClaim>) -> Vec<NamespacedName> {
        statefulset::by_claim(&(&change.key).into(), |key| self.get(key))
    }

    fn get(&self, key: &NamespacedName) -> Option<Arc<StatefulSet>> {
        self.sets.all.get(Some(&key.namespace), &key.name)
    }
}

impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset";
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            sets: Selectors::new(api),
            pods: Managed::new(api),
            revisions: Managed::new(api),
            claims: api.cache().get(),
            namespaces: Namespaces::new(api),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.sets.all);
        inputs.on(&self.pods.all, Self::by_pod);
        inputs.on(&self.revisions.all, Self::by_revision);
        inputs.on(&self.claims, Self::by_claim);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let set = self.get(key)?;
        let pods = self.pods.around(set.as_ref());
        let claims = statefulset::claim_names(&set, &pods).into_iter().filter_map(|name| {
            let claim = self.claims.get(Some(&key.namespace), &name)?;
            Some((name, claim))
        });
        Some(View {
            claims: claims.collect(),
            pods,
            revisions: self.revisions.around(set.as_ref()),
            namesake: self.revisions.all.get(Some(&key.namespace), &statefulset::revision_name(&set)),
            namespace_terminating: self.namespaces.terminating(&key.namespace),
            set,
        })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        statefulset::plan(view, now)
    }
}
