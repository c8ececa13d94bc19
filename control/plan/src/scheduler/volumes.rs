//! Claims, volumes and classes, as far as they decide where a pod may go.
//!
//! Invariants
//! - A volume that was chosen for a claim is no other claim's from then on, until the choice is undone or the volume
//!   itself says whose it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};

use crate::object::{name, namespace, uid};
use crate::storage::binder::{claim_of, free, volume_of};
use crate::storage::protection::claim_name;

/// A claim's address.
pub type ClaimKey = (String, String);

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodClaim {
    /// The claim.
    pub name: String,
    /// The pod's name and uid, if the claim is to be made for the pod and to go with it.
    pub made_for: Option<(String, String)>,
}

/// What a pod mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mounts {
    /// Claims.
    pub claims: Vec<PodClaim>,
    /// Drivers of volumes that live and die with the pod, with a handle for each.
    pub inline: Vec<(String, String)>,
}

impl Mounts {
    /// Reads them.
    pub(super) fn read(pod: &Pod) -> Self {
        let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let own = (name(&pod.metadata).to_owned(), uid(&pod.metadata).to_owned());
        let claim = |volume: &Volume| {
            let made_for = volume.ephemeral.as_ref().map(|_| own.clone());
            Some(PodClaim { name: claim_name(pod, volume)?, made_for })
        };
        let inline =
            |volume: &Volume| Some((volume.csi.as_ref()?.driver.clone(), format!("{}/{}", own.1, volume.name)));
        Self { claims: volumes().filter_map(claim).collect(), inline: volumes().filter_map(inline).collect() }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    claims: HashMap<ClaimKey, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// Volumes per driver that nodes can mount.
    limits: HashMap<String, BTreeMap<String, usize>>,
    /// For whom volumes were chosen.
    chosen: HashMap<String, ClaimKey>,
}

fn put<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Volumes {
    /// A claim came, changed or went.
    pub fn set_claim(&mut self, key: ClaimKey, claim: Option<Arc<PersistentVolumeClaim>>) {
        put(&mut self.claims, key, claim);
    }

    /// A volume came, changed or went.
    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        if volume.as_ref().is_none_or(|volume| claim_of(volume).is_some()) {
            self.chosen.remove(name);
        }
        match volume {
            Some(volume) => drop(self.volumes.insert(name.to_owned(), volume)),
            None => drop(self.volumes.remove(name)),
        }
    }

    /// A class came, changed or went.
    pub fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        put(&mut self.classes, name.to_owned(), class);
    }

    /// What a node can mount came, changed or went.
    pub fn set_limits(&mut self, node: &str, csi: Option<&CSINode>) {
        let limits = csi.map(|csi| {
            let limit = |driver: &k8s_openapi::api::storage::v1::CSINodeDriver| {
                let count = driver.allocatable.as_ref()?.count?;
                Some((driver.name.clone(), usize::try_from(count).unwrap_or(0)))
            };
            csi.spec.drivers.iter().filter_map(limit).collect()
        });
        put(&mut self.limits, node.to_owned(), limits);
    }

    /// A claim.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name)
    }

    /// A class.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(name)
    }

    /// How many volumes of each driver a node can mount.
    #[must_use]
    pub fn limits(&self, node: &str) -> Option<&BTreeMap<String, usize>> {
        self.limits.get(node).filter(|limits| !limits.is_empty())
    }

    /// Volumes that nobody has, by name.
    pub fn free(&self) -> impl Iterator<Item = &Arc<PersistentVolume>> {
        self.volumes.values().filter(|volume| free(volume) && !self.chosen.contains_key(name(&volume.metadata)))
    }

    /// A volume was chosen for a claim.
    pub fn choose(&mut self, volume: &str, claim: &ClaimKey) {
        self.chosen.insert(volume.to_owned(), claim.clone());
    }

    /// The choice is undone.
    pub fn give_back(&mut self, volume: &str) {
        self.chosen.remove(volume);
    }

    /// What a claim takes up of a node's drivers: the driver, and the volume, or the claim while it has none.
    #[must_use]
    pub fn attachment(&self, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
        let Some(volume) = volume_of(claim) else {
            let class = self.class(crate::storage::binder::class_of_claim(claim))?;
            return Some((
                class.provisioner.clone(),
                format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata)),
            ));
        };
        let csi = self.volume(volume)?.spec.as_ref()?.csi.as_ref()?;
        Some((csi.driver.clone(), csi.volume_handle.clone()))
    }
}
