//! What becomes of a volume.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{BOUND_BY_CONTROLLER, COMPONENT, PROVISIONED_BY, annotations, bound_uid, volume_of};
use crate::action::{Action, EventRecord, Patch, Plan, patch_to, reference};
use crate::object::{annotation, name, uid};

/// What a plan is made from.
pub struct View {
    /// The volume.
    pub volume: Arc<PersistentVolume>,
    /// The claim of the name that it names, if there is one.
    pub claim: Option<Arc<PersistentVolumeClaim>>,
}

/// Decides the next writes.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let volume = &view.volume;
    let Some(claim_ref) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return enter(volume, "Available", "nobody has it");
    };
    if bound_uid(claim_ref).is_empty() {
        return enter(volume, "Available", "it is put aside");
    }
    let claim = view.claim.as_deref().filter(|claim| uid(&claim.metadata) == bound_uid(claim_ref));
    let Some(claim) = claim else { return release(volume) };
    match volume_of(claim) {
        None => Plan::rest("its claim is being bound"),
        Some(own) if own == name(&volume.metadata) => enter(volume, "Bound", "its claim has it"),
        Some(_) if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            release(volume)
        }
        Some(_) => unbind(volume),
    }
}

fn enter(volume: &PersistentVolume, wanted: &str, why: &'static str) -> Plan {
    Plan::new(why, phase(volume, wanted, None).into_iter().collect())
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or_default()
}

fn current(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Its claim is gone, or has another volume: it goes as its policy says.
fn release(volume: &PersistentVolume) -> Plan {
    if !["Released", "Failed"].contains(&current(volume)) {
        return enter(volume, "Released", "its claim is gone");
    }
    if current(volume) == "Failed" {
        return Plan::rest("it could not be reclaimed");
    }
    let (reason, message) = match policy(volume) {
        "Retain" => return Plan::rest("it is kept"),
        "Delete" if external(volume) => return Plan::rest("its provisioner deletes it"),
        "Delete" => {
            let name = name(&volume.metadata);
            let why = "no deletable volume plugin matched";
            ("VolumeFailedDelete", format!("error getting deleter volume plugin for volume \"{name}\": {why}"))
        }
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => {
            let message = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            ("VolumeUnknownReclaimPolicy", message.to_owned())
        }
    };
    let action = phase(volume, "Failed", Some((reason, message)));
    Plan::new("it cannot be reclaimed", action.into_iter().collect())
}

/// Whether somebody outside made it, who deletes it as well.
fn external(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY).is_some_and(|by| !by.is_empty() && !by.starts_with("kubernetes.io/"))
}

/// Its claim has another volume: whatever the binder chose is taken back, what people chose stays put aside.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut new = volume.clone();
    let spec = new.spec.get_or_insert_default();
    if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
        spec.claim_ref = None;
        let mut own = annotations(&new.metadata);
        own.remove(BOUND_BY_CONTROLLER);
        new.metadata.annotations = Some(own).filter(|own| !own.is_empty());
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    Plan::new("its claim has another volume", patch_to(volume, &new, None).into_iter().collect())
}

/// The patch of a volume's phase; with a problem (a reason for people, and what it is) its message as well.
pub(super) fn phase(volume: &PersistentVolume, wanted: &str, problem: Option<(&str, String)>) -> Option<Action> {
    if current(volume) == wanted {
        return None;
    }
    let mut new = volume.clone();
    let status = new.status.get_or_insert_default();
    status.phase = Some(wanted.to_owned());
    status.message = problem.as_ref().map(|(_, message)| message.clone());
    let Some(Action::Patch(patch)) = patch_to(volume, &new, Some("status")) else { return None };
    let announce = problem.map(|(reason, message)| EventRecord::warning(reference(volume), COMPONENT, reason, message));
    Some(Action::Patch(Patch { announce, ..patch }))
}
