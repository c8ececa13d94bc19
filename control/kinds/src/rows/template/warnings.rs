//! What is allowed in a pod spec, but hardly meant.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::value::{at, get, has, int, list, num, some, text};
use super::every_container;
use crate::Path;
use crate::field_error::quote;
use crate::schema::quantity::Amount;

/// Warnings for a pod (`path` empty) or a template.
#[must_use]
pub fn of(path: &Path, pod: &Value) -> Vec<String> {
    let spec = get(pod, "spec");
    let spec_path = path.child("spec");
    let mut out = Vec::new();
    labels(&mut out, &spec_path, spec);
    annotations(&mut out, path, get(pod, "metadata"));
    volumes(&mut out, &spec_path.child("volumes"), spec);
    duplicates(&mut out, &spec_path, spec);
    fractions(&mut out, &spec_path.child("overhead"), get(spec, "overhead"));
    for (container, path) in every_container(spec, &spec_path) {
        for kind in ["limits", "requests"] {
            fractions_of(&mut out, &path, container, kind, "memory");
        }
        for kind in ["limits", "requests"] {
            fractions_of(&mut out, &path, container, kind, "ephemeral-storage");
        }
        hidden_variables(&mut out, &path.child("env"), container);
    }
    ports(&mut out, &spec_path, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let path = spec_path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&mut out, &spec_path.child("affinity"), get(spec, "affinity"));
    out
}

/// The message for a node label that has a successor.
#[must_use]
pub fn deprecated_label(key: &str) -> Option<String> {
    let (since, successor) = match key {
        "beta.kubernetes.io/arch" => ("v1.14", "kubernetes.io/arch"),
        "beta.kubernetes.io/os" => ("v1.14", "kubernetes.io/os"),
        "failure-domain.beta.kubernetes.io/region" => ("v1.17", "topology.kubernetes.io/region"),
        "failure-domain.beta.kubernetes.io/zone" => ("v1.17", "topology.kubernetes.io/zone"),
        "beta.kubernetes.io/instance-type" => ("v1.17", "node.kubernetes.io/instance-type"),
        _ => return None,
    };
    Some(format!("deprecated since {since}; use \"{successor}\" instead"))
}

fn labels(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (key, _) in super::super::value::entries(spec, "nodeSelector") {
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        let key = text(constraint, "topologyKey");
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {key} is {message}", path.child("topologyKey")));
        }
        null_selector(out, &path, constraint);
    }
}

/// Warns of labels in what nodes have to be like.
pub fn node_terms(out: &mut Vec<String>, path: &Path, terms: &[Value]) {
    for (i, term) in terms.iter().enumerate() {
        for (j, expression) in list(term, "matchExpressions").iter().enumerate() {
            let key = text(expression, "key");
            if let Some(message) = deprecated_label(key) {
                out.push(format!(
                    "{}: {key} is {message}",
                    path.index(i).child("matchExpressions").index(j).child("key")
                ));
            }
        }
    }
}

fn null_selector(out: &mut Vec<String>, path: &Path, term: &Value) {
    if !has(term, "labelSelector") {
        out.push(format!("{}: a null labelSelector results in matching no pod", path.child("labelSelector")));
    }
}

fn annotations(out: &mut Vec<String>, path: &Path, meta: &Value) {
    for (key, message) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ] {
        if has(get(meta, "annotations"), key) {
            out.push(format!("{}: {message}", path.child("metadata").child("annotations").key(key)));
        }
    }
}

fn volumes(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        for (field, message) in [
            ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if has(volume, field) {
                out.push(format!("{}: {message}", path.index(i).child(field)));
            }
        }
        projected(out, volume);
    }
}

fn projected(out: &mut Vec<String>, volume: &Value) {
    let Some(projected) = some(volume, "projected") else { return };
    let name = quote(text(volume, "name"));
    let sources = list(projected, "sources");
    let empty =
        sources.is_empty() || sources.iter().all(|source| source.as_object().is_none_or(serde_json::Map::is_empty));
    if empty {
        out.push(format!("volume {name} (Projected) has no sources provided"));
    }
}

fn duplicates(out: &mut Vec<String>, path: &Path, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if !seen.insert(ip) {
            out.push(format!("{}: duplicate ip {}", path.child("hostAliases").index(i).child("ip"), quote(ip)));
        }
    }
    let at = |i: usize| path.child("imagePullSecrets").index(i).child("name");
    let names: Vec<&str> = list(spec, "imagePullSecrets").iter().map(|secret| text(secret, "name")).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            out.push(format!("{}: duplicate name {}", at(i), quote(name)));
        }
    }
    for (i, _) in names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", at(i)));
    }
}

fn fractions(out: &mut Vec<String>, path: &Path, amounts: &Value) {
    for name in ["memory", "ephemeral-storage"] {
        fraction(out, &path.key(name), get(amounts, name));
    }
}

fn fractions_of(out: &mut Vec<String>, path: &Path, container: &Value, kind: &str, name: &str) {
    let amount = at(container, &["resources", kind, name]);
    fraction(out, &path.child("resources").child(kind).key(name), amount);
}

/// Warns of an amount of bytes that is not whole.
pub fn fraction(out: &mut Vec<String>, path: &Path, amount: &Value) {
    if let Some(amount) = Amount::of(amount).filter(|amount| amount.fractional()) {
        out.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
    }
}

fn hidden_variables(out: &mut Vec<String>, path: &Path, container: &Value) {
    let mut seen = BTreeSet::new();
    for (i, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let value = text(variable, "value");
        if has(variable, "valueFrom") || value == reference || !value.contains(&reference) {
            let path = path.index(i);
            out.push(format!(
                "{path}: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
}

fn ports(out: &mut Vec<String>, spec_path: &Path, spec: &Value) {
    let mut seen: BTreeMap<String, Vec<(Path, &Value)>> = BTreeMap::new();
    for (container, path) in every_container(spec, spec_path) {
        for (i, port) in list(container, "ports").iter().enumerate() {
            let path = path.child("ports").index(i);
            let key = format!("{}/{}", num(port, "containerPort"), text(port, "protocol"));
            let others = seen.entry(key).or_default();
            for (other_path, other) in others.iter() {
                if let Some(what) = clash(port, other) {
                    out.push(format!("{path}: {what} port definition with {other_path}"));
                }
            }
            others.push((path, port));
        }
    }
}

fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let (host, other_host) = (num(port, "hostPort"), num(other, "hostPort"));
    let (ip, other_ip) = (text(port, "hostIP"), text(other, "hostIP"));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn affinity(out: &mut Vec<String>, path: &Path, affinity: &Value) {
    for name in ["podAffinity", "podAntiAffinity"] {
        let terms = get(affinity, name);
        let path = path.child(name);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list(terms, required).iter().enumerate() {
            null_selector(out, &path.child(required).index(i), term);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list(terms, preferred).iter().enumerate() {
            null_selector(out, &path.child(preferred).index(i).child("podAffinityTerm"), get(term, "podAffinityTerm"));
        }
    }
}
