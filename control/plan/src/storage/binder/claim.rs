//! What becomes of a claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::find::{best, mismatch};
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, COMPONENT, PROVISIONERS, SELECTED_NODE, annotations, bound_uid,
    class_of_claim, set_aside, unbound, volume_of,
};
use crate::action::{Action, EventRecord, Patch, Plan, patch_to, reference};
use crate::object::{annotation, deleting, name, uid};

/// What a plan is made from.
pub struct View {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Its class, if there is one.
    pub class: Option<Arc<StorageClass>>,
    /// The volume that it names, if there is one.
    pub volume: Option<Arc<PersistentVolume>>,
    /// The volumes of its class, and those that were put aside for it.
    pub candidates: Vec<Arc<PersistentVolume>>,
    /// A pod that names it and has no node yet.
    pub consumer: Option<String>,
}

/// Decides the next writes.
#[must_use]
pub fn plan(view: &View) -> Plan {
    if unbound(&view.claim) { plan_unbound(view) } else { plan_bound(view) }
}

fn plan_unbound(view: &View) -> Plan {
    let claim = &view.claim;
    if deleting(&claim.metadata) {
        return Plan::rest("it is on its way out");
    }
    let Some(wanted) = volume_of(claim) else { return look(view) };
    let Some(volume) = view.volume.as_deref() else {
        return pending(claim, "its volume is not there yet", None);
    };
    let spoken_for = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    if spoken_for && set_aside(volume, claim) {
        return bind(claim, volume);
    }
    if spoken_for {
        let ours = annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_some();
        let message = format!("volume \"{wanted}\" already bound to a different claim.");
        let event = ours.then(|| warn(claim, "FailedBinding", message));
        return pending(claim, "its volume is another claim's", event);
    }
    match claim.spec.as_ref().and_then(|spec| mismatch(claim, spec, volume)) {
        None => bind(claim, volume),
        Some(what) => {
            let message = format!("Cannot bind to requested volume \"{wanted}\": {}", what.message(wanted));
            pending(claim, "its volume does not fit", Some(warn(claim, "VolumeMismatch", message)))
        }
    }
}

/// It takes any volume that fits.
fn look(view: &View) -> Plan {
    let claim = &view.claim;
    let selected = annotation(&claim.metadata, SELECTED_NODE).is_some();
    let mode = view.class.as_ref().and_then(|class| class.volume_binding_mode.as_deref());
    let waits = mode == Some("WaitForFirstConsumer");
    if let Some(volume) = best(claim, &view.candidates, waits) {
        return bind(claim, volume);
    }
    if waits && !selected {
        let event = match &view.consumer {
            Some(pod) => say(claim, "WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            None => {
                say(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding".into())
            }
        };
        return pending(claim, "it waits for its first consumer", Some(event));
    }
    match class_of_claim(claim) {
        "" => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            pending(claim, "no volume fits", Some(say(claim, "FailedBinding", message.into())))
        }
        class => provision(view, class),
    }
}

/// Somebody else is to make a volume.
fn provision(view: &View, class: &str) -> Plan {
    let claim = &view.claim;
    let Some(known) = view.class.as_deref() else {
        let message = format!("storageclass.storage.k8s.io \"{class}\" not found");
        return pending(claim, "its class is not there", Some(warn(claim, "ProvisioningFailed", message)));
    };
    let provisioner = known.provisioner.as_str();
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return pending(claim, "nobody can make a volume for it", Some(warn(claim, "ProvisioningFailed", message)));
    }
    let mut new = claim.as_ref().clone();
    let mut own = annotations(&new.metadata);
    for key in PROVISIONERS {
        own.insert(key.to_owned(), provisioner.to_owned());
    }
    new.metadata.annotations = Some(own);
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let event = say(claim, "ExternalProvisioning", message);
    match patch_to(claim.as_ref(), &new, None) {
        Some(action) => Plan::new("a provisioner is asked for a volume", vec![action, Action::Event(event)]),
        None => pending(claim, "a volume is being made for it", Some(event)),
    }
}

