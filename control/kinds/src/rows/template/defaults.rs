//! Defaults of pod specs.
//!
//! Specs are defaulted in templates too; the rest of [`pod`] only in Pods, so that what a later
//! version defaults there does not show up in the templates of stored Deployments.

use serde_json::{Map, Value};

use super::super::storage;
use super::super::value::{
    child, default_text, default_to, entries, fields, flag, has, items_mut, list, num, on, set, some, some_mut, text,
};
use super::resources;
use crate::schema::quantity::Amount;

/// Annotations that said what is a field since 1.6; the field alone counts.
const INIT_CONTAINERS: [&str; 4] = [
    "pod.alpha.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.beta.kubernetes.io/init-containers",
];

/// Defaults of a template: those of its spec.
pub fn template(template: &mut Value) {
    annotations(template);
    spec(child(template, "spec"));
}

fn annotations(pod: &mut Value) {
    let found = some_mut(pod, "metadata").and_then(|meta| some_mut(meta, "annotations"));
    if let Some(Value::Object(annotations)) = found {
        annotations.retain(|key, _| !INIT_CONTAINERS.contains(&key.as_str()));
    }
}

/// Defaults of a spec.
pub fn spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_to(spec, "securityContext", Map::new());
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    account(spec);
    for name in ["containers", "initContainers", "ephemeralContainers"] {
        items_mut(spec, name).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volume);
    round_up(spec, "overhead");
    if let Some(pod_level) = some_mut(spec, "resources") {
        round_up(pod_level, "limits");
        round_up(pod_level, "requests");
    }
}

/// `serviceAccount` is an old name of `serviceAccountName`: each fills the other, the new one wins.
fn account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = name.to_owned();
        set(spec, "serviceAccount", name.clone());
        set(spec, "serviceAccountName", name);
    }
}

