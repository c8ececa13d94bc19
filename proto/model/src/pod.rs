//! Facts about pods that several parts of a cluster go by.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};
use serde::Deserialize;

use crate::GroupResource;
use crate::typed::Part;

/// Where a pod is bound to, read without the rest of it.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    #[serde(default)]
    spec: Option<Place>,
}

#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Place {
    #[serde(default)]
    node_name: Option<String>,
}

impl Placement {
    /// The node, if it is bound to one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
    }
}

impl Part for Placement {
    const RESOURCE: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
}

/// Objects of its own namespace that a pod names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct References<'a> {
    /// ConfigMaps, in its volumes and environment.
    pub config_maps: BTreeSet<&'a str>,
    /// Secrets, there and for pulling its images.
    pub secrets: BTreeSet<&'a str>,
}

impl<'a> References<'a> {
    /// What `pod` names.
    #[must_use]
    pub fn of(pod: &'a Pod) -> Self {
        let mut found = Self::default();
        let Some(spec) = &pod.spec else { return found };
        for reference in spec.image_pull_secrets.iter().flatten() {
            found.secret(Some(&reference.name));
        }
        for volume in spec.volumes.iter().flatten() {
            found.volume(volume);
        }
        for (env, env_from) in environments(spec) {
            env.iter().for_each(|variable| found.variable(variable));
            env_from.iter().for_each(|source| found.source(source));
        }
        found
    }

    fn secret(&mut self, name: Option<&'a str>) {
        self.secrets.extend(name.filter(|name| !name.is_empty()));
    }

    fn config_map(&mut self, name: Option<&'a str>) {
        self.config_maps.extend(name.filter(|name| !name.is_empty()));
    }

    fn volume(&mut self, volume: &'a Volume) {
        self.secret(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        self.config_map(volume.config_map.as_ref().map(|c| c.name.as_str()));
        let published = volume.csi.as_ref().and_then(|csi| csi.node_publish_secret_ref.as_ref());
        self.secret(published.map(|s| s.name.as_str()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            self.secret(source.secret.as_ref().map(|s| s.name.as_str()));
            self.config_map(source.config_map.as_ref().map(|c| c.name.as_str()));
        }
    }

    fn variable(&mut self, variable: &'a EnvVar) {
        let Some(from) = &variable.value_from else { return };
        self.secret(from.secret_key_ref.as_ref().map(|s| s.name.as_str()));
        self.config_map(from.config_map_key_ref.as_ref().map(|c| c.name.as_str()));
    }

    fn source(&mut self, source: &'a EnvFromSource) {
        self.secret(source.secret_ref.as_ref().map(|s| s.name.as_str()));
        self.config_map(source.config_map_ref.as_ref().map(|c| c.name.as_str()));
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `C:name` ConfigMap, `S:name` Secret.
    fn show(spec: serde_json::Value) -> String {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).expect("a pod");
        let found = References::of(&pod);
        let config_maps = found.config_maps.iter().map(|name| format!("C:{name}"));
        config_maps.chain(found.secrets.iter().map(|name| format!("S:{name}"))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_place_that_names_one_is_found() {
        let env = |from| json!({"containers": [{"name": "c", "env": [{"name": "X", "valueFrom": from}]}]});
        let volume = |volume: serde_json::Value| {
            let mut volume = volume;
            volume["name"] = json!("v");
            json!({"containers": [], "volumes": [volume]})
        };
        for (name, spec, expect) in [
            ("nothing named", json!({"containers": [{"name": "c"}]}), ""),
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
            assert_eq!(show(spec), expect, "{name}");
        }
    }

    #[test]
    fn a_placement_is_where_a_pod_is_bound_to() {
        for (pod, expect) in [
            (r#"{"spec": {"nodeName": "n1", "containers": []}}"#, Some("n1")),
            (r#"{"spec": {"nodeName": ""}}"#, None),
            (r#"{"spec": {"nodeName": null}}"#, None),
            (r#"{"spec": null, "metadata": {}}"#, None),
            ("{}", None),
        ] {
            let placement: Placement = serde_json::from_str(pod).expect("JSON");
            assert_eq!(placement.node(), expect, "{pod}");
        }
    }
}
