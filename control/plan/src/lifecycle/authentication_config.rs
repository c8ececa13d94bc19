//! What servers of further APIs have to know to believe the requests that masters pass on to them: the ConfigMap
//! `kube-system/extension-apiserver-authentication`, as upstream's API server publishes it. The role
//! `extension-apiserver-authentication-reader` lets them read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Plan, create, patch_to};

/// Where it lies.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "extension-apiserver-authentication";

/// Decides the next write. `proxy` is the name in the certificate by which masters pass requests on; `ca_pem` has signed
/// it, and those of clients.
#[must_use]
pub fn plan(present: Option<&ConfigMap>, ca_pem: &str, proxy: &str) -> Plan {
    let wanted = data(ca_pem, proxy);
    let (why, action) = match present {
        None => {
            let metadata =
                ObjectMeta { name: Some(NAME.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() };
            let object = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
            ("it is missing", Some(create(&object, None)))
        }
        Some(old) => {
            let mut new = old.clone();
            new.data.get_or_insert_default().extend(wanted);
            ("it says something else", patch_to(old, &new, None))
        }
    };
    action.map_or(Plan::rest("it is right"), |action| Plan::new(why, vec![action]))
}

fn data(ca_pem: &str, proxy: &str) -> BTreeMap<String, String> {
    let list = |name: &str| serde_json::json!([name]).to_string();
    let entries = [
        ("client-ca-file", ca_pem.to_owned()),
        ("requestheader-client-ca-file", ca_pem.to_owned()),
        ("requestheader-allowed-names", list(proxy)),
        ("requestheader-username-headers", list("X-Remote-User")),
        ("requestheader-uid-headers", list("X-Remote-Uid")),
        ("requestheader-group-headers", list("X-Remote-Group")),
        ("requestheader-extra-headers-prefix", list("X-Remote-Extra-")),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, meta, show};

    #[test]
    fn it_is_made_repaired_and_left_alone() {
        let with = |text: &str| ConfigMap {
            metadata: ObjectMeta { namespace: Some(NAMESPACE.into()), ..meta(NAME) },
            data: Some([("client-ca-file".to_owned(), text.to_owned()), ("own".to_owned(), "x".to_owned())].into()),
            ..ConfigMap::default()
        };
        for (there, expect) in [(None, "+"), (Some(with("old")), "patch ")] {
            let actions = plan(there.as_ref(), "PEM", "proxy").actions;
            assert_eq!(show(&actions), format!("{expect}{NAME}"));
            let mut cluster = Cluster::default();
            there.iter().for_each(|there| cluster.add(there));
            let rested = cluster.settle(2, |cluster| {
                plan(cluster.list::<ConfigMap>().first().map(AsRef::as_ref), "PEM", "proxy").actions
            });
            assert!(rested, "{}", cluster.trace());
            let data = cluster.only::<ConfigMap>().data.unwrap_or_default();
            assert_eq!(data["requestheader-allowed-names"], "[\"proxy\"]");
            assert_eq!(data["client-ca-file"], "PEM");
            assert_eq!(data.contains_key("own"), there.is_some(), "what others wrote stays");
        }
    }
}
