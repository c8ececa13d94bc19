//! What all nodes get of an object that is every node's business: the part that an agent uses. Pure.
//!
//! Invariants
//! - A projection has no version: two versions that do not differ for agents are one, and no node is told of the second.
//! - A node gets its own object whole.

use kontiki_model::ingress;
use serde_json::{Map, Value};

use super::needs::Kind;

/// Fields that stay, each with those below it that do; all of them if none are named.
struct Keep(&'static str, &'static [Keep]);

const NAMES: Keep = Keep("metadata", &[Keep("namespace", &[]), Keep("name", &[]), Keep("labels", &[])]);

/// The overlay needs the address and the pod ranges of the others; labels tell their zone.
const NODE: &[Keep] =
    &[NAMES, Keep("spec", &[Keep("podCIDR", &[]), Keep("podCIDRs", &[])]), Keep("status", &[Keep("addresses", &[])])];

/// What the service proxy forwards to. It never asks whose address that is.
const SLICE: &[Keep] = &[
    NAMES,
    Keep("addressType", &[]),
    Keep("ports", &[]),
    Keep(
        "endpoints",
        &[
            Keep("addresses", &[]),
            Keep("conditions", &[]),
            Keep("hints", &[]),
            Keep("hostname", &[]),
            Keep("nodeName", &[]),
            Keep("zone", &[]),
        ],
    ),
];

/// What selectors of policies ask of a namespace.
const NAMESPACE: &[Keep] = &[NAMES];

/// What policies ask of a pod: whom selectors mean, where that is, and which ports have a name.
const POD_FACTS: &[Keep] = &[
    NAMES,
    Keep(
        "spec",
        &[
            Keep("nodeName", &[]),
            Keep("hostNetwork", &[]),
            Keep("containers", &[Keep("name", &[]), Keep("ports", &[])]),
        ],
    ),
    Keep("status", &[Keep("phase", &[]), Keep("podIP", &[]), Keep("podIPs", &[])]),
];

const POLICY: &[Keep] = &[Keep("metadata", &[Keep("namespace", &[]), Keep("name", &[])]), Keep("spec", &[])];

/// What routes are made of.
const INGRESS: &[Keep] = &[
    Keep(
        "metadata",
        &[
            Keep("namespace", &[]),
            Keep("name", &[]),
            Keep("creationTimestamp", &[]),
            Keep(
                "annotations",
                &[Keep(ingress::REDIRECT, &[]), Keep(ingress::MOST_BYTES, &[]), Keep(ingress::PATIENCE, &[])],
            ),
        ],
    ),
    Keep("spec", &[]),
];

/// The certificate in a Secret with its key, and nothing else that lies beside them.
const CERTIFICATE: &[Keep] = &[
    Keep("metadata", &[Keep("namespace", &[]), Keep("name", &[])]),
    Keep("type", &[]),
    Keep("data", &[Keep("tls.crt", &[]), Keep("tls.key", &[])]),
];

/// What of a kind's objects nodes get; `None`: all of it.
fn kept(kind: Kind) -> Option<&'static [Keep]> {
    match kind {
        Kind::Node => Some(NODE),
        Kind::EndpointSlice => Some(SLICE),
        Kind::Namespace => Some(NAMESPACE),
        Kind::PodFacts => Some(POD_FACTS),
        Kind::NetworkPolicy => Some(POLICY),
        Kind::Ingress => Some(INGRESS),
        Kind::Certificate => Some(CERTIFICATE),
        _ => None,
    }
}

/// Whether an object is one of the kind at all: a Secret of another type has no certificate, whatever lies in it.
#[must_use]
pub fn is_one(kind: Kind, object: &Value) -> bool {
    kind != Kind::Certificate || object["type"] == ingress::CERTIFICATE
}

/// The part of an object that nodes get; `None` if they get it whole.
#[must_use]
pub fn project(kind: Kind, object: &Value) -> Option<Value> {
    kept(kind).map(|fields| keep(object, fields))
}

fn keep(value: &Value, fields: &[Keep]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| keep(item, fields)).collect(),
        Value::Object(all) if !fields.is_empty() => {
            let part = fields.iter().filter_map(|Keep(name, below)| {
                let found = all.get(*name)?;
                Some(((*name).to_owned(), if below.is_empty() { found.clone() } else { keep(found, below) }))
            });
            Value::Object(part.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_secret_of_the_type_has_a_certificate() {
        for (kind, object, expect) in [
            (Kind::Certificate, json!({"type": "kubernetes.io/tls"}), true),
            (Kind::Certificate, json!({"type": "Opaque", "data": {"tls.crt": "", "tls.key": ""}}), false),
            (Kind::Certificate, json!({}), false),
            (Kind::Secret, json!({"type": "Opaque"}), true),
        ] {
            assert_eq!(is_one(kind, &object), expect, "{kind:?} {object}");
        }
    }

    #[test]
    fn nodes_get_what_they_use() {
        let meta =
            json!({"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"l": "1"}, "annotations": {"x": "y"}});
        for (kind, object, expect) in [
            (
                Kind::Node,
                json!({"metadata": meta, "spec": {"podCIDR": "10.0.0.0/24", "taints": []},
                       "status": {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}], "images": [1], "conditions": []}}),
                Some(json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"podCIDR": "10.0.0.0/24"},
                            "status": {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}})),
            ),
            (
                Kind::EndpointSlice,
                json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 1}],
                       "endpoints": [{"addresses": ["1.1.1.1"], "nodeName": "n", "targetRef": {"name": "p"}}]}),
                Some(
                    json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "addressType": "IPv4", "ports": [{"port": 1}],
                            "endpoints": [{"addresses": ["1.1.1.1"], "nodeName": "n"}]}),
                ),
            ),
            (
                Kind::Node,
                json!({"metadata": {"name": "a"}, "spec": null}),
                Some(json!({"metadata": {"name": "a"}, "spec": null})),
            ),
            (Kind::Service, json!({"metadata": meta}), None),
            (
                Kind::PodFacts,
                json!({"metadata": meta, "spec": {"nodeName": "n", "volumes": [], "containers":
                           [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}]}]},
                       "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": []}}),
                Some(json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"nodeName": "n", "containers":
                               [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
                           "status": {"phase": "Running", "podIP": "10.0.0.1"}})),
            ),
            (
                Kind::NetworkPolicy,
                json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"podSelector": {}}}),
                Some(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"podSelector": {}}})),
            ),
            (
                Kind::Ingress,
                json!({"metadata": {"name": "i", "namespace": "d", "uid": "u", "creationTimestamp": "t",
                                    "annotations": {"kontiki.dev/redirect-https": "true", "other": "long"}},
                       "spec": {"rules": []}, "status": {"loadBalancer": {}}}),
                Some(json!({"metadata": {"name": "i", "namespace": "d", "creationTimestamp": "t",
                                         "annotations": {"kontiki.dev/redirect-https": "true"}}, "spec": {"rules": []}})),
            ),
            (
                Kind::Certificate,
                json!({"metadata": {"name": "s", "namespace": "d", "labels": {}}, "type": "kubernetes.io/tls",
                       "data": {"tls.crt": "Yw==", "tls.key": "aw==", "ca.crt": "YQ==", "other": "bw=="}}),
                Some(json!({"metadata": {"name": "s", "namespace": "d"}, "type": "kubernetes.io/tls",
                            "data": {"tls.crt": "Yw==", "tls.key": "aw=="}})),
            ),
        ] {
            assert_eq!(project(kind, &object), expect, "{kind:?}");
        }
    }
}
