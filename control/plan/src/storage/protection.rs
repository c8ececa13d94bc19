//! Protection of volumes, claims and classes of attributes that are in use (upstream's pv-, pvc- and
//! vac-protection controllers).
//!
//! Invariants
//! - An object that is to go keeps its finalizer as long as something uses it.
//! - A claim is in use only by pods that have a node: agents start no pod whose claim is on its way out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use serde_json::json;

use crate::action::{Kind, Plan, patch};
use crate::object::{controlled_by, deleting, name, namespace, uid};
use crate::pod;

/// What holds volumes.
pub const VOLUME: &str = "kubernetes.io/pv-protection";
/// What holds claims.
pub const CLAIM: &str = "kubernetes.io/pvc-protection";
/// What holds classes of attributes.
pub const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";

/// Decides the next write for one object that `finalizer` holds while it is in use.
#[must_use]
pub fn plan<K: Kind>(object: &K, finalizer: &str, in_use: impl FnOnce() -> bool) -> Plan {
    let meta = object.metadata();
    let own: Vec<&str> = meta.finalizers.iter().flatten().map(String::as_str).collect();
    let held = own.contains(&finalizer);
    let (why, left) = match (deleting(meta), held) {
        (false, false) => ("it is not protected yet", own.into_iter().chain([finalizer]).collect()),
        (true, true) if !in_use() => {
            ("nothing uses it any more", own.into_iter().filter(|other| *other != finalizer).collect::<Vec<_>>())
        }
        (true, true) => return Plan::rest("it is in use"),
        _ => return Plan::rest("it is right"),
    };
    Plan::new(why, vec![patch(object, None, json!({"metadata": {"finalizers": left}}))])
}

/// Whether a volume is somebody's.
#[must_use]
pub fn volume_in_use(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

/// Whether one of `pods`, which name a claim of this name, uses it.
#[must_use]
pub fn claim_in_use(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> bool {
    pods.iter().any(|pod| pod::node(pod).is_some() && volumes(pod).any(|volume| uses(pod, volume, claim)))
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn uses(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = name(&claim.metadata);
    let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == wanted);
    let gone = deleting(&pod.metadata) && pod.metadata.deletion_grace_period_seconds == Some(0);
    let own = volume.ephemeral.is_some()
        && own_claim(pod, volume) == wanted
        && controlled_by(&claim.metadata, uid(&pod.metadata));
    named || (own && !gone)
}

/// The name of the claim that is made for a volume of a pod's own.
fn own_claim(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", name(&pod.metadata), volume.name)
}

/// The claims that a pod's volumes name, each with its namespace, as an index has them.
#[must_use]
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let space = namespace(&pod.metadata);
    volumes(pod).filter_map(|volume| claim_name(pod, volume)).map(|claim| format!("{space}/{claim}")).collect()
}

/// The claim behind a volume of a pod.
#[must_use]
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| own_claim(pod, volume)),
    }
}

/// The classes of attributes that a claim has or is to have.
#[must_use]
pub fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let modify = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modify.and_then(|modify| modify.target_volume_attributes_class_name.clone());
    let mut all: Vec<String> = wanted.into_iter().chain(has).chain(target).filter(|class| !class.is_empty()).collect();
    all.sort();
    all.dedup();
    all
}

/// The class of attributes that a volume has.
#[must_use]
pub fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaimVolumeSource};
    use proptest::prelude::*;

    use super::*;
    use crate::object::{controller_reference, time};
    use crate::testing::{Cluster, NOW, meta, pod, show};

    fn claim(finalizers: &str, going: bool) -> PersistentVolumeClaim {
        let mut claim = PersistentVolumeClaim { metadata: meta("c"), ..PersistentVolumeClaim::default() };
        claim.metadata.finalizers = Some(finalizers.split_whitespace().map(str::to_owned).collect());
        claim.metadata.deletion_timestamp = going.then(|| time(NOW));
        claim
    }

    #[test]
    fn a_finalizer_comes_and_goes() {
        for (name, finalizers, going, in_use, expect, left) in [
            ("a new one", "a", false, false, "patch c", json!(["a", CLAIM])),
            ("a protected one", CLAIM, false, true, "", json!(null)),
            ("one that is used", CLAIM, true, true, "", json!(null)),
            ("one that nothing uses", "a kubernetes.io/pvc-protection b", true, false, "patch c", json!(["a", "b"])),
            ("one that others hold", "a", true, false, "", json!(null)),
        ] {
            let plan = plan(&claim(finalizers, going), CLAIM, || in_use);
            assert_eq!(show(&plan.actions), expect, "{name}");
            if let Some(crate::Action::Patch(patch)) = plan.actions.first() {
                assert_eq!(patch.body["metadata"]["finalizers"], left, "{name}");
            }
        }
    }

    #[test]
    fn pods_on_nodes_use_claims() {
        let volume = |claim: Option<&str>| Volume {
            name: "v".into(),
            persistent_volume_claim: claim
                .map(|claim| PersistentVolumeClaimVolumeSource { claim_name: claim.into(), read_only: None }),
            ephemeral: claim.is_none().then(EphemeralVolumeSource::default),
            ..Volume::default()
        };
        let owner = pod("p", &[]);
        for (name, claim_name, owned, volume, change, expect) in [
            ("it names the claim", "c", false, volume(Some("c")), "", true),
            ("it names another", "d", false, volume(Some("c")), "", false),
            ("it has no node", "c", false, volume(Some("c")), "node", false),
            ("the claim is its own", "p-v", true, volume(None), "", true),
            ("the claim is a namesake of its own", "p-v", false, volume(None), "", false),
            ("it is gone from its node", "p-v", true, volume(None), "gone", false),
        ] {
            let mut claim = claim("", true);
            claim.metadata.name = Some(claim_name.into());
            claim.metadata.owner_references = owned.then(|| vec![controller_reference(&owner)]);
            let mut pod = owner.clone();
            let spec = pod.spec.as_mut().unwrap();
            spec.volumes = Some(vec![volume]);
            match change {
                "node" => spec.node_name = None,
                "gone" => {
                    pod.metadata.deletion_timestamp = Some(time(NOW));
                    pod.metadata.deletion_grace_period_seconds = Some(0);
                }
                _ => {}
            }
            assert_eq!(claim_in_use(&claim, &[Arc::new(pod)]), expect, "{name}");
        }
    }

    proptest! {
        #[test]
        fn rests_after_one_write(held: bool, going: bool, in_use: bool) {
            let mut cluster = Cluster::default();
            cluster.add(&claim(if held { CLAIM } else { "" }, going));
            let turn = |cluster: &Cluster| plan(&cluster.only::<PersistentVolumeClaim>(), CLAIM, || in_use).actions;
            prop_assert!(cluster.settle(2, turn), "{}", cluster.trace());
        }
    }
}
