//! The claims behind generic ephemeral volumes: made for a pod, and gone with it.
//!
//! A claim of that name that is not the pod's own is left alone: the scheduler says why the pod waits.
//!
//! Source: `pkg/controller/volume/ephemeral` of upstream's.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::protection::claim_name;
use crate::action::{Action, Plan, create};
use crate::object::{controller_reference, deleting};

/// What a plan is made from.
pub struct View {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Names of the claims that are there, of those that the pod's volumes name.
    pub claims: BTreeSet<String>,
}

/// Makes the claims that are missing.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let pod = view.pod.as_ref();
    if deleting(&pod.metadata) {
        return Plan::rest("it is on its way out");
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let missing: Vec<Action> = volumes.filter_map(|volume| claim(pod, volume, &view.claims)).collect();
    if missing.is_empty() { Plan::rest("its claims are there") } else { Plan::new("claims are missing", missing) }
}

fn claim(pod: &Pod, volume: &Volume, there: &BTreeSet<String>) -> Option<Action> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let name = claim_name(pod, volume).filter(|name| !there.contains(name))?;
    let meta = template.metadata.clone().unwrap_or_default();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    };
    Some(create(&claim, None))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaimTemplate};

    use super::*;
    use crate::object::time;
    use crate::testing::{NOW, map, pod, show};

    fn with_volume(names: &[&str]) -> Pod {
        let mut pod = pod("p", &[]);
        let metadata = Some(ObjectMeta { labels: Some(map(&[("a", "b")])), ..ObjectMeta::default() });
        let template = PersistentVolumeClaimTemplate { metadata, ..PersistentVolumeClaimTemplate::default() };
        let own = |name: &&str| Volume {
            name: (*name).to_owned(),
            ephemeral: Some(EphemeralVolumeSource { volume_claim_template: Some(template.clone()) }),
            ..Volume::default()
        };
        let plain = Volume { name: "plain".into(), ..Volume::default() };
        pod.spec.as_mut().unwrap().volumes = Some(names.iter().map(own).chain([plain]).collect());
        pod
    }

    #[test]
    fn a_claim_is_made_for_each_volume_that_has_none() {
        for (name, volumes, there, expect) in [
            ("none wanted", &[][..], &[][..], ""),
            ("one", &["v"], &[], "+p-v"),
            ("two", &["v", "w"], &[], "+p-v +p-w"),
            ("one of two is there", &["v", "w"], &["p-v"], "+p-w"),
            ("all are there", &["v"], &["p-v"], ""),
        ] {
            let claims = there.iter().map(|name| (*name).to_owned()).collect();
            let view = View { pod: Arc::new(with_volume(volumes)), claims };
            assert_eq!(show(&plan(&view).actions), expect, "{name}");
        }
    }

    #[test]
    fn it_is_the_pods_own_and_like_the_template() {
        let view = View { pod: Arc::new(with_volume(&["v"])), claims: BTreeSet::new() };
        let Action::Create { object, .. } = &plan(&view).actions[0] else { unreachable!("a claim is made") };
        assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "Pod");
        assert_eq!(object["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!(object["metadata"]["labels"]["a"], "b");
        let mut going = with_volume(&["v"]);
        going.metadata.deletion_timestamp = Some(time(NOW));
        assert!(plan(&View { pod: Arc::new(going), claims: BTreeSet::new() }).actions.is_empty());
    }
}
