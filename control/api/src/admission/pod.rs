//! What pods (and new nodes) get without asking: an account and its token, a priority,
//! tolerations, the not-ready taint. The rules are `kontiki-kinds`'; here is what they look up.

use kontiki_kinds::rows::{node, pod::admit};
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_store::Compare;
use serde_json::Value;

use super::Operation;
use crate::Status;
use crate::state::Extra;
use crate::verbs::create::random_suffix;

const ACCOUNTS: GroupResource<'static> = GroupResource { group: "", resource: "serviceaccounts" };
/// A pod that a node made from a file of its own; it has no use for an account.
const MIRROR: &str = "kubernetes.io/config.mirror";

fn is_new_pod(operation: &Operation<'_>) -> bool {
    operation.is("", "pods") && operation.creates() && operation.call.sub.is_none()
}

/// A new node takes pods only once it has been seen to be ready.
pub(super) fn taint_new_nodes(operation: &Operation<'_>, object: &mut Value) -> Result<Extra, Status> {
    if operation.is("", "nodes") && operation.creates() {
        node::admit_not_ready(object);
    }
    Ok(Extra::default())
}

pub(super) fn priority(operation: &Operation<'_>, pod: &mut Value) -> Result<Extra, Status> {
    if is_new_pod(operation) {
        let class = admit::builtin_class(pod["spec"]["priorityClassName"].as_str().unwrap_or_default());
        admit::priority(pod, class).map_err(|why| operation.forbid(pod, why))?;
    }
    Ok(Extra::default())
}

pub(super) fn service_account(operation: &Operation<'_>, pod: &mut Value) -> Result<Extra, Status> {
    if !is_new_pod(operation) || pod["metadata"]["annotations"][MIRROR].is_string() {
        return Ok(Extra::default());
    }
    admit::default_account(pod);
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    let namespace = operation.call.namespace().unwrap_or_default();
    let key = ObjectKey::new(ACCOUNTS, Some(namespace), &name).encode();
    let Some(entry) = operation.state.get(&key) else {
        let text = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        return Err(operation.forbid(pod, text));
    };
    let account: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
    admit::account(pod, &account, &format!("kube-api-access-{}", random_suffix()));
    Ok(Extra { compares: vec![Compare::present(key)], ops: Vec::new() })
}

/// How long a pod stays on a node that is gone, unless it says so itself.
pub(super) fn default_tolerations(operation: &Operation<'_>, pod: &mut Value) -> Result<Extra, Status> {
    if operation.is("", "pods") && operation.call.sub.is_none() {
        admit::tolerations(pod, operation.call.api.inner.config.default_toleration_seconds);
    }
    Ok(Extra::default())
}

/// There are no RuntimeClasses yet, so none can be named.
pub(super) fn runtime_class(operation: &Operation<'_>, pod: &mut Value) -> Result<Extra, Status> {
    if !is_new_pod(operation) {
        return Ok(Extra::default());
    }
    if let Some(name) = pod["spec"]["runtimeClassName"].as_str() {
        return Err(operation.forbid(pod, format!("pod rejected: RuntimeClass \"{name}\" not found")));
    }
    if pod["spec"]["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty()) {
        let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(operation.forbid(pod, text));
    }
    Ok(Extra::default())
}
