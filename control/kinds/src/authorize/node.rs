//! What a node's certificate may do: read what its own pods need, write its own status and theirs.

use kontiki_machinery::access::{Attributes, Authorizer, Decision, Objects, User};
use kontiki_model::{k8s_openapi::api::core::v1::Pod, pod::References, resource::PODS};
use serde_json::Value;

/// Upstream's Node authorizer.
pub(super) struct Node;

impl Authorizer for Node {
    fn authorize(&self, user: &User, asked: &Attributes<'_>, objects: &dyn Objects) -> Decision {
        match node_name(user) {
            Some(node) if allowed(objects, node, asked) => Decision::Allow,
            _ => Decision::NoOpinion,
        }
    }

    fn unlisted(&self, user: &User) -> Option<&'static str> {
        // What a node may do depends on its pods.
        node_name(user).map(|_| "node authorizer does not support user rule resolution")
    }
}

/// The node that `user` is, if it is one.
fn node_name(user: &User) -> Option<&str> {
    user.in_group("system:nodes").then(|| user.name.strip_prefix("system:node:")).flatten()
}

fn allowed(objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> bool {
    let (read, write) = (asked.reads(), matches!(asked.verb, "create" | "update" | "patch"));
    match (asked.group, asked.resource, asked.subresource) {
        ("", "nodes", "") => asked.verb == "create" || (asked.name == node && (read || write)),
        ("", "nodes", "status") => asked.name == node && (read || write),
        ("", "pods", "") if asked.name.is_empty() => read && asked.field("spec.nodeName") == Some(node),
        ("", "pods", "") => (read || asked.verb == "delete") && owns_pod(objects, node, asked),
        ("", "pods", "status") => (read || write) && owns_pod(objects, node, asked),
        ("", "secrets" | "configmaps", "") => asked.verb == "get" && needed(objects, node, asked),
        ("", "serviceaccounts", "") => asked.verb == "get" && runs_as(objects, node, asked),
        ("", "serviceaccounts", "token") => asked.verb == "create" && runs_as(objects, node, asked),
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

fn owns_pod(objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> bool {
    let pod = objects.get(PODS, Some(asked.namespace), asked.name);
    pod.is_some_and(|pod| pod["spec"]["nodeName"] == node)
}

fn needed(objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> bool {
    pods_of(objects, node, asked.namespace).any(|pod| {
        // One that cannot be read as a pod runs nowhere.
        let Ok(pod) = serde_json::from_value::<Pod>(pod) else { return false };
        let named = References::of(&pod);
        let names = if asked.resource == "secrets" { named.secrets } else { named.config_maps };
        names.contains(asked.name)
    })
}

fn runs_as(objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> bool {
    pods_of(objects, node, asked.namespace).any(|pod| pod["spec"]["serviceAccountName"] == asked.name)
}

fn pods_of<'a>(objects: &'a dyn Objects, node: &'a str, namespace: &str) -> impl Iterator<Item = Value> + 'a {
    objects.list(PODS, namespace).filter(move |pod| pod["spec"]["nodeName"] == node)
}
