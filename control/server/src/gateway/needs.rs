//! Which objects a pod, or an Ingress, makes a node's business. Pure.
//!
//! Invariants
//! - A Secret or ConfigMap is a node's business only while a pod bound to it, and not yet finished,
//!   names it. Nothing is inferred from namespaces or labels.
//! - The certificate in a Secret is besides the business of nodes that serve Ingresses, while one that is served names it.
//!   It is another kind: nothing of it is shown to pods, and a Secret that is of another type is none.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    networking::v1::Ingress,
};
use kontiki_model::pod::References;

/// The kinds an agent is told about, in the order in which it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Needed by a pod's volumes and environment.
    ConfigMap,
    /// As ConfigMap, and for pulling images.
    Secret,
    /// A Secret with a certificate, for an Ingress.
    Certificate,
    /// For its pods' tokens.
    ServiceAccount,
    /// Shown in a pod's volumes: by name, or all while a pod chooses by signer and labels.
    ClusterTrustBundle,
    /// For the runtime that a pod asks for.
    RuntimeClass,
    /// For the overlay network: every node.
    Node,
    /// For the service proxy: every Service.
    Service,
    /// For the service proxy: every slice.
    EndpointSlice,
    /// For policies: every namespace's labels.
    Namespace,
    /// For policies: what selectors ask of every pod, while there is any policy.
    PodFacts,
    /// Every policy.
    NetworkPolicy,
    /// Every one that is served, for nodes that do so. After its certificates.
    Ingress,
    /// Bound to the node. Last, so that what a pod needs is there before it.
    Pod,
}

impl Kind {
    /// The plural, as the agent knows it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::Certificate => "certificates",
            Self::ServiceAccount => "serviceaccounts",
            Self::ClusterTrustBundle => "clustertrustbundles",
            Self::RuntimeClass => "runtimeclasses",
            Self::Node => "nodes",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Namespace => "namespaces",
            Self::PodFacts => "podfacts",
            Self::NetworkPolicy => "networkpolicies",
            Self::Ingress => "ingresses",
            Self::Pod => "pods",
        }
    }

    /// Whether every node is told of every such object; of Ingresses those nodes that serve them.
    #[must_use]
    pub fn is_public(self) -> bool {
        matches!(
            self,
            Self::Node
                | Self::Service
                | Self::EndpointSlice
                | Self::Namespace
                | Self::PodFacts
                | Self::NetworkPolicy
                | Self::Ingress
        )
    }
}

/// One object that may be a node's business.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Item {
    /// An item.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Stands for all objects of a kind. No object has an empty name.
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        Self::new(kind, "", "")
    }

    /// Whether it is one object.
    #[must_use]
    pub fn is_one(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whether it is among `items`, by itself or with all of its kind.
    #[must_use]
    pub fn is_in(&self, items: &BTreeSet<Self>) -> bool {
        items.contains(self) || items.contains(&Self::all(self.kind))
    }
}

/// The CA bundle that every pod with a token mounts.
const ROOT_CA: &str = "kube-root-ca.crt";

/// What the node of `pod` has to know because of it.
#[must_use]
pub fn needs(pod: &Pod) -> BTreeSet<Item> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let (Some(spec), false) = (&pod.spec, matches!(phase, Some("Succeeded" | "Failed"))) else {
        return BTreeSet::new();
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = References::of(pod);
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    let class = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let own = |kind: Kind| move |name: &str| Item::new(kind, namespace, name);
    let config_maps = named.config_maps.into_iter().chain([ROOT_CA]).map(own(Kind::ConfigMap));
    config_maps
        .chain(named.secrets.into_iter().map(own(Kind::Secret)))
        .chain(account.map(own(Kind::ServiceAccount)))
        .chain(class.map(|name| Item::new(Kind::RuntimeClass, "", name)))
        .chain(trust_bundles(spec))
        .collect()
}

/// What nodes that serve an Ingress have to know because of it.
#[must_use]
pub fn needs_of_ingress(ingress: &Ingress) -> BTreeSet<Item> {
    let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = kontiki_model::ingress::secrets(ingress).into_iter();
    secrets.map(|name| Item::new(Kind::Certificate, namespace, name)).collect()
}

fn trust_bundles(spec: &PodSpec) -> impl Iterator<Item = Item> {
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let bundles = projected.flat_map(|source| source.sources.iter().flatten());
    bundles.filter_map(|source| source.cluster_trust_bundle.as_ref()).map(|bundle| match &bundle.name {
        Some(name) => Item::new(Kind::ClusterTrustBundle, "", name),
        None => Item::all(Kind::ClusterTrustBundle),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `R:name` RuntimeClass, `T:name` ClusterTrustBundle, `A:name` ServiceAccount, `C:name` ConfigMap, `S:name` Secret; the root CA is left out.
    fn show(spec: serde_json::Value, phase: &str) -> String {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec, "status": {"phase": phase}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let items = needs(&pod);
        assert!(
            items
                .iter()
                .all(|item| (item.namespace == "ns")
                    != matches!(item.kind, Kind::RuntimeClass | Kind::ClusterTrustBundle))
        );
        let letter = |kind| match kind {
            Kind::Secret => "S",
            Kind::ConfigMap => "C",
            Kind::RuntimeClass => "R",
            Kind::ClusterTrustBundle => "T",
            _ => "A",
        };
        let items = items.iter().filter(|item| item.name != ROOT_CA);
        items.map(|item| format!("{}:{}", letter(item.kind), item.name)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn nodes_that_serve_an_ingress_see_its_certificates() {
        let tls = json!([{"secretName": "b"}, {"hosts": ["x"]}, {"secretName": "a"}, {"secretName": "b"}]);
        let ingress = json!({"metadata": {"name": "i", "namespace": "ns"}, "spec": {"tls": tls}});
        let items = needs_of_ingress(&serde_json::from_value(ingress).expect("an Ingress"));
        let expect = ["a", "b"].map(|name| Item::new(Kind::Certificate, "ns", name));
        assert_eq!(items, expect.into());
    }

    #[test]
    fn a_node_sees_what_its_pods_name_and_nothing_more() {
        let env = json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]}]});
        let bundle = |source| {
            let projected = json!({"sources": [{"clusterTrustBundle": source}]});
            json!({"containers": [], "volumes": [{"name": "v", "projected": projected}]})
        };
        for (name, spec, expect) in [
            ("nothing named", json!({"containers": [{"name": "c"}]}), ""),
            ("its account", json!({"containers": [], "serviceAccountName": "default"}), "A:default"),
            ("its runtime class", json!({"containers": [], "runtimeClassName": "r"}), "R:r"),
            ("what its environment is made of", env, "C:c S:s"),
            ("a bundle of trust", bundle(json!({"name": "b", "path": "p"})), "T:b"),
            ("all of them, to choose from", bundle(json!({"signerName": "s", "path": "p"})), "T:"),
        ] {
            assert_eq!(show(spec.clone(), "Running"), expect, "{name}");
            assert_eq!(show(spec, "Succeeded"), "", "{name}, but finished");
        }
    }
}
