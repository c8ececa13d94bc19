//! Who a pod of a StatefulSet is: its number, its name, its volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use super::claims;
use crate::object::{label, name};
use crate::pod;
use crate::workloads::history::POD_LABEL;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number at the end of a name, and what is before it.
pub(super) fn split(name: &str) -> Option<(&str, i64)> {
    let (parent, digits) = name.rsplit_once('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    // Only what is written as it would be made: neither `web-01` nor `web-+1`.
    (ordinal.to_string() == digits).then_some((parent, i64::from(ordinal)))
}

/// The number of a pod of the set; `None`: its name is not that of one.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    split(name(&pod.metadata)).filter(|(parent, _)| *parent == name(&set.metadata)).map(|(_, ordinal)| ordinal)
}

/// The name of the pod with a number.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", name(&set.metadata))
}

/// The name of the revision that a pod was made from.
pub(super) fn revision(pod: &Pod) -> &str {
    label(&pod.metadata, POD_LABEL).unwrap_or_default()
}

/// The labels that a pod lacks, as they should be.
pub(super) fn missing_labels(pod: &Pod, ordinal: i64) -> Option<[(&'static str, String); 2]> {
    let own = name(&pod.metadata);
    let right = label(&pod.metadata, NAME_LABEL) == Some(own);
    (!right).then(|| [(NAME_LABEL, own.to_owned()), (INDEX_LABEL, ordinal.to_string())])
}

/// The pod with a number, made from the template of `revision`.
pub(super) fn make(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let mut pod = pod::from_template(template, set);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), name.clone());
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    labels.insert(POD_LABEL.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let mut volumes: Vec<Volume> = claims::templates(set).map(|template| volume(set, template, ordinal)).collect();
    let own = spec.volumes.take().unwrap_or_default();
    let kept = own.into_iter().filter(|volume| volumes.iter().all(|claim| claim.name != volume.name));
    let kept: Vec<Volume> = kept.collect();
    volumes.extend(kept);
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

fn volume(set: &StatefulSet, template: &str, ordinal: i64) -> Volume {
    let source =
        PersistentVolumeClaimVolumeSource { claim_name: claims::name_of(set, template, ordinal), read_only: None };
    Volume { name: template.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_plain_numbers() {
        for (name, expect) in [
            ("web-0", Some(("web", 0))),
            ("a-b-12", Some(("a-b", 12))),
            ("web", None),
            ("web-", None),
            ("web-01", None),
            ("web-+1", None),
            ("web-9999999999", None),
        ] {
            assert_eq!(split(name), expect, "{name}");
        }
    }
}
