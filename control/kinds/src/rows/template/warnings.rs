//! What is allowed in a pod spec, but hardly meant.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::value::{at, get, has, int, list, num, text, texts};
use super::super::vocab;
use super::{every_container, overlaps, profiles};
use crate::Path;
use crate::field_error::quote;
use crate::schema::quantity::Amount;

/// Warnings for a pod (`path` empty) or a template.
#[must_use]
pub fn of(path: &Path, pod: &Value) -> Vec<String> {
    let spec = get(pod, "spec");
    let spec_path = path.child("spec");
    let mut out = Vec::new();
    let meta = get(pod, "metadata");
    labels(&mut out, &spec_path, spec);
    annotations(&mut out, path, meta);
    volumes(&mut out, &spec_path.child("volumes"), spec);
    overlaps::warn(&mut out, list(spec, "volumes"));
    duplicates(&mut out, &spec_path, spec);
    fractions(&mut out, &spec_path.child("overhead"), get(spec, "overhead"));
    profile(&mut out, path, meta, (SECCOMP_POD, SECCOMP), spec);
    let own = get(get(spec, "securityContext"), APP_ARMOR.0);
    for (container, place) in every_container(spec, &spec_path) {
        let name = text(container, "name");
        profile(&mut out, path, meta, (&format!("{SECCOMP_CONTAINER}{name}"), SECCOMP), container);
        let key = format!("{}{name}", profiles::APP_ARMOR);
        let named = at(meta, &["annotations"]).get(key.as_str()).and_then(Value::as_str);
        // What becomes of it in a pod is said where it is done.
        let same = named.and_then(profiles::profile).is_some_and(|named| named == *own);
        if !path.as_str().is_empty() && !same {
            profile(&mut out, path, meta, (&key, APP_ARMOR), container);
        }
        amounts(&mut out, &place, container);
        hidden_variables(&mut out, &place.child("env"), container);
    }
    ports(&mut out, &spec_path, spec);
    port_names(&mut out, &spec_path, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let path = spec_path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&mut out, &spec_path.child("affinity"), get(spec, "affinity"));
    addresses(&mut out, &spec_path, spec);
    out
}

fn amounts(out: &mut Vec<String>, path: &Path, container: &Value) {
    for name in ["memory", "ephemeral-storage"] {
        for kind in ["limits", "requests"] {
            fractions_of(out, path, container, kind, name);
        }
    }
}

/// Fields of a security context, with what is said of the annotations that were there before them.
const SECCOMP: (&str, &str) = ("seccompProfile", "non-functional in v1.27+");
const APP_ARMOR: (&str, &str) = ("appArmorProfile", "deprecated since v1.30");
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Warns of an annotation if `of`, a spec or container, does not have the field that took its place.
fn profile(out: &mut Vec<String>, path: &Path, meta: &Value, (key, (field, how)): (&str, (&str, &str)), of: &Value) {
    if has(get(meta, "annotations"), key) && !has(get(of, "securityContext"), field) {
        let path = path.child("metadata").child("annotations").key(key);
        out.push(format!("{path}: {how}; use the \"{field}\" field instead"));
    }
}

fn addresses(out: &mut Vec<String>, path: &Path, spec: &Value) {
    let servers = path.child("dnsConfig").child("nameservers");
    for (i, address) in texts(get(spec, "dnsConfig"), "nameservers").iter().enumerate() {
        vocab::warn_ip(out, &servers.index(i), address);
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        vocab::warn_ip(out, &path.child("hostAliases").index(i).child("ip"), text(alias, "ip"));
    }
}

/// The message for a label of nodes that is no longer what it was.
#[must_use]
pub fn deprecated_label(key: &str) -> Option<String> {
    let (since, successor) = match key {
        "beta.kubernetes.io/arch" => ("v1.14", "kubernetes.io/arch"),
        "beta.kubernetes.io/os" => ("v1.14", "kubernetes.io/os"),
        "failure-domain.beta.kubernetes.io/region" => ("v1.17", "topology.kubernetes.io/region"),
        "failure-domain.beta.kubernetes.io/zone" => ("v1.17", "topology.kubernetes.io/zone"),
        "beta.kubernetes.io/instance-type" => ("v1.17", "node.kubernetes.io/instance-type"),
        "app.kubernetes.io/created-by" => return Some("deprecated since v1.9".into()),
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            return Some("deprecated since v1.22; use Taints and Tolerations instead".into());
        }
        "node-role.kubernetes.io/master" => {
            return Some("use \"node-role.kubernetes.io/control-plane\" instead".into());
        }
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
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let (node, at_node) = (at(spec, &["affinity", "nodeAffinity"]), path.child("affinity").child("nodeAffinity"));
    node_terms(
        out,
        &at_node.child(REQUIRED).child("nodeSelectorTerms"),
        list(get(node, REQUIRED), "nodeSelectorTerms"),
    );
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let (term, path) = (get(term, "preference"), at_node.child(PREFERRED).index(i).child("preference"));
        expressions(out, &path, term);
        values(out, &path, term);
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
        expressions(out, &path.index(i), term);
    }
}

/// Warns of values that no label has: what they are preferred for never counts.
fn values(out: &mut Vec<String>, path: &Path, term: &Value) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i).child("values");
        for (j, value) in texts(expression, "values").into_iter().enumerate() {
            for message in vocab::label_value_errors(value) {
                out.push(format!("{}: {value} is invalid, {message}", path.index(j)));
            }
        }
    }
}

/// Warns of a claim's spec, which stands at `path`.
pub fn claim(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for kind in ["requests", "limits"] {
        let path = path.child("resources").child(kind).key("storage");
        fraction(out, &path, at(spec, &["resources", kind, "storage"]));
    }
}

