//! The namespaces and the PriorityClasses that every cluster has, and whatever else is given as data.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde_json::Value;

use crate::action::{Action, Plan, create};

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

/// Makes the objects of which `there` says that they are missing, in order.
#[must_use]
pub fn complete(objects: &[Given], there: impl Fn(&Given) -> bool) -> Plan {
    let make = |given: &Given| Action::Create {
        group: given.group,
        resource: given.resource,
        namespace: None,
        object: given.object.clone(),
        announce: None,
    };
    let missing: Vec<_> = objects.iter().filter(|given| !there(given)).map(make).collect();
    Plan::new(if missing.is_empty() { "they are there" } else { "some are missing" }, missing)
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
            let plan = complete(&objects, |given| there.split(' ').any(|there| there == given.name()));
            assert_eq!(show(&plan.actions), expect);
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
