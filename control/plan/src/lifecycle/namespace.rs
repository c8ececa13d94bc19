//! Namespace: emptied, then let go.
//!
//! Invariants
//! - Pods go first (KEP-5080), so that nothing they need (NetworkPolicies, Secrets) goes before
//!   them; then everything else at once.
//! - The `kubernetes` finalizer falls only when the cache of *all* objects shows none in here. The
//!   API creates nothing in a namespace that is going away, so none can appear.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};

use super::gc::Item;
use crate::action::{Action, DeleteHow, Plan, Propagation, patch_to, to_value};
use crate::object::{deleting, name, time};

const FINALIZER: &str = "kubernetes";
/// Most deletions in one plan.
const BURST: usize = 500;

/// What a plan is made from.
pub struct View<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// Everything in it.
    pub content: Vec<Item<'a>>,
}

/// Decides the next writes for one namespace.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let namespace = view.namespace;
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if !deleting(&namespace.metadata) || !finalizers.iter().any(|f| f == FINALIZER) {
        return Plan::rest("it is in use");
    }
    if view.content.is_empty() {
        return Plan::new("nothing is left in it", vec![finalize(namespace)]);
    }
    let mut actions = empty(&view.content);
    let mut next = namespace.clone();
    let status = next.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    for wanted in conditions(&view.content) {
        set(status.conditions.get_or_insert_default(), wanted, now);
    }
    actions.extend(patch_to(namespace, &next, Some("status")));
    let why = match actions.first() {
        Some(Action::Delete { .. }) => "objects are left in it",
        Some(_) => "its status changed",
        None => "what is left in it has to go by itself",
    };
    Plan::new(why, actions)
}

fn finalize(namespace: &Namespace) -> Action {
    let mut next = namespace.clone();
    if let Some(finalizers) = next.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    Action::FinalizeNamespace { name: name(&namespace.metadata).to_owned(), object: to_value(&next) }
}

fn is_pod(item: &Item<'_>) -> bool {
    item.key.group.is_empty() && item.key.resource == "pods"
}

fn empty(content: &[Item<'_>]) -> Vec<Action> {
    let pods_first = content.iter().any(is_pod);
    let doomed = content.iter().filter(|item| !item.deleting && is_pod(item) == pods_first).take(BURST);
    let delete = |item: &Item<'_>| Action::Delete {
        key: item.key.clone(),
        uid: item.uid.to_owned(),
        how: DeleteHow::with(Propagation::Background),
        announce: None,
    };
    doomed.map(delete).collect()
}

/// `(type, status, reason, message)`.
type Wanted = (&'static str, bool, &'static str, String);

fn conditions(content: &[Item<'_>]) -> [Wanted; 5] {
    let (mut kinds, mut finalizers) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for item in content {
        *kinds.entry(format!("{}.{}", item.key.resource, item.key.group)).or_default() += 1;
        for finalizer in item.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let list = |counts: Vec<String>| counts.join(", ");
    let remaining = list(kinds.iter().map(|(kind, n)| format!("{kind} has {n} resource instances")).collect());
    let finalizing = list(finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect());
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        (
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {remaining}"),
        ),
        if finalizers.is_empty() {
            let message = "All content-preserving finalizers finished";
            ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message.into())
        } else {
            let message = format!("Some content in the namespace has finalizers remaining: {finalizing}");
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        },
    ]
}

