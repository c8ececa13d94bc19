//! The namespaces and the PriorityClasses that every cluster has, and whatever else is given as data.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use kontiki_model::{GroupResource, ObjectKey, edition};
use serde_json::{Value, json};

use crate::action::{Action, Patch, Plan, create};

/// The namespaces' names.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The classes: name, value, and who is to use it (`pkg/apis/scheduling/v1/helpers.go`).
pub const PRIORITY_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Makes the namespaces of which `namespace` says that they are missing, then the classes likewise.
#[must_use]
pub fn plan(namespace: impl Fn(&str) -> bool, class: impl Fn(&str) -> bool) -> Plan {
    let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let namespaces = NAMESPACES
        .iter()
        .filter(|name| !namespace(name))
        .map(|name| create(&Namespace { metadata: named(name), ..Namespace::default() }, None));
    let classes = PRIORITY_CLASSES.iter().filter(|(name, ..)| !class(name)).map(|&(name, value, description)| {
        let (value, description) = (Some(value), Some(description.to_owned()));
        create(&PriorityClass { metadata: named(name), value, description, ..PriorityClass::default() }, None)
    });
    let missing: Vec<_> = namespaces.chain(classes).collect();
    Plan::new(if missing.is_empty() { "they are there" } else { "some are missing" }, missing)
}

/// An object that is part of a cluster and in no namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// API group.
    pub group: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// The object.
    pub object: Value,
}

impl Given {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// Makes the objects of which nothing is `stored`, in order, and brings those up to date that are of an earlier edition.
#[must_use]
pub fn complete<B: AsRef<[u8]>>(objects: &[Given], stored: impl Fn(&Given) -> Option<B>) -> Plan {
    let write = |given: &Given| match stored(given) {
        Some(there) => renewed(given, there.as_ref()),
        None => Some(Action::Create {
            group: given.group,
            resource: given.resource,
            namespace: None,
            object: given.object.clone(),
            announce: None,
        }),
    };
    let writes: Vec<_> = objects.iter().filter_map(write).collect();
    Plan::new(if writes.is_empty() { "they are there" } else { "some are missing or of an earlier edition" }, writes)
}

/// Gives an object the spec of a later edition. Whatever else somebody has given it stays.
fn renewed(given: &Given, stored: &[u8]) -> Option<Action> {
    let wanted = edition::edition(&given.object).filter(|edition| *edition > 0)?;
    let stored: Value = serde_json::from_slice(stored).ok()?;
    let metadata = &stored["metadata"];
    if !metadata["deletionTimestamp"].is_null() || edition::edition(&stored)? >= wanted {
        return None;
    }
    let annotations = json!({edition::ANNOTATION: wanted.to_string()});
    let body = json!({"metadata": {"uid": metadata["uid"], "annotations": annotations}, "spec": given.object["spec"]});
    let resource = GroupResource { group: given.group, resource: given.resource };
    let key = ObjectKey::new(resource, None, given.name());
    Some(Action::Patch(Patch { key, subresource: None, body, announce: None }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::object::name;
    use crate::testing::{Cluster, meta, show};

    #[test]
    fn only_what_is_missing_is_made() {
        let all = "default kube-system kube-public kube-node-lease system-node-critical system-cluster-critical";
        for (there, expect, why) in [
            ("", all.to_owned(), "some are missing"),
            (
                "default kube-public own system-node-critical",
                "kube-system kube-node-lease system-cluster-critical".to_owned(),
                "some are missing",
            ),
            (all, String::new(), "they are there"),
        ] {
            let there = |name: &str| there.split_whitespace().any(|there| there == name);
            let plan = plan(there, there);
            let expect: Vec<_> = expect.split_whitespace().map(|name| format!("+{name}")).collect();
            assert_eq!((show(&plan.actions), plan.why), (expect.join(" "), why));
        }
    }

    #[test]
    fn what_is_given_is_made_once() {
        let given = |name: &str| Given { group: "g", resource: "things", object: json!({"metadata": {"name": name}}) };
        let objects = [given("a"), given("b")];
        for (there, expect) in [("", "+a +b"), ("a", "+b"), ("a b", "")] {
            let plan = complete(&objects, |given| there.split(' ').any(|there| there == given.name()).then_some("{}"));
            assert_eq!(show(&plan.actions), expect);
        }
    }

    #[test]
    fn an_earlier_edition_is_renewed_and_nothing_else() {
        let object = |metadata: Value, spec: u8| json!({"metadata": metadata, "spec": {"v": spec}});
        let at =
            |edition: &str| json!({"name": "a", "uid": "u", "annotations": {edition::ANNOTATION: edition, "own": "x"}});
        let objects = [Given { group: "g", resource: "things", object: object(at("2"), 2) }];
        for (name, stored, is_renewed) in [
            ("from before there were editions", object(json!({"name": "a", "uid": "u"}), 1), true),
            ("an earlier one", object(at("1"), 1), true),
            ("this one", object(at("2"), 2), false),
            ("this one, changed by somebody", object(at("2"), 7), false),
            ("a later server's", object(at("3"), 3), false),
            ("somebody's own", object(at("own"), 7), false),
            ("on its way out", object(json!({"name": "a", "uid": "u", "deletionTimestamp": "t"}), 1), false),
        ] {
            let plan = complete(&objects, |_| Some(stored.to_string()));
            let bodies: Vec<_> = plan
                .actions
                .iter()
                .map(|action| match action {
                    Action::Patch(patch) => patch.body.clone(),
                    other => panic!("{name}: {other:?}"),
                })
                .collect();
            let annotations = json!({edition::ANNOTATION: "2"});
            let body = json!({"metadata": {"uid": "u", "annotations": annotations}, "spec": {"v": 2}});
            assert_eq!(bodies, if is_renewed { vec![body] } else { Vec::new() }, "{name}");
        }
    }

    proptest! {
        #[test]
        fn rests_with_all_of_them(there in prop::sample::subsequence(NAMESPACES.to_vec(), 0..=4), class: bool) {
            let mut cluster = Cluster::default();
            for name in there {
                let metadata = ObjectMeta { namespace: None, ..meta(name) };
                cluster.add(&Namespace { metadata, ..Namespace::default() });
            }
            if class {
                let metadata = ObjectMeta { namespace: None, ..meta(PRIORITY_CLASSES[0].0) };
                cluster.add(&PriorityClass { metadata, ..PriorityClass::default() });
            }
            let rested = cluster.settle(2, |cluster| {
                let (namespaces, classes) = (cluster.list::<Namespace>(), cluster.list::<PriorityClass>());
                let namespace = |wanted: &str| namespaces.iter().any(|there| name(&there.metadata) == wanted);
                plan(namespace, |wanted| classes.iter().any(|there| name(&there.metadata) == wanted)).actions
            });
            prop_assert!(rested, "{}", cluster.trace());
            prop_assert_eq!(cluster.list::<Namespace>().len(), NAMESPACES.len());
            prop_assert_eq!(cluster.list::<PriorityClass>().len(), PRIORITY_CLASSES.len());
        }
    }
}
