//! Which deployments a change concerns.

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::recreates;
use crate::key::NamespacedName;
use crate::object::{controller, namespace};
use crate::pod;
use crate::selection::Selects as _;

/// Those that manage or managed a ReplicaSet, and if nobody does, those that may adopt it.
pub fn by_set(
    old: Option<&ReplicaSet>,
    new: Option<&ReplicaSet>,
    selecting: impl Fn(&ReplicaSet) -> Vec<Arc<Deployment>>,
) -> Vec<NamespacedName> {
    let mut keys = Vec::new();
    for set in old.into_iter().chain(new) {
        match controller(&set.metadata) {
            Some(owner) if owner.kind == Deployment::KIND => {
                keys.push(NamespacedName::new(namespace(&set.metadata), &owner.name));
            }
            Some(_) => {}
            None => {
                let candidates = selecting(set).into_iter().filter(|deployment| deployment.selects(&set.metadata));
                keys.extend(candidates.map(|deployment| NamespacedName::of(&deployment.metadata)));
            }
        }
    }
    keys.dedup();
    keys
}

/// The one that waits for the end of a pod: only a recreation looks at pods themselves.
pub fn by_pod(
    old: Option<&Pod>,
    new: Option<&Pod>,
    set: impl FnOnce(&NamespacedName) -> Option<Arc<ReplicaSet>>,
    deployment: impl FnOnce(&NamespacedName) -> Option<Arc<Deployment>>,
) -> Option<NamespacedName> {
    let pod = old.filter(|_| new.is_none_or(pod::finished))?;
    let space = namespace(&pod.metadata);
    let owner = controller(&pod.metadata).filter(|owner| owner.kind == ReplicaSet::KIND)?;
    let set = set(&NamespacedName::new(space, &owner.name))?;
    let owner = controller(&set.metadata).filter(|owner| owner.kind == Deployment::KIND)?;
    let key = NamespacedName::new(space, &owner.name);
    deployment(&key).is_some_and(|deployment| recreates(&deployment)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::controller_reference;
    use crate::testing::{pods, replica_set};
    use crate::workloads::deployment::tests::deployment;

    /// A set: `web` of the deployment, `web?` nobody's, `web^` a pod's.
    fn set(text: &str) -> Option<ReplicaSet> {
        let name = text.trim_end_matches(['?', '^']);
        let mut set = replica_set(name, 1);
        set.metadata.labels = set.spec.selector.match_labels.clone();
        set.metadata.owner_references = match &text[name.len()..] {
            "" => Some(vec![controller_reference(&deployment(1, "1,0", "a"))]),
            "^" => Some(vec![controller_reference(pods("web", "a")[0].as_ref())]),
            _ => None,
        };
        (!name.is_empty()).then_some(set)
    }

    #[test]
    fn a_set_concerns_its_manager_and_who_may_adopt_it() {
        for (name, old, new, expect) in [
            ("a set of the deployment", "", "web", "ns/web"),
            ("its end", "web", "", "ns/web"),
            ("nobody's", "", "web?", "ns/web"),
            ("nobody's that does not match", "", "other?", ""),
            ("somebody else's", "", "web^", ""),
            ("a set is let go and no longer matches", "web", "other?", "ns/web"),
        ] {
            let selecting = |_: &ReplicaSet| vec![Arc::new(deployment(1, "1,0", "a"))];
            let keys = by_set(set(old).as_ref(), set(new).as_ref(), selecting);
            assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expect, "{name}");
        }
    }

    #[test]
    fn only_a_recreation_waits_for_the_end_of_pods() {
        for (name, strategy, old, new, expect) in [
            ("an end", "recreate", "a", "", true),
            ("done", "recreate", "a", "a.", true),
            ("a change", "recreate", "a", "a!", false),
            ("a beginning", "recreate", "", "a", false),
            ("a stray's end", "recreate", "a?", "", false),
            ("rolling", "1,0", "a", "", false),
        ] {
            let (old, new) = (pods("web", old), pods("web", new));
            let set = |_: &NamespacedName| set("web").map(Arc::new);
            let deployment = |_: &NamespacedName| Some(Arc::new(deployment(1, strategy, "a")));
            let key = by_pod(old.first().map(Arc::as_ref), new.first().map(Arc::as_ref), set, deployment);
            assert_eq!(key.is_some(), expect, "{name}");
        }
    }
}
