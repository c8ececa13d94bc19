//! Which objects a pod makes its node's business. Pure.
//!
//! Invariants
//! - A Secret or ConfigMap is a node's business only while a pod bound to it, and not yet finished,
//!   names it. Nothing is inferred from namespaces or labels.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};

/// The kinds an agent is told about, in the order in which it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Needed by a pod's volumes and environment.
    ConfigMap,
    /// As ConfigMap, and for pulling images.
    Secret,
    /// For its pods' tokens.
    ServiceAccount,
    /// For the overlay network: every node.
    Node,
    /// For the service proxy: every Service.
    Service,
    /// For the service proxy: every slice.
    EndpointSlice,
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
            Self::ServiceAccount => "serviceaccounts",
            Self::Node => "nodes",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Pod => "pods",
        }
    }

    /// Whether every node is told of every such object.
    #[must_use]
    pub fn is_public(self) -> bool {
        matches!(self, Self::Node | Self::Service | Self::EndpointSlice)
    }
}

/// One object that may be a node's business.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for nodes.
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
    let mut out =
        Collector { namespace: pod.metadata.namespace.as_deref().unwrap_or_default(), items: BTreeSet::new() };
    out.add(Kind::ServiceAccount, spec.service_account_name.as_deref());
    out.add(Kind::ConfigMap, Some(ROOT_CA));
    for reference in spec.image_pull_secrets.iter().flatten() {
        out.add(Kind::Secret, Some(&reference.name));
    }
    for volume in spec.volumes.iter().flatten() {
        out.volume(volume);
    }
    for (env, env_from) in environments(spec) {
        env.iter().for_each(|var| out.variable(var));
        env_from.iter().for_each(|source| out.source(source));
    }
    out.items
}

fn environments(spec: &PodSpec) -> impl Iterator<Item = (&[EnvVar], &[EnvFromSource])> {
    fn both<'a>(
        env: &'a Option<Vec<EnvVar>>,
        from: &'a Option<Vec<EnvFromSource>>,
    ) -> (&'a [EnvVar], &'a [EnvFromSource]) {
        (env.as_deref().unwrap_or_default(), from.as_deref().unwrap_or_default())
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    containers.map(|c| both(&c.env, &c.env_from)).chain(ephemeral.map(|c| both(&c.env, &c.env_from)))
}

struct Collector<'a> {
    namespace: &'a str,
    items: BTreeSet<Item>,
}

impl Collector<'_> {
    fn add(&mut self, kind: Kind, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.items.insert(Item::new(kind, self.namespace, name));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        self.add(Kind::Secret, volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        self.add(Kind::ConfigMap, volume.config_map.as_ref().map(|c| c.name.as_str()));
        let published = volume.csi.as_ref().and_then(|csi| csi.node_publish_secret_ref.as_ref());
        self.add(Kind::Secret, published.map(|s| s.name.as_str()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            self.add(Kind::Secret, source.secret.as_ref().map(|s| s.name.as_str()));
            self.add(Kind::ConfigMap, source.config_map.as_ref().map(|c| c.name.as_str()));
        }
    }

    fn variable(&mut self, var: &EnvVar) {
        let Some(from) = &var.value_from else { return };
        self.add(Kind::Secret, from.secret_key_ref.as_ref().map(|s| s.name.as_str()));
        self.add(Kind::ConfigMap, from.config_map_key_ref.as_ref().map(|c| c.name.as_str()));
    }

    fn source(&mut self, source: &EnvFromSource) {
        self.add(Kind::Secret, source.secret_ref.as_ref().map(|s| s.name.as_str()));
        self.add(Kind::ConfigMap, source.config_map_ref.as_ref().map(|c| c.name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `S:name` Secret, `C:name` ConfigMap, `A:name` ServiceAccount; the root CA is left out.
    fn show(spec: serde_json::Value, phase: &str) -> String {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec, "status": {"phase": phase}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let items = needs(&pod);
        assert!(items.iter().all(|item| item.namespace == "ns"));
        let letter = |kind| match kind {
            Kind::Secret => "S",
            Kind::ConfigMap => "C",
            _ => "A",
        };
        let items = items.iter().filter(|item| item.name != ROOT_CA);
        items.map(|item| format!("{}:{}", letter(item.kind), item.name)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_node_sees_what_its_pods_name_and_nothing_more() {
        let env = |from| json!({"containers": [{"name": "c", "env": [{"name": "X", "valueFrom": from}]}]});
        let volume = |volume: serde_json::Value| {
            let mut volume = volume;
            volume["name"] = json!("v");
            json!({"containers": [], "volumes": [volume]})
        };
        for (name, spec, expect) in [
            ("nothing named", json!({"containers": [{"name": "c"}]}), ""),
            ("its account", json!({"containers": [], "serviceAccountName": "default"}), "A:default"),
            ("pull secrets", json!({"containers": [], "imagePullSecrets": [{"name": "reg"}, {"name": ""}]}), "S:reg"),
            ("variable from a Secret", env(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "S:s"),
            ("variable from a ConfigMap", env(json!({"configMapKeyRef": {"name": "c", "key": "k"}})), "C:c"),
            ("plain variable", env(json!({"fieldRef": {"fieldPath": "metadata.name"}})), ""),
            (
                "whole environment",
                json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]}]}),
                "C:c S:s",
            ),
            (
                "init container",
                json!({"containers": [], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
                "S:s",
            ),
            (
                "ephemeral container",
                json!({"containers": [], "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
                "S:s",
            ),
            ("secret volume", volume(json!({"secret": {"secretName": "s"}})), "S:s"),
            ("config volume", volume(json!({"configMap": {"name": "c"}})), "C:c"),
            (
                "projected volume",
                volume(
                    json!({"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}, {"serviceAccountToken": {"path": "t"}}]}}),
                ),
                "C:c S:s",
            ),
            ("csi volume", volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})), "S:s"),
            ("host path", volume(json!({"hostPath": {"path": "/x"}})), ""),
        ] {
            assert_eq!(show(spec.clone(), "Running"), expect, "{name}");
            assert_eq!(show(spec, "Succeeded"), "", "{name}, but finished");
        }
    }
}
