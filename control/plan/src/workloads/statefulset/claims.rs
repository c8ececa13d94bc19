//! The PersistentVolumeClaims of a StatefulSet's pods: their names, and who owns them.
//!
//! Invariants
//! - A claim is owned by the set if it goes with the set (`whenDeleted`), and by its pod if it goes with that
//!   (`whenScaled`, once the pod is one too many). Garbage collection does the rest.
//! - Claims that somebody else manages, or that an earlier set or pod of the same name owns, are left alone.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::identity;
use crate::action::{Action, Kind, patch, to_value};
use crate::object::{controller_reference, name, uid};

/// The names of the claim templates.
pub(super) fn templates(set: &StatefulSet) -> impl Iterator<Item = &str> {
    set.spec.volume_claim_templates.iter().flatten().map(|template| name(&template.metadata))
}

/// The name of the claim that the pod `ordinal` has of a template.
pub(super) fn name_of(set: &StatefulSet, template: &str, ordinal: i64) -> String {
    format!("{template}-{}", identity::pod_name(set, ordinal))
}

/// The names of the sets that a claim of this name may belong to, each with the template.
pub(super) fn owners_of(claim: &str) -> impl Iterator<Item = (&str, &str)> {
    let prefix = identity::split(claim).map_or("", |(prefix, _)| prefix);
    prefix.match_indices('-').map(|(at, _)| (&prefix[..at], &prefix[at + 1..]))
}

/// The claims of a pod that is to be made, without those that `there` says are there.
pub(super) fn missing(set: &StatefulSet, ordinal: i64, there: impl Fn(&str) -> bool) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let make = |template: &PersistentVolumeClaim| {
        let claim_name = name_of(set, name(&template.metadata), ordinal);
        (!there(&claim_name)).then(|| make(set, template, claim_name))
    };
    templates.filter_map(make).collect()
}

fn make(set: &StatefulSet, template: &PersistentVolumeClaim, claim_name: String) -> PersistentVolumeClaim {
    let mut labels = template.metadata.labels.clone().unwrap_or_default();
    labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
    let metadata = ObjectMeta {
        name: Some(claim_name),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: template.metadata.annotations.clone(),
        finalizers: template.metadata.finalizers.clone(),
        owner_references: goes_with_set(set).then(|| vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None }
}

fn deletes(set: &StatefulSet, when: fn(&StatefulSetPersistentVolumeClaimRetentionPolicy) -> &Option<String>) -> bool {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    policy.and_then(|policy| when(policy).as_deref()) == Some("Delete")
}

fn goes_with_set(set: &StatefulSet) -> bool {
    deletes(set, |policy| &policy.when_deleted)
}

fn goes_with_pod(set: &StatefulSet) -> bool {
    deletes(set, |policy| &policy.when_scaled)
}

/// Whether a reference names `owner`, whatever incarnation.
fn names<K: Kind>(reference: &OwnerReference, owner: &K) -> bool {
    reference.api_version == K::API_VERSION && reference.kind == K::KIND && reference.name == name(owner.metadata())
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether the first reference that names `owner` means an earlier incarnation.
fn stale<K: Kind>(claim: &PersistentVolumeClaim, owner: &K) -> bool {
    let named = owners(claim).iter().find(|reference| names(reference, owner));
    named.is_some_and(|reference| reference.uid != uid(owner.metadata()))
}

/// Whether the claim is about to go with a pod that had the number before: a new pod waits for that.
pub(super) fn goes_with_earlier_pod(set: &StatefulSet, claim: &PersistentVolumeClaim, ordinal: i64) -> bool {
    let pod_name = identity::pod_name(set, ordinal);
    let pod = Pod { metadata: ObjectMeta { name: Some(pod_name), ..ObjectMeta::default() }, ..Pod::default() };
    goes_with_pod(set) && stale(claim, &pod)
}

/// Whether somebody else manages a claim that should go with the set or its pod.
pub(super) fn managed_by_others(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let other = |reference: &OwnerReference| {
        reference.controller == Some(true) && !names(reference, set) && !names(reference, pod)
    };
    (goes_with_set(set) || goes_with_pod(set)) && owners(claim).iter().any(other)
}

/// Gives a claim the owners that it should have. `surplus`: its pod is one too many. Nothing if it has them, or if they
/// are not for this set to change.
pub(super) fn settle(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim, surplus: bool) -> Option<Action> {
    if stale(claim, set) || stale(claim, pod) {
        return None;
    }
    let has = |owner: &str| owners(claim).iter().any(|reference| reference.uid == owner);
    let (set_uid, pod_uid) = (uid(&set.metadata), uid(&pod.metadata));
    let have = (has(set_uid), has(pod_uid));
    let mut left: Vec<OwnerReference> = owners(claim).to_vec();
    left.retain(|reference| !names(reference, set) && !names(reference, pod));
    if managed_by_others(set, pod, claim) {
        return (have.0 || have.1).then(|| write(claim, &left));
    }
    let for_pod = goes_with_pod(set) && surplus;
    let want = (goes_with_set(set) && !for_pod, for_pod);
    let ours = owners(claim).iter().filter(|reference| [set_uid, pod_uid].contains(&reference.uid.as_str()));
    if have == want && ours.into_iter().all(|reference| reference.controller == Some(true)) {
        return None;
    }
    if want.0 {
        left.push(controller_reference(set));
    }
    if want.1 {
        left.push(controller_reference(pod));
    }
    Some(write(claim, &left))
}

fn write(claim: &PersistentVolumeClaim, owners: &[OwnerReference]) -> Action {
    patch(claim, None, json!({"metadata": {"ownerReferences": to_value(&owners)}}))
}
