//! What is written: Pods of 4 KiB as people have them, small ConfigMaps, and what must be there before.
//!
//! Invariants
//! - All Pods are equally long, so that no store has more to do.
//! - No scheduler feels addressed by the Pods: ours has none to decide about, as kube-apiserver has none at all.

use serde_json::{Value, json};

/// Bytes of a Pod as it is sent.
pub const POD: usize = 4096;
/// Bytes of a ConfigMap's value.
const VALUE: usize = 256;

/// Holes of templates.
pub const NAME: &str = "@@name@@";
pub const GROUP: &str = "@@group@@";
pub const NODE: &str = "@@node@@";
pub const TURN: &str = "@@turn@@";
pub const VERSION: &str = "@@version@@";

/// Where the annotation stands that writes change.
pub const ANNOTATION: &str = "api-load/turn";

/// A text with holes.
#[derive(Clone, Debug)]
pub struct Template {
    /// Text, then the number of the hole behind it.
    parts: Vec<(String, Option<usize>)>,
}

impl Template {
    /// Holes that are not in the text stay unused.
    pub fn new(text: &str, holes: &[&str]) -> Self {
        let (mut parts, mut rest) = (Vec::new(), text);
        let next = |rest: &str| {
            let found = holes.iter().enumerate().filter_map(|(hole, mark)| rest.find(mark).map(|at| (at, hole)));
            found.min()
        };
        while let Some((at, hole)) = next(rest) {
            parts.push((rest[..at].to_owned(), Some(hole)));
            rest = &rest[at + holes[hole].len()..];
        }
        parts.push((rest.to_owned(), None));
        Self { parts }
    }

    /// Replaces what `out` holds; one text for each hole.
    pub fn fill(&self, holes: &[&str], out: &mut Vec<u8>) {
        out.clear();
        for (text, hole) in &self.parts {
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(hole.map_or("", |hole| holes[hole]).as_bytes());
        }
    }
}

/// A Pod with the holes [`NAME`], [`GROUP`] and, if it is to be bound, [`NODE`], to be filled by [`name`] and [`part`].
pub fn pod(bound: bool) -> Template {
    let mut pod = plain_pod();
    if bound {
        pod["spec"]["nodeName"] = json!(NODE);
    }
    let template = |pod: &Value| Template::new(&pod.to_string(), &[NAME, GROUP, NODE]);
    let mut sample = Vec::new();
    template(&pod).fill(&[&name(0), &part('g', 0), &part('n', 0)], &mut sample);
    pod["metadata"]["annotations"]["api-load/filler"] = json!(filler(POD - sample.len()));
    template(&pod)
}

/// A ConfigMap with the hole [`NAME`].
pub fn config_map() -> Template {
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": NAME }, "data": { "settings": filler(VALUE) } });
    Template::new(&map.to_string(), &[NAME])
}

/// An object's name, by its number.
pub fn name(number: u64) -> String {
    format!("p-{number:010}")
}

/// The name of a group or node that many objects share.
pub fn part(letter: char, number: u64) -> String {
    format!("{letter}{number:04}")
}

pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// What admission wants to see before it lets a Pod in.
pub fn service_account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })
}

pub fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } })
}

fn plain_pod() -> Value {
    let containers: Vec<Value> = ["app", "proxy"].iter().map(|name| container(name)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": NAME,
            "labels": { "app.kubernetes.io/name": "shop", "app.kubernetes.io/component": "front", "group": GROUP },
            "annotations": { ANNOTATION: "0000000000", "api-load/filler": "" },
        },
        "spec": {
            "schedulerName": "nobody",
            "terminationGracePeriodSeconds": 0,
            "containers": containers,
            "tolerations": [{ "operator": "Exists" }],
            "volumes": [
                { "name": "settings", "configMap": { "name": "settings" } },
                { "name": "scratch", "emptyDir": {} },
            ],
        },
    })
}

fn container(name: &str) -> Value {
    let env: Vec<Value> = (0..6).map(|i| json!({ "name": format!("SETTING_{i}"), "value": filler(24) })).collect();
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 10 });
    json!({
        "name": name,
        "image": format!("registry.test/shop/{name}:1.24.3"),
        "env": env,
        "ports": [{ "name": name, "containerPort": 8080 }],
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
        "livenessProbe": probe,
        "readinessProbe": probe,
        "volumeMounts": [
            { "name": "settings", "mountPath": "/etc/shop", "readOnly": true },
            { "name": "scratch", "mountPath": "/tmp" },
        ],
    })
}

/// Text that does not compress to nothing, the same for every store.
fn filler(length: usize) -> String {
    let mut state = 1_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + u8::try_from(state >> 24).unwrap_or_default() % 26)
    };
    (0..length).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_where_they_are_and_as_often() {
        let template = Template::new("a @@x@@ b @@y@@@@x@@", &["@@x@@", "@@y@@", "@@z@@"]);
        let mut out = b"before".to_vec();
        template.fill(&["1", "22", "unused"], &mut out);
        assert_eq!(out, b"a 1 b 221");
    }

    #[test]
    fn pods_have_four_kibibytes() {
        for (bound, number) in [(false, 0), (true, 9_999_999_999)] {
            let mut out = Vec::new();
            let (name, group, node) = (name(number), part('g', number % 100), part('n', 7));
            pod(bound).fill(&[&name, &group, &node], &mut out);
            let pod: Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!((out.len(), &pod["metadata"]["name"]), (POD, &json!(name)));
            assert_eq!(pod["metadata"]["labels"]["group"], json!(group));
            assert_eq!(pod["spec"].get("nodeName"), bound.then(|| json!(node)).as_ref());
        }
    }
}
