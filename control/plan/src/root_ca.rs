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
        return Plan::default();
    }
    let data = Some(BTreeMap::from([(KEY.to_owned(), ca_pem.to_owned())]));
    let about = (ABOUT.0.to_owned(), ABOUT.1.to_owned());
    let action = match present {
        None => Some(create(
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
        Some(old) => {
            let mut new = ConfigMap { data, ..old.clone() };
            new.metadata.annotations.get_or_insert_default().insert(about.0, about.1);
            patch_to(old, &new, None)
        }
    };
    Plan::now(action.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, meta, show};

    #[test]
    fn is_created_repaired_and_then_left_alone() {
        let namespace = Namespace { metadata: ObjectMeta { namespace: None, ..meta("ns") }, ..Namespace::default() };
        let mut world = World::default();
        let turn = |world: &World| {
            let maps = world.list::<ConfigMap>();
            plan(&namespace, maps.first().map(AsRef::as_ref), "PEM").actions
        };
        assert_eq!(show(&turn(&world)), "+kube-root-ca.crt");
        assert!(world.settle(3, turn));
        let mut changed: ConfigMap = world.only();
        changed.data = None;
        world.add(&changed);
        assert!(world.settle(3, turn));
        assert_eq!(world.only::<ConfigMap>().data.unwrap()["ca.crt"], "PEM");
    }
}
