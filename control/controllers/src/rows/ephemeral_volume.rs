//! Makes the claims behind generic ephemeral volumes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::storage::ephemeral::{self, View};
use kontiki_plan::storage::protection::claim_name;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByClaim;

pub(crate) struct EphemeralVolume {
    pods: PodsByClaim,
    claims: Informer<PersistentVolumeClaim>,
}

impl EphemeralVolume {
    fn by_claim(&self, change: &TypedChange<PersistentVolumeClaim>) -> Vec<NamespacedName> {
        if change.new.is_some() {
            return Vec::new();
        }
        let pods = self.pods.of(&NamespacedName::from(&change.key));
        pods.iter().map(|pod| NamespacedName::of(&pod.metadata)).collect()
    }
}

impl Controller for EphemeralVolume {
    const NAME: &'static str = "ephemeral-volume";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { pods: PodsByClaim::new(api), claims: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.pods.0);
        inputs.on(&self.claims, Self::by_claim);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let pod = self.pods.0.get(Some(&key.namespace), &key.name)?;
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let own = volumes.filter(|volume| volume.ephemeral.is_some()).filter_map(|volume| claim_name(&pod, volume));
        let claims = own.filter(|claim| self.claims.get(Some(&key.namespace), claim).is_some()).collect();
        Some(View { claims, pod })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        ephemeral::plan(view)
    }
}
