//! What a pod takes of the node's disk, and whether that is more than it may.
//!
//! Invariants
//! - Nothing is measured of a pod that nothing limits.
//!
//! Not here: measuring, and what is done to the pod (the agent's worker).

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use kontiki_model::Quantity;

use crate::{
    resources, rules,
    volumes::{Medium, medium},
};

/// Between two measurements, as kubelet's.
pub const PERIOD: Duration = Duration::from_secs(10);
const STORAGE: &str = "ephemeral-storage";

/// Bytes on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Of emptyDir volumes that are not in memory, by name.
    pub volumes: BTreeMap<String, u64>,
    /// Of containers' writable layers and logs, by name.
    pub containers: BTreeMap<String, u64>,
}

/// The emptyDir volumes that are on the disk, and their limits.
pub fn volumes(spec: &PodSpec) -> impl Iterator<Item = (&str, Option<&str>)> {
    let on_disk = |source: &&EmptyDirVolumeSource| medium(source) == Medium::Disk;
    let all = spec.volumes.iter().flatten();
    all.filter_map(move |volume| {
        let source = volume.empty_dir.as_ref().filter(on_disk)?;
        Some((volume.name.as_str(), source.size_limit.as_ref().map(|limit| limit.0.as_str())))
    })
}

/// Whether there is a limit to what the pod may take.
#[must_use]
pub fn limited(spec: &PodSpec) -> bool {
    let containers = rules::containers(spec).any(|container| resources::limit(container, STORAGE).is_some());
    containers || volumes(spec).any(|(_, limit)| limit.and_then(bytes).is_some())
}

fn bytes(limit: &str) -> Option<u64> {
    let bytes = limit.parse::<Quantity>().ok()?.units();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Why a pod that takes so much must go, in kubelet's words.
#[must_use]
pub fn excess(spec: &PodSpec, used: &DiskUse) -> Option<String> {
    for (name, limit) in volumes(spec) {
        let (Some(limit), Some(used)) = (limit, used.volumes.get(name)) else { continue };
        if bytes(limit).is_some_and(|bytes| *used > bytes) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "));
        }
    }
    let limits = || rules::containers(spec).filter_map(|c| Some((c, resources::limit(c, STORAGE)?)));
    let allowed = limits().map(|(_, limit)| limit).reduce(Quantity::plus);
    let all: u64 = used.volumes.values().chain(used.containers.values()).sum();
    if let Some(allowed) = allowed.filter(|allowed| above(all, *allowed)) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {allowed}. "));
    }
    let (container, _) = limits().find(|(c, limit)| used.containers.get(&c.name).is_some_and(|u| above(*u, *limit)))?;
    let declared = container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?;
    let (name, limit) = (&container.name, &declared.0);
    Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "))
}

fn above(used: u64, limit: Quantity) -> bool {
    i64::try_from(used).unwrap_or(i64::MAX) > limit.units()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn who_takes_too_much_is_named() {
        let limit = "resources: {limits: {ephemeral-storage: 1Ki}}";
        for (name, spec, volume, container, limited_, expect) in [
            ("nothing is limited", "containers: [{name: a}]".to_owned(), 9999, 9999, false, None),
            (
                "a volume",
                "containers: [{name: a}], volumes: [{name: v, emptyDir: {sizeLimit: 1Ki}}]".to_owned(),
                1025,
                0,
                true,
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". "),
            ),
            (
                "a volume in memory is the kernel's to limit",
                "containers: [{name: a}], volumes: [{name: v, emptyDir: {sizeLimit: 1Ki, medium: Memory}}]".to_owned(),
                1025,
                0,
                false,
                None,
            ),
            ("as much as it may", format!("containers: [{{name: a, {limit}}}]"), 24, 1000, true, None),
            (
                "the pod",
                format!("containers: [{{name: a, {limit}}}]"),
                25,
                1000,
                true,
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 1024. "),
            ),
            (
                "a container, not the pod",
                format!("containers: [{{name: a, {limit}}}, {{name: b, {limit}}}]"),
                0,
                1025,
                true,
                Some("Container a exceeded its local ephemeral storage limit \"1Ki\". "),
            ),
        ] {
            let pod = pod(&spec);
            let spec = pod.spec.expect("a spec");
            let used = DiskUse { volumes: [("v".into(), volume)].into(), containers: [("a".into(), container)].into() };
            assert_eq!((limited(&spec), excess(&spec, &used).as_deref()), (limited_, expect), "{name}");
        }
    }
}