fn container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    items_mut(container, "ports").for_each(|port| default_text(port, "protocol", "TCP"));
    for env in items_mut(container, "env") {
        if let Some(field) = some_mut(env, "valueFrom").and_then(|from| some_mut(from, "fieldRef")) {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(file) = some_mut(env, "valueFrom").and_then(|from| some_mut(from, "fileKeyRef")) {
            default_to(file, "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = some_mut(container, name) {
            self::probe(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(hook) = some_mut(container, "lifecycle").and_then(|lifecycle| some_mut(lifecycle, name)) {
            http_get(hook);
        }
    }
    let needs = child(container, "resources");
    round_up(needs, "limits");
    round_up(needs, "requests");
}

fn probe(probe: &mut Value) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if num(probe, name) == 0 {
            set(probe, name, value);
        }
    }
    if let Some(grpc) = some_mut(probe, "grpc") {
        default_to(grpc, "service", "");
    }
    http_get(probe);
}

fn http_get(handler: &mut Value) {
    if let Some(get) = some_mut(handler, "httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// `Always` for the tag `latest`, also an implied one.
fn pull_policy(image: &str) -> &'static str {
    let latest = match image.rsplit_once('@') {
        Some((name, _digest)) => tag(name) == Some("latest"),
        None => tag(image).unwrap_or("latest") == "latest",
    };
    // A name that cannot be read has no tag.
    if latest && readable(image) { "Always" } else { "IfNotPresent" }
}

/// A colon in the last part of the name starts the tag; before that it is a registry's port.
fn tag(image: &str) -> Option<&str> {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map(|(_, tag)| tag)
}

/// Whether an image reference has the shape of one: upstream's parser refuses blanks and capitals
/// in the repository.
fn readable(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", name),
    };
    let repository = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => path,
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    !repository.is_empty() && repository.chars().all(plain) && !host.contains(char::is_whitespace)
}

/// Upstream keeps quantities of resources in thousandths, rounded up.
pub fn round_up(owner: &mut Value, name: &str) {
    let Some(Value::Object(map)) = some_mut(owner, name) else { return };
    for quantity in map.values_mut() {
        if let Some(amount) = Amount::of(quantity) {
            *quantity = Value::String(amount.round_up_milli().to_string());
        }
    }
}

fn volume(volume: &mut Value) {
    let sourceless =
        volume.as_object().is_some_and(|map| !map.iter().any(|(key, source)| key != "name" && !source.is_null()));
    if sourceless {
        set(volume, "emptyDir", Map::new());
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = some_mut(volume, name) {
            default_to(source, "defaultMode", 0o644);
        }
    }
    if let Some(image) = some_mut(volume, "image")
        && text(image, "pullPolicy").is_empty()
    {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    if let Some(source) = some_mut(volume, "downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = some_mut(volume, "projected") {
        items_mut(projected, "sources").for_each(projection);
    }
    if let Some(template) = some_mut(volume, "ephemeral").and_then(|e| some_mut(e, "volumeClaimTemplate")) {
        storage::claim::default_spec(child(template, "spec"));
    }
    persistent(volume);
}

fn downward_items(source: &mut Value) {
    for item in items_mut(source, "items") {
        if let Some(field) = some_mut(item, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
    }
}

fn projection(source: &mut Value) {
    if let Some(token) = some_mut(source, "serviceAccountToken") {
        default_to(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = some_mut(source, "downwardAPI") {
        downward_items(downward);
    }
    if let Some(certificate) = some_mut(source, "podCertificate") {
        default_to(certificate, "maxExpirationSeconds", 86400);
    }
}

/// Defaults of what can be the source of a PersistentVolume as well: host paths, and volume types whose plugins are
/// gone, but whose fields live on.
pub fn persistent(volume: &mut Value) {
    if let Some(path) = some_mut(volume, "hostPath") {
        default_to(path, "type", "");
    }
    if let Some(iscsi) = some_mut(volume, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = some_mut(volume, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(scale) = some_mut(volume, "scaleIO") {
        default_text(scale, "storageMode", "ThinProvisioned");
        default_text(scale, "fsType", "xfs");
    }
    if let Some(disk) = some_mut(volume, "azureDisk") {
        default_to(disk, "cachingMode", "ReadWrite");
        default_to(disk, "kind", "Shared");
        default_to(disk, "fsType", "ext4");
        default_to(disk, "readOnly", false);
    }
}

/// Defaults that only Pods get.
pub fn pod(pod: &mut Value) {
    annotations(pod);
    let spec = child(pod, "spec");
    for name in ["containers", "initContainers"] {
        items_mut(spec, name).for_each(requests_from_limits);
    }
    pod_level(spec);
    if flag(spec, "enableServiceLinks").is_none() {
        set(spec, "enableServiceLinks", true);
    }
    if on(spec, "hostNetwork") {
        for name in ["containers", "initContainers"] {
            items_mut(spec, name).for_each(host_ports);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let needs = child(container, "resources");
    let Some(Value::Object(limits)) = some(needs, "limits").cloned() else { return };
    let requests = fields(child(needs, "requests"));
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        if num(port, "hostPort") == 0 {
            let number = num(port, "containerPort");
            set(port, "hostPort", number);
        }
    }
}

/// Pod-level requests and limits, where the client gave some of them.
fn pod_level(spec: &mut Value) {
    if !has(spec, "resources") {
        return;
    }
    let given = |spec: &Value, kind: &str| some(&spec["resources"], kind).is_some();
    if given(spec, "limits") || given(spec, "requests") {
        let huge = kontiki_model::requests::of_containers(spec, "limits");
        let requested: Vec<String> = entries(&spec["resources"], "requests").map(|(k, _)| k.clone()).collect();
        let keep = |name: &str| name.starts_with("hugepages-") && !requested.iter().any(|r| r == name);
        fill(spec, "limits", huge.into_iter().filter(|(name, _)| keep(name)).collect());
    }
    if given(spec, "limits") {
        let overcommittable = |name: &str| resources::pod_level(name) && resources::overcommittable(name);
        let sum = kontiki_model::requests::of_containers(spec, "requests");
        fill(spec, "requests", sum.into_iter().filter(|(name, _)| overcommittable(name)).collect());
        let limits: Vec<(String, Value)> =
            entries(&spec["resources"], "limits").map(|(k, v)| (k.clone(), v.clone())).collect();
        let limits = limits.into_iter().filter(|(name, _)| resources::pod_level(name));
        let requests = fields(child(child(spec, "resources"), "requests"));
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    } else if given(spec, "requests") {
        limits_from_containers(spec);
    }
}

fn limits_from_containers(spec: &mut Value) {
    let sum = kontiki_model::requests::of_containers(spec, "limits");
    let limited = |name: &str| {
        let all = list(spec, "containers").iter().chain(list(spec, "initContainers"));
        all.into_iter().all(|c| some(&c["resources"]["limits"], name).is_some())
    };
    let chosen = sum
        .into_iter()
        .filter(|(name, _)| resources::pod_level(name) && resources::overcommittable(name) && limited(name))
        .collect();
    fill(spec, "limits", chosen);
}

fn fill(spec: &mut Value, kind: &str, amounts: Vec<(String, Amount)>) {
    if amounts.is_empty() {
        return;
    }
    let map = fields(child(child(spec, "resources"), kind));
    for (name, amount) in amounts {
        map.entry(name).or_insert_with(|| Value::String(amount.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_pulled_always() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("h:5000/a", "Always"),
            ("h:5000/a:1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
            ("a:latest@sha256:00", "Always"),
            (" a ", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
