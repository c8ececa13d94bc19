//! The volume for a claim (upstream's `FindMatchingVolume`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use kontiki_model::Quantity;
use kontiki_model::selector::Selector;

use super::{class_of_claim, class_of_volume, set_aside, storage};
use crate::object::{deleting, label, name};

/// The volume that was put aside for the claim, or else, unless it waits for its consumer, the smallest that fits, of
/// those that can be mounted in the fewest ways.
pub fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    waits: bool,
) -> Option<&'a PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let fitting = || volumes.iter().map(Arc::as_ref).filter(|volume| fits(claim, spec, volume));
    if let Some(volume) =
        fitting().filter(|volume| set_aside(volume, claim)).min_by_key(|volume| name(&volume.metadata))
    {
        return Some(volume);
    }
    if waits {
        return None;
    }
    best_of(claim, volumes.iter().filter(|volume| free(volume))).into_iter().next().map(Arc::as_ref)
}

/// Those of the volumes that fit a claim and were put aside for nobody, the best first.
#[must_use]
pub fn best_of<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a Arc<PersistentVolume>>,
) -> Vec<&'a Arc<PersistentVolume>> {
    let Some(spec) = claim.spec.as_ref() else { return Vec::new() };
    let selector = match &spec.selector {
        Some(selector) => Selector::from_spec(selector),
        None => Some(Selector::default()),
    };
    let Some(selector) = selector else { return Vec::new() };
    let mut fitting: Vec<_> = volumes
        .filter(|volume| fits(claim, spec, volume) && class_of_volume(volume) == class_of_claim(claim))
        .filter(|volume| selector.matches_with(|key| label(&volume.metadata, key)))
        .collect();
    fitting.sort_by_key(|volume| (modes(volume).len(), capacity(volume), name(&volume.metadata)));
    fitting
}

/// Size, kind, ways to mount it and attributes are right, and it stays.
fn fits(claim: &PersistentVolumeClaim, spec: &PersistentVolumeClaimSpec, volume: &PersistentVolume) -> bool {
    let mine = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) || set_aside(volume, claim);
    mine && mismatch(claim, spec, volume).is_none_or(|what| what == Mismatch::Class)
}

/// Whether nobody has a volume.
#[must_use]
pub fn free(volume: &PersistentVolume) -> bool {
    let spoken_for = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    !spoken_for && phase == Some("Available")
}

/// Why a claim cannot have a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    Going,
    Small,
    Kind,
    Modes,
    Attributes,
    Class,
}

impl Mismatch {
    /// In upstream's words.
    pub fn message(self, volume: &str) -> String {
        match self {
            Self::Going => format!("the volume is marked for deletion \"{volume}\""),
            Self::Small => "requested PV is too small".into(),
            Self::Class => "storageClassName does not match".into(),
            Self::Attributes => "volumeAttributesClassName does not match".into(),
            Self::Kind => "incompatible volumeMode".into(),
            Self::Modes => "incompatible accessMode".into(),
        }
    }
}

/// The first thing that is wrong with a volume for a claim. The class comes last: one that was put aside may have any.
pub fn mismatch(
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    volume: &PersistentVolume,
) -> Option<Mismatch> {
    let own = volume.spec.as_ref()?;
    let kind = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
    let wanted = storage(spec.resources.as_ref().and_then(|needs| needs.requests.as_ref()));
    let all_modes = spec.access_modes.iter().flatten().all(|mode| modes(volume).contains(mode));
    [
        (Mismatch::Going, deleting(&volume.metadata)),
        (Mismatch::Small, capacity(volume) < wanted),
        (Mismatch::Kind, kind(&own.volume_mode) != kind(&spec.volume_mode)),
        (Mismatch::Modes, !all_modes),
        (
            Mismatch::Attributes,
            attributes(&own.volume_attributes_class_name) != attributes(&spec.volume_attributes_class_name),
        ),
        (Mismatch::Class, class_of_volume(volume) != class_of_claim(claim)),
    ]
    .into_iter()
    .find_map(|(what, wrong)| wrong.then_some(what))
}

fn modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}
