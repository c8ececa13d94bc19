//! Which of the pods that a Service selects take its traffic: all but those that a rollout holds back, or that another
//! ReplicaSet of their Deployment has taken over from (`workloads::deployment`).
//!
//! Invariants
//! - Who takes over is said by one annotation of one ReplicaSet, so that the change is one write.
//! - Who has taken over and has no pod that is ready leaves the traffic to the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::rollout::{ALONE, HELD, TRAFFIC};

use crate::key::NamespacedName;
use crate::object::{annotation, controller, deleting, namespace, uid};
use crate::pod;
use crate::selection::Selects as _;

fn traffic(set: &ReplicaSet) -> Option<&str> {
    annotation(&set.metadata, TRAFFIC)
}

/// Those of `pods` that take traffic. `set` gives the ReplicaSet of a name.
pub fn serving(pods: Vec<Arc<Pod>>, set: impl Fn(&NamespacedName) -> Option<Arc<ReplicaSet>>) -> Vec<Arc<Pod>> {
    let mut sets: BTreeMap<String, Arc<ReplicaSet>> = BTreeMap::new();
    let mut looked_up = BTreeSet::new();
    for pod in &pods {
        let Some(owner) = controller(&pod.metadata).filter(|owner| owner.kind == ReplicaSet::KIND) else { continue };
        if looked_up.insert(owner.uid.as_str()) {
            let found = set(&NamespacedName::new(namespace(&pod.metadata), &owner.name));
            let marked = found.filter(|set| uid(&set.metadata) == owner.uid);
            sets.extend(marked.map(|set| (owner.uid.clone(), set)));
        }
    }
    if sets.values().all(|set| traffic(set).is_none()) {
        return pods;
    }
    let manager = |set: &ReplicaSet| controller(&set.metadata).map(|owner| owner.uid.clone());
    let of = |pod: &Pod| controller(&pod.metadata).and_then(|owner| sets.get(&owner.uid));
    let ready = pods.iter().filter(|pod| pod::ready(pod) && !deleting(&pod.metadata)).filter_map(|pod| of(pod));
    let taken: BTreeSet<String> =
        ready.filter(|set| traffic(set) == Some(ALONE)).filter_map(|set| manager(set)).collect();
    let serves = |pod: &Arc<Pod>| {
        of(pod).is_none_or(|set| match traffic(set) {
            Some(ALONE) => true,
            Some(HELD) => false,
            _ => !manager(set).is_some_and(|manager| taken.contains(&manager)),
        })
    };
    pods.into_iter().filter(serves).collect()
}

/// The Services that select pods of a ReplicaSet whose traffic changes.
pub fn by_set(
    old: Option<&ReplicaSet>,
    new: Option<&ReplicaSet>,
    selecting: impl Fn(&ObjectMeta) -> Vec<Arc<Service>>,
) -> Vec<NamespacedName> {
    if old.and_then(traffic) == new.and_then(traffic) {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for set in old.into_iter().chain(new) {
        let template = set.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
        let labels = template.and_then(|metadata| metadata.labels.clone());
        let pod = ObjectMeta { namespace: set.metadata.namespace.clone(), labels, ..ObjectMeta::default() };
        let services = selecting(&pod).into_iter().filter(|service| service.selects(&pod));
        keys.extend(services.map(|service| NamespacedName::of(&service.metadata)));
    }
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;

    use super::*;
    use crate::object::controller_reference;
    use crate::testing::{map, meta, pod, replica_set};

    /// `name:traffic/manager`; the traffic may be empty.
    fn set(text: &str) -> ReplicaSet {
        let (name, rest) = text.split_once(':').unwrap();
        let (mark, manager) = rest.split_once('/').unwrap();
        let mut set = replica_set(name, 1);
        set.metadata.annotations = (!mark.is_empty()).then(|| map(&[(TRAFFIC, mark)]));
        set.metadata.owner_references = Some(vec![controller_reference(&replica_set(manager, 0))]);
        set
    }

    #[test]
    fn traffic_goes_where_rollouts_say() {
        for (name, sets, expect) in [
            ("no rollout", "a:/d b:/d", "a b bare gone"),
            ("new pods are held", "a:/d b:held/d", "a bare gone"),
            ("new pods have taken over", "a:/d b:alone/d", "b bare gone"),
            ("another's have", "a:/d b:alone/e", "a b bare gone"),
            ("they have, and are not ready", "a:/d b!:alone/d", "a b bare gone"),
            ("an odd mark is none", "a:/d b:odd/d", "a b bare gone"),
        ] {
            let unready = sets.contains("b!");
            let sets = sets.replace('!', "");
            let sets: Vec<Arc<ReplicaSet>> = sets.split(' ').map(|text| Arc::new(set(text))).collect();
            let owned = |name: &str| {
                let mut pod = pod(name, &[]);
                pod.metadata.owner_references = Some(vec![controller_reference(&replica_set(name, 0))]);
                if unready && name == "b" {
                    pod.status = None;
                }
                Arc::new(pod)
            };
            let pods = vec![owned("a"), owned("b"), Arc::new(pod("bare", &[])), owned("gone")];
            let find =
                |key: &NamespacedName| sets.iter().find(|set| set.metadata.name.as_ref() == Some(&key.name)).cloned();
            let left: Vec<String> = serving(pods, find).iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            assert_eq!(left.join(" "), expect, "{name}");
        }
    }

    #[test]
    fn a_change_of_traffic_concerns_services() {
        let selecting = |_: &ObjectMeta| {
            let service = |name: &str| {
                let spec = ServiceSpec { selector: Some(map(&[("app", name)])), ..ServiceSpec::default() };
                Arc::new(Service { metadata: meta(name), spec: Some(spec), status: None })
            };
            vec![service("web"), service("other")]
        };
        for (old, new, expect) in [
            ("", "web:held/d", "ns/web"),
            ("web:held/d", "web:alone/d", "ns/web"),
            ("web:alone/d", "", "ns/web"),
            ("web:/d", "web:/e", ""),
            ("", "web:/d", ""),
        ] {
            let [old, new] = [old, new].map(|text| (!text.is_empty()).then(|| set(text)));
            let keys = by_set(old.as_ref(), new.as_ref(), selecting);
            assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expect);
        }
    }
}
