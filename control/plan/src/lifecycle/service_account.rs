//! ServiceAccount: every namespace in use has one called `default`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Plan, create};
use crate::object::deleting;

/// Name of the account.
pub const NAME: &str = "default";

/// Decides the next write for one namespace; `present` says whether the account is there.
#[must_use]
pub fn plan(namespace: &Namespace, present: bool) -> Plan {
    if deleting(&namespace.metadata) {
        return Plan::rest("its namespace is terminating");
    }
    if present {
        return Plan::rest("it is there");
    }
    let metadata =
        ObjectMeta { name: Some(NAME.into()), namespace: namespace.metadata.name.clone(), ..ObjectMeta::default() };
    Plan::new("it is missing", vec![create(&ServiceAccount { metadata, ..ServiceAccount::default() }, None)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, meta, show};

    fn namespace(going: bool) -> Namespace {
        let deletion_timestamp = going.then(|| time(NOW));
        Namespace { metadata: ObjectMeta { namespace: None, deletion_timestamp, ..meta("ns") }, ..Namespace::default() }
    }

    #[test]
    fn is_made_where_it_is_missing() {
        for (going, present, expect, why) in [
            (false, false, "+default", "it is missing"),
            (false, true, "", "it is there"),
            (true, false, "", "its namespace is terminating"),
        ] {
            let plan = plan(&namespace(going), present);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why));
        }
    }

    proptest! {
        #[test]
        fn rests_after_one_write(going: bool, present: bool) {
            let mut cluster = Cluster::default();
            if present {
                cluster.add(&ServiceAccount { metadata: meta(NAME), ..ServiceAccount::default() });
            }
            let turn = |cluster: &Cluster| {
                plan(&namespace(going), !cluster.list::<ServiceAccount>().is_empty()).actions
            };
            prop_assert!(cluster.settle(2, turn), "{}", cluster.trace());
            prop_assert_eq!(cluster.list::<ServiceAccount>().is_empty(), going && !present);
        }
    }
}
