//! Root CA publisher: every namespace in use has the cluster's CA in `kube-root-ca.crt`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Plan, create, patch_to};
use crate::object::deleting;

/// Name of the ConfigMap.
pub const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const ABOUT: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// Decides the next write for one namespace.
#[must_use]
pub fn plan(namespace: &Namespace, present: Option<&ConfigMap>, ca_pem: &str) -> Plan {
    if deleting(&namespace.metadata) {
        return Plan::rest("its namespace is terminating");
    }
    let data = Some(BTreeMap::from([(KEY.to_owned(), ca_pem.to_owned())]));
    let about = (ABOUT.0.to_owned(), ABOUT.1.to_owned());
    let (why, action) = match present {
        None => (
            "it is missing",
            Some(create(
                &ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.into()),
                        namespace: namespace.metadata.name.clone(),
                        annotations: Some(BTreeMap::from([about])),
                        ..ObjectMeta::default()
                    },
                    data,
                    ..ConfigMap::default()
                },
                None,
            )),
        ),
        Some(old) => {
            let mut new = ConfigMap { data, ..old.clone() };
            new.metadata.annotations.get_or_insert_default().insert(about.0, about.1);
            ("it differs from the cluster's CA", patch_to(old, &new, None))
        }
    };
    action.map_or(Plan::rest("it is right"), |action| Plan::new(why, vec![action]))
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

    fn map(text: &str) -> ConfigMap {
        let about = [(ABOUT.0.to_owned(), ABOUT.1.to_owned())].into();
        let data = (!text.is_empty()).then(|| [(KEY.to_owned(), text.to_owned())].into());
        ConfigMap { metadata: ObjectMeta { annotations: Some(about), ..meta(NAME) }, data, ..ConfigMap::default() }
    }

    #[test]
    fn is_created_repaired_and_then_left_alone() {
        for (going, present, expect, why) in [
            (false, None, "+kube-root-ca.crt", "it is missing"),
            (false, Some(map("old")), "patch kube-root-ca.crt", "it differs from the cluster's CA"),
            (false, Some(map("PEM")), "", "it is right"),
            (true, None, "", "its namespace is terminating"),
        ] {
            let plan = plan(&namespace(going), present.as_ref(), "PEM");
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_there_ends_with_the_ca(there in prop::option::of("[a-z]{0,2}")) {
            let mut cluster = Cluster::default();
            if let Some(text) = &there {
                cluster.add(&map(text));
            }
            let rested = cluster.settle(3, |cluster| {
                plan(&namespace(false), cluster.list::<ConfigMap>().first().map(AsRef::as_ref), "PEM").actions
            });
            prop_assert!(rested, "{}", cluster.trace());
            let data = cluster.only::<ConfigMap>().data.unwrap_or_default();
            prop_assert_eq!(data.get(KEY).map(String::as_str), Some("PEM"));
        }
    }
}
