//! The namespaces that every cluster has.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Plan, create};

/// Their names.
pub const NAMES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes those that `present` says are missing.
#[must_use]
pub fn plan(present: impl Fn(&str) -> bool) -> Plan {
    let namespace = |name: &str| Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let missing: Vec<_> =
        NAMES.iter().filter(|name| !present(name)).map(|name| create(&namespace(name), None)).collect();
    Plan::new(if missing.is_empty() { "they are there" } else { "some are missing" }, missing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::name;
    use crate::testing::{Cluster, meta, show};

    #[test]
    fn only_what_is_missing_is_made() {
        for (there, expect, why) in [
            ("", "+default +kube-system +kube-public +kube-node-lease", "some are missing"),
            ("default kube-public own", "+kube-system +kube-node-lease", "some are missing"),
            ("default kube-system kube-public kube-node-lease", "", "they are there"),
        ] {
            let plan = plan(|name| there.split_whitespace().any(|there| there == name));
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why));
        }
    }

    proptest! {
        #[test]
        fn rests_with_all_of_them(there in prop::sample::subsequence(NAMES.to_vec(), 0..=4)) {
            let mut cluster = Cluster::default();
            for name in there {
                let metadata = ObjectMeta { namespace: None, ..meta(name) };
                cluster.add(&Namespace { metadata, ..Namespace::default() });
            }
            let rested = cluster.settle(2, |cluster| {
                let there = cluster.list::<Namespace>();
                plan(|wanted| there.iter().any(|namespace| name(&namespace.metadata) == wanted)).actions
            });
            prop_assert!(rested, "{}", cluster.trace());
            prop_assert_eq!(cluster.list::<Namespace>().len(), NAMES.len());
        }
    }
}