/// It stays without a volume.
fn pending(claim: &PersistentVolumeClaim, why: &'static str, event: Option<EventRecord>) -> Plan {
    let mut actions: Vec<Action> = status(claim, "Pending", None).into_iter().collect();
    actions.extend(event.map(Action::Event));
    Plan::new(why, actions)
}

fn plan_bound(view: &View) -> Plan {
    let claim = &view.claim;
    let lost = |reason, message: &str| {
        let action = status(claim, "Lost", None);
        let told = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
        let event = (!told).then(|| warn(claim, reason, message.into()));
        Plan::new("its volume is lost", action.into_iter().map(|action| announced(action, event.as_ref())).collect())
    };
    if volume_of(claim).is_none() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = view.volume.as_deref() else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        None => bind(claim, volume),
        Some(reference) if bound_uid(reference) == uid(&claim.metadata) => bind(claim, volume),
        Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}

fn announced(action: Action, event: Option<&EventRecord>) -> Action {
    match action {
        Action::Patch(patch) => Action::Patch(Patch { announce: event.cloned(), ..patch }),
        other => other,
    }
}

/// The next step of a binding: the volume names the claim, then both say so, then the claim shows what it has.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    if let Some(action) = set_volume_aside(claim, volume) {
        return Plan::new("its volume is taken", vec![action]);
    }
    let actions: Vec<Action> =
        super::volume::phase(volume, "Bound", None).into_iter().chain(bind_claim(claim, volume)).collect();
    if !actions.is_empty() {
        return Plan::new("it is bound", actions);
    }
    match status(claim, "Bound", Some(volume)) {
        Some(action) => Plan::new("it shows what it has", vec![action]),
        None => Plan::rest("it is bound"),
    }
}

/// The volume names the claim from now on; nothing if it does.
#[must_use]
pub fn set_volume_aside(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Action> {
    let mut new = volume.clone();
    let spec = new.spec.get_or_insert_default();
    let same = spec
        .claim_ref
        .as_ref()
        .is_some_and(|reference| set_aside(volume, claim) && bound_uid(reference) == uid(&claim.metadata));
    if same {
        return None;
    }
    spec.claim_ref = Some(ObjectReference { field_path: None, ..reference(claim) });
    if !set_aside(volume, claim) {
        let mut own = annotations(&new.metadata);
        own.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
        new.metadata.annotations = Some(own);
    }
    patch_to(volume, &new, None)
}

fn bind_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Action> {
    let mut new = claim.clone();
    let (wanted, mut own) = (name(&volume.metadata), annotations(&new.metadata));
    if volume_of(claim) != Some(wanted) {
        new.spec.get_or_insert_default().volume_name = Some(wanted.to_owned());
        own.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    own.insert(BIND_COMPLETED.into(), "yes".into());
    new.metadata.annotations = Some(own);
    patch_to(claim, &new, None)
}

/// The patch of a claim's status to a phase. How much it has is written when it gets there: later both may differ for
/// a reason, while a volume grows.
fn status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Option<Action> {
    let mut new = claim.clone();
    let status = new.status.get_or_insert_default();
    let entered = status.phase.as_deref() != Some(phase);
    status.phase = Some(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref()) {
        None => {
            status.access_modes = None;
            status.capacity = None;
        }
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            if entered {
                status.capacity.clone_from(&spec.capacity);
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    patch_to(claim, &new, Some("status"))
}

fn say(claim: &PersistentVolumeClaim, reason: &str, message: String) -> EventRecord {
    EventRecord::normal(reference(claim), COMPONENT, reason, message)
}

fn warn(claim: &PersistentVolumeClaim, reason: &str, message: String) -> EventRecord {
    EventRecord::warning(reference(claim), COMPONENT, reason, message)
}
