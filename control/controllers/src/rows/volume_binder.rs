//! Binds claims and volumes to each other.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::key::{Name, NamespacedName};
use kontiki_plan::object::name;
use kontiki_plan::storage::binder::{
    self, Key, View, claim, claim_of, class_of_claim, class_of_volume, unbound, volume, volume_of,
};
use kontiki_plan::{Plan, pod};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::PodsByClaim;

/// Claims that are not bound yet, by class.
const UNBOUND: &str = "unbound";
/// Claims by the volume that they name, and volumes by the claim.
const BY_OTHER: &str = "bound";
/// Volumes by class.
const BY_CLASS: &str = "class";

pub(crate) struct VolumeBinder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: PodsByClaim,
}

fn claim_key(claim: &PersistentVolumeClaim) -> Key {
    Key::Claim(NamespacedName::of(&claim.metadata))
}

impl VolumeBinder {
    fn by_claim(&self, change: &TypedChange<PersistentVolumeClaim>) -> Vec<Key> {
        let own = NamespacedName::from(&change.key);
        let held = self.volumes.by_index(BY_OTHER, &own.to_string());
        let named = change.both().filter_map(|claim| volume_of(claim).map(Name::from));
        let volumes = held.iter().map(|volume| Name::from(name(&volume.metadata))).chain(named);
        volumes.map(Key::Volume).chain([Key::Claim(own.clone())]).collect()
    }

    fn by_volume(&self, change: &TypedChange<PersistentVolume>) -> Vec<Key> {
        let own = &change.key.name;
        let mut keys = vec![Key::Volume(Name::from(own.as_str()))];
        keys.extend(change.both().filter_map(|volume| claim_of(volume)).map(Key::Claim));
        keys.extend(self.claims.by_index(BY_OTHER, own).iter().map(|claim| claim_key(claim)));
        // One that nobody has may be what others wait for.
        if let Some(volume) = change.new.as_deref().filter(|volume| claim_of(volume).is_none()) {
            keys.extend(self.waiting(class_of_volume(volume)));
        }
        keys
    }

    fn by_class(&self, change: &TypedChange<StorageClass>) -> Vec<Key> {
        self.waiting(&change.key.name)
    }

    fn waiting(&self, class: &str) -> Vec<Key> {
        self.claims.by_index(UNBOUND, class).iter().map(|claim| claim_key(claim)).collect()
    }

    fn claim(&self, key: &NamespacedName) -> Option<claim::View> {
        let claim = self.claims.get(Some(&key.namespace), &key.name)?;
        let mut candidates = Vec::new();
        if unbound(&claim) && volume_of(&claim).is_none() {
            candidates = self.volumes.by_index(BY_CLASS, class_of_claim(&claim));
            candidates.extend(self.volumes.by_index(BY_OTHER, &key.to_string()));
        }
        let waits = |pod: &Pod| pod::node(pod).is_none() && pod::active(pod);
        let consumer = self.pods.of(key).iter().find(|pod| waits(pod)).map(|pod| name(&pod.metadata).to_owned());
        Some(claim::View {
            class: self.classes.get(None, class_of_claim(&claim)),
            volume: volume_of(&claim).and_then(|volume| self.volumes.get(None, volume)),
            candidates,
            consumer,
            claim,
        })
    }

    fn volume(&self, key: &Name) -> Option<volume::View> {
        let volume = self.volumes.get(None, key.as_str())?;
        let claim = claim_of(&volume).and_then(|claim| self.claims.get(Some(&claim.namespace), &claim.name));
        Some(volume::View { volume, claim })
    }
}

impl Controller for VolumeBinder {
    const NAME: &'static str = "persistentvolume-binder";
    const WORKERS: usize = 4;
    type Key = Key;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let claims: Informer<PersistentVolumeClaim> = api.cache().get();
        claims.add_index(
            UNBOUND,
            |claim: &PersistentVolumeClaim| {
                if unbound(claim) { vec![class_of_claim(claim).to_owned()] } else { Vec::new() }
            },
        );
        claims.add_index(BY_OTHER, |claim: &PersistentVolumeClaim| {
            volume_of(claim).map(str::to_owned).into_iter().collect()
        });
        let volumes: Informer<PersistentVolume> = api.cache().get();
        volumes.add_index(BY_CLASS, |volume: &PersistentVolume| vec![class_of_volume(volume).to_owned()]);
        volumes.add_index(BY_OTHER, |volume: &PersistentVolume| {
            claim_of(volume).map(|claim| claim.to_string()).into_iter().collect()
        });
        Self { claims, volumes, classes: api.cache().get(), pods: PodsByClaim::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.claims, Self::by_claim);
        inputs.on(&self.volumes, Self::by_volume);
        inputs.on(&self.classes, Self::by_class);
    }

    fn view(&self, key: &Key, _: &Context<'_, NoFailure>) -> Option<View> {
        match key {
            Key::Claim(key) => self.claim(key).map(View::Claim),
            Key::Volume(key) => self.volume(key).map(View::Volume),
        }
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        binder::plan(view)
    }
}
