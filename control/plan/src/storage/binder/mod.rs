//! The binder of PersistentVolumes: which claim has which volume (upstream's persistent volume controller).
//!
//! Invariants
//! - The volume is written first: a claim names a volume only once the volume names the claim, with its uid.
//! - A claim that was bound once is never bound to another volume; it is `Lost` when its volume is.
//! - A volume whose claim is gone is never given to another claim: people, or whoever deletes it, come first.
//! - What waits for its first consumer is left to the scheduler, unless a volume was put aside for it.
//!
//! Not here: making and erasing what lies behind volumes. That is up to external provisioners, who are told by
//! annotations and phases.

pub mod claim;
mod find;
pub mod volume;

pub use find::{best_of, free};

use std::fmt;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::Quantity;

use crate::key::{Name, NamespacedName};
use crate::object::{Labels, annotation, name, namespace, uid};

/// Who speaks in events.
const COMPONENT: &str = "persistentvolume-controller";
/// Says on a claim that its binding was completed.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Says on either that the binder chose the other.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Says on a volume who made it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Says on a claim who is to make a volume for it, in the newer and the older way.
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Says on a claim on which node its first consumer is to run.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Named a class before there was a field for it.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A claim.
    Claim(NamespacedName),
    /// A volume.
    Volume(Name),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(claim) => write!(f, "claim {claim}"),
            Self::Volume(volume) => write!(f, "volume {volume}"),
        }
    }
}

/// What a plan is made from.
pub enum View {
    /// Of a claim.
    Claim(claim::View),
    /// Of a volume.
    Volume(volume::View),
}

/// Decides the next writes for one claim or volume.
#[must_use]
pub fn plan(view: &View) -> crate::Plan {
    match view {
        View::Claim(view) => claim::plan(view),
        View::Volume(view) => volume::plan(view),
    }
}

/// The class that a claim asks for; empty for none.
#[must_use]
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, CLASS).or(field).unwrap_or_default()
}

/// The class of a volume; empty for none.
#[must_use]
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, CLASS).or(field).unwrap_or_default()
}

/// The volume that a claim names.
#[must_use]
pub fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The claim that a volume names.
#[must_use]
pub fn claim_of(volume: &PersistentVolume) -> Option<NamespacedName> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let (namespace, name) = (claim.namespace.as_deref()?, claim.name.as_deref()?);
    Some(NamespacedName::new(namespace, name))
}

/// Whether a claim has not been bound yet.
#[must_use]
pub fn unbound(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_none()
}

/// Whether a volume was put aside for a claim, by name or for this very one.
fn set_aside(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    names(reference, &claim.metadata)
        && (bound_uid(reference).is_empty() || bound_uid(reference) == uid(&claim.metadata))
}

fn names(reference: &ObjectReference, claim: &ObjectMeta) -> bool {
    reference.name.as_deref() == Some(name(claim)) && reference.namespace.as_deref() == Some(namespace(claim))
}

fn bound_uid(reference: &ObjectReference) -> &str {
    reference.uid.as_deref().unwrap_or_default()
}

/// How much storage some amounts have.
fn storage(amounts: Option<&std::collections::BTreeMap<String, Text>>) -> Quantity {
    amounts.and_then(|amounts| amounts.get("storage")?.0.parse().ok()).unwrap_or_default()
}

fn annotations(meta: &ObjectMeta) -> Labels {
    meta.annotations.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