/// Warns of labels of nodes in the expressions of a selector or term.
pub fn expressions(out: &mut Vec<String>, path: &Path, term: &Value) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {key} is {message}", path.child("matchExpressions").index(i).child("key")));
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
        let path = path.index(i).child("ephemeral").child("volumeClaimTemplate").child("spec");
        claim(out, &path, at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]));
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
            if has(port, "hostIP") && num(port, "hostPort") == 0 {
                out.push(format!("{path}: hostIP set without hostPort: {}", shown(port)));
            }
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

fn port_names(out: &mut Vec<String>, spec_path: &Path, spec: &Value) {
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    for (container, path) in every_container(spec, spec_path) {
        for (i, port) in list(container, "ports").iter().enumerate().filter(|(_, port)| has(port, "name")) {
            let (name, path) = (text(port, "name"), path.child("ports").index(i));
            match seen.get(name) {
                Some(other) => out.push(format!(
                    "{path}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                    quote(name)
                )),
                None => drop(seen.insert(name, path)),
            }
        }
    }
}

/// A port as upstream's internal type prints it.
fn shown(port: &Value) -> String {
    let (name, protocol, ip) = (text(port, "name"), text(port, "protocol"), text(port, "hostIP"));
    let (host, own) = (num(port, "hostPort"), num(port, "containerPort"));
    format!("{{Name:{name} HostPort:{host} ContainerPort:{own} Protocol:{protocol} HostIP:{ip}}}")
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Of a pod with one container `c`, with something set in it.
    fn of_pod(path: &Path, pointer: &str, value: Value) -> Vec<String> {
        let mut pod = json!({"metadata": {"annotations": {}}, "spec": {"containers": [{"name": "c"}]}});
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        pod.pointer_mut(parent).expect("a parent")[field] = value;
        of(path, &pod)
    }

    #[test]
    fn what_is_hardly_meant_is_said() {
        let term = json!({"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}]});
        let node = |field: &str, terms: Value| json!({"nodeAffinity": {field: terms}});
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let old = "beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead";
        let items = |paths: &[&str]| paths.iter().map(|path| json!({"key": "k", "path": path})).collect::<Value>();
        let map = |paths: &[&str]| json!({"name": "m", "items": items(paths)});
        let projected = json!([{"configMap": map(&["a"])}, {"secret": {"name": "s", "items": items(&["a/b"])}}]);
        for (pointer, value, expect) in [
            (
                "/spec/affinity",
                node(required, json!({"nodeSelectorTerms": [term]})),
                format!("spec.affinity.nodeAffinity.{required}.nodeSelectorTerms[0].matchExpressions[0].key: {old}"),
            ),
            (
                "/spec/affinity",
                node(preferred, json!([{"weight": 1, "preference": term}])),
                format!("spec.affinity.nodeAffinity.{preferred}[0].preference.matchExpressions[0].key: {old}"),
            ),
            (
                "/metadata/annotations",
                json!({"seccomp.security.alpha.kubernetes.io/pod": "runtime/default"}),
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead".into(),
            ),
            (
                "/metadata/annotations",
                json!({"container.seccomp.security.alpha.kubernetes.io/c": "x"}),
                "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the \"seccompProfile\" field instead".into(),
            ),
            (
                "/spec/containers/0/ports",
                json!([{"containerPort": 80, "protocol": "TCP", "hostIP": "10.0.0.1"}]),
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}".into(),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "configMap": map(&["a", "b", "a/"])}]),
                "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a\" with \"a\"".into(),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "projected": {"sources": projected}}]),
                "volume \"v\" (Projected): overlapping paths: \"a/b\" (Secret \"s\") with \"a\" (ConfigMap \"m\")".into(),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "projected": {"sources": [{}]}}]),
                "volume \"v\" (Projected) has no sources provided".into(),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1500m"}}}}}}]),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer".into(),
            ),
            (
                "/spec/affinity",
                node(
                    preferred,
                    json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "k", "operator": "In", "values": ["a", "-"]}]}}]),
                ),
                format!(
                    "spec.affinity.nodeAffinity.{preferred}[0].preference.matchExpressions[0].values[1]: - is invalid, {}",
                    vocab::label_value_errors("-")[0]
                ),
            ),
            (
                "/spec/containers/0/ports",
                json!([{"name": "n", "containerPort": 80, "protocol": "TCP"}, {"name": "n", "containerPort": 81, "protocol": "TCP"}]),
                "spec.containers[0].ports[1]: duplicate port name \"n\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]".into(),
            ),
            (
                "/spec/nodeSelector",
                json!({"node-role.kubernetes.io/master": ""}),
                "spec.nodeSelector[node-role.kubernetes.io/master]: use \"node-role.kubernetes.io/control-plane\" instead".into(),
            ),
            (
                "/spec/dnsConfig",
                json!({"nameservers": ["FD00::1"]}),
                "spec.dnsConfig.nameservers[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")".into(),
            ),
        ] {
            assert_eq!(of_pod(&Path::new(""), pointer, value.clone()), [expect], "{value}");
        }
    }

    #[test]
    fn a_template_tells_of_profiles_in_annotations() {
        let key = "container.apparmor.security.beta.kubernetes.io/c";
        let named = json!({key: "runtime/default"});
        let template = Path::new("spec").child("template");
        let expect = format!(
            "spec.template.metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
        );
        assert_eq!(of_pod(&template, "/metadata/annotations", named.clone()), [expect]);
        assert_eq!(of_pod(&Path::new(""), "/metadata/annotations", named), Vec::<String>::new());
    }
}
