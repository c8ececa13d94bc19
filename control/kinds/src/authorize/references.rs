//! The Secrets and ConfigMaps that a pod names: what its node must be given, and no more.

use std::collections::BTreeSet;

use serde_json::Value;

fn items<'a>(parent: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    parent[field].as_array().into_iter().flatten()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|field| items(&pod["spec"], field))
}

/// Names at `<env entry>.valueFrom.<key_ref>.name` and `<envFrom entry>.<from_ref>.name`.
fn from_env<'a>(pod: &'a Value, key_ref: &'static str, from_ref: &'static str) -> impl Iterator<Item = &'a Value> {
    containers(pod).flat_map(move |container| {
        let one = items(container, "env").map(move |env| &env["valueFrom"][key_ref]["name"]);
        one.chain(items(container, "envFrom").map(move |env| &env[from_ref]["name"]))
    })
}

fn from_projected<'a>(pod: &'a Value, source: &'static str) -> impl Iterator<Item = &'a Value> {
    items(&pod["spec"], "volumes").flat_map(move |v| items(&v["projected"], "sources")).map(move |s| &s[source]["name"])
}

/// Names of the Secrets that `pod` names, pull secrets included.
#[must_use]
pub fn secrets(pod: &Value) -> BTreeSet<&str> {
    let volumes = items(&pod["spec"], "volumes").map(|v| &v["secret"]["secretName"]);
    let pull = items(&pod["spec"], "imagePullSecrets").map(|s| &s["name"]);
    let rest = from_env(pod, "secretKeyRef", "secretRef").chain(from_projected(pod, "secret"));
    volumes.chain(pull).chain(rest).filter_map(Value::as_str).collect()
}

/// Names of the ConfigMaps that `pod` names.
#[must_use]
pub fn config_maps(pod: &Value) -> BTreeSet<&str> {
    let volumes = items(&pod["spec"], "volumes").map(|v| &v["configMap"]["name"]);
    let rest = from_env(pod, "configMapKeyRef", "configMapRef").chain(from_projected(pod, "configMap"));
    volumes.chain(rest).filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_every_place_that_names_one() {
        let pod = json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s1"}}}, {"valueFrom": {"configMapKeyRef": {"name": "c1"}}}],
                            "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}]}],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s3"}}}, {"name": "plain", "value": "x"}]}],
            "volumes": [{"secret": {"secretName": "s4"}}, {"configMap": {"name": "c3"}}, {"emptyDir": {}},
                        {"projected": {"sources": [{"secret": {"name": "s5"}}, {"configMap": {"name": "c4"}}]}}]}});
        assert_eq!(secrets(&pod), BTreeSet::from(["pull", "s1", "s2", "s3", "s4", "s5"]));
        assert_eq!(config_maps(&pod), BTreeSet::from(["c1", "c2", "c3", "c4"]));
    }
}
