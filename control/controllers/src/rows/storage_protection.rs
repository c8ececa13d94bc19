//! Holds volumes, claims and classes of attributes while they are in use: a controller each.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::{Name, NamespacedName};
use kontiki_plan::storage::protection::{self, claims_of, classes_of_claim, classes_of_volume};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByClaim;

/// Claims and volumes by class of attributes.
const BY_ATTRIBUTES: &str = "attributes";

pub(crate) struct VolumeProtection(Informer<PersistentVolume>);

impl Controller for VolumeProtection {
    const NAME: &'static str = "persistentvolume-protection";
    const WORKERS: usize = 2;
    type Key = Name;
    type View = Arc<PersistentVolume>;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self(api.cache().get())
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.0);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        self.0.get(None, key.as_str())
    }

    fn plan(volume: &Self::View, _: Timestamp) -> Plan {
        protection::plan(volume.as_ref(), protection::VOLUME, || protection::volume_in_use(volume))
    }
}

pub(crate) struct ClaimProtection {
    claims: Informer<PersistentVolumeClaim>,
    pods: PodsByClaim,
}

impl ClaimProtection {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        let claims = change.both().flat_map(|pod| claims_of(pod));
        claims.filter_map(|claim| claim.split_once('/').map(|(space, name)| NamespacedName::new(space, name))).collect()
    }
}

impl Controller for ClaimProtection {
    const NAME: &'static str = "persistentvolumeclaim-protection";
    const WORKERS: usize = 2;
    type Key = NamespacedName;
    type View = (Arc<PersistentVolumeClaim>, Vec<Arc<Pod>>);
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { claims: api.cache().get(), pods: PodsByClaim::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.claims);
        inputs.on(&self.pods.0, Self::by_pod);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        Some((self.claims.get(Some(&key.namespace), &key.name)?, self.pods.of(key)))
    }

    fn plan((claim, pods): &Self::View, _: Timestamp) -> Plan {
        protection::plan(claim.as_ref(), protection::CLAIM, || protection::claim_in_use(claim, pods))
    }
}

pub(crate) struct AttributesClassProtection {
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl AttributesClassProtection {
    fn by_claim(&self, change: &TypedChange<PersistentVolumeClaim>) -> Vec<Name> {
        change.both().flat_map(|claim| classes_of_claim(claim)).map(|class| Name::from(class.as_str())).collect()
    }

    fn by_volume(&self, change: &TypedChange<PersistentVolume>) -> Vec<Name> {
        change.both().flat_map(|volume| classes_of_volume(volume)).map(|class| Name::from(class.as_str())).collect()
    }
}

impl Controller for AttributesClassProtection {
    const NAME: &'static str = "volumeattributesclass-protection";
    const WORKERS: usize = 1;
    type Key = Name;
    type View = (Arc<VolumeAttributesClass>, bool);
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let claims: Informer<PersistentVolumeClaim> = api.cache().get();
        claims.add_index(BY_ATTRIBUTES, |claim: &PersistentVolumeClaim| classes_of_claim(claim));
        let volumes: Informer<PersistentVolume> = api.cache().get();
        volumes.add_index(BY_ATTRIBUTES, |volume: &PersistentVolume| classes_of_volume(volume));
        Self { classes: api.cache().get(), claims, volumes }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.classes);
        inputs.on(&self.claims, Self::by_claim);
        inputs.on(&self.volumes, Self::by_volume);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        let (class, name) = (self.classes.get(None, key.as_str())?, key.as_str());
        let used = !self.claims.by_index(BY_ATTRIBUTES, name).is_empty()
            || !self.volumes.by_index(BY_ATTRIBUTES, name).is_empty();
        Some((class, used))
    }

    fn plan((class, used): &Self::View, _: Timestamp) -> Plan {
        protection::plan(class.as_ref(), protection::ATTRIBUTES_CLASS, || *used)
    }
}