fn set(conditions: &mut Vec<NamespaceCondition>, (kind, state, reason, message): Wanted, now: Timestamp) {
    let status = if state { "True" } else { "False" };
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let same = |c: &NamespaceCondition| {
        c.status == status && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(&message)
    };
    if old.is_some_and(|at| same(&conditions[at])) {
        return;
    }
    let new = NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(time(now)),
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NamespaceSpec;
    use kontiki_model::{GroupResource, ObjectKey};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, merge, meta, show};

    fn namespace(going: bool) -> Namespace {
        let mut metadata = meta("ns");
        metadata.namespace = None;
        metadata.deletion_timestamp = going.then(|| time(NOW));
        Namespace { metadata, spec: Some(NamespaceSpec { finalizers: Some(vec![FINALIZER.into()]) }), status: None }
    }

    #[test]
    fn pods_go_first_and_the_finalizer_last() {
        for (name, going, content, expect, why) in [
            ("a namespace in use is left alone", false, "pods/a", "", "it is in use"),
            ("pods go first", true, "configmaps/c pods/a pods/b", "-a -b status ns", "objects are left in it"),
            ("the rest waits for pods on their way", true, "configmaps/c pods/a~", "status ns", "its status changed"),
            ("then the rest goes", true, "configmaps/c secrets/s~", "-c status ns", "objects are left in it"),
            ("an empty one is let go", true, "", "finalize ns", "nothing is left in it"),
        ] {
            let keys: Vec<(ObjectKey, bool)> = content
                .split_whitespace()
                .map(|word| {
                    let (resource, object) = word.trim_end_matches('~').split_once('/').unwrap();
                    (ObjectKey::new(GroupResource { group: "", resource }, Some("ns"), object), word.ends_with('~'))
                })
                .collect();
            let content = keys
                .iter()
                .map(|(key, deleting)| Item {
                    key,
                    uid: "u",
                    owners: &[],
                    finalizers: &[],
                    deleting: *deleting,
                    revision: 1,
                })
                .collect();
            let namespace = namespace(going);
            let plan = plan(&View { namespace: &namespace, content }, NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{name}");
        }
    }

    #[test]
    fn conditions_name_what_is_left() {
        let key = ObjectKey::new(GroupResource { group: "apps", resource: "deployments" }, Some("ns"), "d");
        let finalizers = ["example.com/keep".to_owned()];
        let item = Item { key: &key, uid: "u", owners: &[], finalizers: &finalizers, deleting: true, revision: 1 };
        let texts = conditions(&[item]).map(|condition| condition.3);
        assert_eq!(texts[3], "Some resources are remaining: deployments.apps has 1 resource instances");
        assert_eq!(
            texts[4],
            "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
        );
    }

    proptest! {
        /// Whatever lies in it and whatever holds that, all of it is deleted once, pods first; then nothing is written
        /// until it is gone, and the namespace goes with the last of it.
        #[test]
        fn is_emptied_and_let_go(kinds in prop::collection::vec((any::<bool>(), any::<bool>()), 0..6)) {
            let mut namespace = namespace(true);
            // Key, whether something holds it, whether it is being deleted.
            let mut content: Vec<(ObjectKey, bool, bool)> = kinds.iter().enumerate().map(|(number, (pod, held))| {
                let resource = GroupResource { group: "", resource: if *pod { "pods" } else { "configmaps" } };
                (ObjectKey::new(resource, Some("ns"), &format!("o{number}")), *held, false)
            }).collect();
            let mut rests = 0;
            for turn in 0.. {
                prop_assert!(turn < 12, "{content:?}");
                let items = content.iter().map(|(key, _, deleting)| {
                    Item { key, uid: "u", owners: &[], finalizers: &[], deleting: *deleting, revision: 1 }
                });
                let plan = plan(&View { namespace: &namespace, content: items.collect() }, NOW);
                let pods_left = content.iter().any(|(key, ..)| key.resource == "pods");
                if plan.actions.is_empty() {
                    // Those who hold the rest let go.
                    rests += 1;
                    content.retain(|(key, _, _)| pods_left && key.resource != "pods");
                    continue;
                }
                let mut over = false;
                for action in plan.actions {
                    match action {
                        Action::Delete { key, .. } => {
                            prop_assert!(!pods_left || key.resource == "pods");
                            let object = content.iter_mut().find(|(other, ..)| *other == key).unwrap();
                            prop_assert!(!object.2, "deleted twice");
                            object.2 = true;
                            content.retain(|(_, held, deleting)| *held || !*deleting);
                        }
                        Action::Patch(patch) => {
                            let mut value = to_value(&namespace);
                            merge(&mut value, &patch.body);
                            namespace = serde_json::from_value(value).unwrap();
                        }
                        Action::FinalizeNamespace { .. } => over = true,
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                if over {
                    prop_assert!(content.is_empty());
                    break;
                }
            }
            prop_assert!(rests <= 2);
        }
    }
}
