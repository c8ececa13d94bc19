//! ServiceAccount: every namespace in use has one called `default`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Plan, create};
use crate::object::deleting;

/// Decides the next write for one namespace; `present` says whether the account is there.
#[must_use]
pub fn plan(namespace: &Namespace, present: bool) -> Plan {
    if present || deleting(&namespace.metadata) {
        return Plan::default();
    }
    let metadata = ObjectMeta {
        name: Some("default".into()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    Plan::now(vec![create(&ServiceAccount { metadata, ..ServiceAccount::default() }, None)])
}
