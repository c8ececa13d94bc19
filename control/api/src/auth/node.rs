//! What a node's certificate may do: read what its own pods need, write its own status and theirs.

use kontiki_model::{GroupResource, ObjectKey, key};
use kontiki_store::Snapshot;
use serde_json::Value;

use crate::User;
use crate::auth::access::Attributes;
use crate::references;

const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };

/// The node that `user` is, if it is one.
pub(crate) fn node_name(user: &User) -> Option<&str> {
    user.in_group("system:nodes").then(|| user.name.strip_prefix("system:node:")).flatten()
}

/// Whether `user` is a node and may do this.
pub(crate) fn allowed(state: &Snapshot, user: &User, asked: &Attributes<'_>) -> bool {
    let Some(node) = node_name(user) else { return false };
    let read = matches!(asked.verb, "get" | "list" | "watch");
    let write = matches!(asked.verb, "create" | "update" | "patch");
    match (asked.group, asked.resource, asked.subresource) {
        ("", "nodes", "") => asked.verb == "create" || (asked.name == node && (read || write)),
        ("", "nodes", "status") => asked.name == node && (read || write),
        ("", "pods", "") if asked.name.is_empty() => read && asked.node == Some(node),
        ("", "pods", "") => (read || asked.verb == "delete") && owns_pod(state, node, asked),
        ("", "pods", "status") => (read || write) && owns_pod(state, node, asked),
        ("", "secrets" | "configmaps", "") => asked.verb == "get" && needed(state, node, asked),
        ("", "serviceaccounts", "") => asked.verb == "get" && runs_as(state, node, asked),
        ("", "serviceaccounts", "token") => asked.verb == "create" && runs_as(state, node, asked),
        ("", "services", "") | ("discovery.k8s.io", "endpointslices", "") => read,
        ("" | "events.k8s.io", "events", "") => write,
        ("coordination.k8s.io", "leases", "") => {
            asked.namespace == "kube-node-lease" && asked.name == node && (read || write)
        }
        ("authentication.k8s.io", "tokenreviews", "") | ("authorization.k8s.io", "subjectaccessreviews", "") => {
            asked.verb == "create"
        }
        _ => false,
    }
}

fn owns_pod(state: &Snapshot, node: &str, asked: &Attributes<'_>) -> bool {
    let key = ObjectKey::new(PODS, Some(asked.namespace), asked.name).encode();
    let pod = state.get(&key).and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    pod.is_some_and(|pod| pod["spec"]["nodeName"] == node)
}

fn needed(state: &Snapshot, node: &str, asked: &Attributes<'_>) -> bool {
    pods_of(state, node, asked.namespace).any(|pod| match asked.resource {
        "secrets" => references::secrets(&pod).contains(asked.name),
        _ => references::config_maps(&pod).contains(asked.name),
    })
}

fn runs_as(state: &Snapshot, node: &str, asked: &Attributes<'_>) -> bool {
    pods_of(state, node, asked.namespace).any(|pod| pod["spec"]["serviceAccountName"] == asked.name)
}

fn pods_of(state: &Snapshot, node: &str, namespace: &str) -> impl Iterator<Item = Value> {
    let pods = state.range(key::prefix(PODS, Some(namespace)).as_bytes());
    let parsed = pods.filter_map(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    parsed.filter(move |pod| pod["spec"]["nodeName"] == node)
}
