use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, NodeSpec,
    NodeStatus, Pod, PreferredSchedulingTerm, ResourceRequirements, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;

use super::*;
use crate::testing::{map, meta, pod as bound_pod};

fn amounts(cpu: &str, memory: &str) -> BTreeMap<String, Quantity> {
    [("cpu", cpu), ("memory", memory)].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into()
}

/// `name`, then any of `cpu=N`, `pods=N`, `cordon`, `taint=key:Effect`, `label=key:value`.
fn node(text: &str) -> Node {
    let mut words = text.split_whitespace();
    let mut node = Node { metadata: meta(words.next().unwrap()), ..Node::default() };
    node.metadata.namespace = None;
    let mut allocatable = amounts("4", "8Gi");
    allocatable.insert("pods".into(), Quantity("110".into()));
    let spec = node.spec.insert(NodeSpec::default());
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "cordon" => spec.unschedulable = Some(true),
            "taint" => {
                let (key, effect) = value.split_once(':').unwrap();
                let taint = Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
                spec.taints.get_or_insert_default().push(taint);
            }
            "label" => {
                let (key, value) = value.split_once(':').unwrap();
                node.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
            }
            other => drop(allocatable.insert(other.into(), Quantity(value.into()))),
        }
    }
    node.status = Some(NodeStatus { allocatable: Some(allocatable), ..NodeStatus::default() });
    node
}

/// Any of `cpu=N`, `gpu=N`, `port=N`, `select=key:value`, `prefer=key:value`, `require=key:value`,
/// `tolerate=key`, `on=node`.
fn pod(name: &str, text: &str) -> Pod {
    let mut pod = bound_pod(name, &[("app", "web")]);
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = None;
    let mut requests = BTreeMap::new();
    let term = |value: &str| {
        let (key, value) = value.split_once(':').unwrap();
        let (operator, values) = ("In".to_owned(), Some(vec![value.to_owned()]));
        let expression = NodeSelectorRequirement { key: key.into(), operator, values };
        NodeSelectorTerm { match_expressions: Some(vec![expression]), match_fields: None }
    };
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        let affinity = |spec: &mut k8s_openapi::api::core::v1::PodSpec, node_affinity: NodeAffinity| {
            spec.affinity = Some(Affinity { node_affinity: Some(node_affinity), ..Affinity::default() });
        };
        match key {
            "port" => {
                let port = ContainerPort { host_port: value.parse().ok(), ..ContainerPort::default() };
                spec.containers[0].ports = Some(vec![port]);
            }
            "select" => spec.node_selector = Some(map(&[value.split_once(':').unwrap()])),
            "prefer" => affinity(
                spec,
                NodeAffinity {
                    preferred_during_scheduling_ignored_during_execution: Some(vec![PreferredSchedulingTerm {
                        preference: term(value),
                        weight: 10,
                    }]),
                    ..NodeAffinity::default()
                },
            ),
            "require" => affinity(
                spec,
                NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                        node_selector_terms: vec![term(value)],
                    }),
                    ..NodeAffinity::default()
                },
            ),
            "tolerate" => {
                let toleration =
                    Toleration { key: Some(value.into()), operator: Some("Exists".into()), ..Toleration::default() };
                spec.tolerations = Some(vec![toleration]);
            }
            "on" => spec.node_name = Some(value.into()),
            "gpu" => drop(requests.insert("example.com/gpu".to_owned(), Quantity(value.into()))),
            other => drop(requests.insert(other.to_owned(), Quantity(value.into()))),
        }
    }
    spec.containers[0].resources =
        Some(ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() });
    pod
}

fn info(name: &str, text: &str) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(&pod(name, text), &["web".to_owned()]))
}

/// Nodes by comma, pods that are there (`node: pod`) by comma.
fn snapshot(nodes: &str, pods: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.split(',').filter(|text| !text.trim().is_empty()).for_each(|text| {
        snapshot.set_node(&node(text));
    });
    for (at, text) in pods.split(',').filter(|text| !text.trim().is_empty()).enumerate() {
        let (node, text) = text.split_once(':').map(|(n, t)| (n.trim(), t)).unwrap();
        snapshot.add_pod(info(&format!("there{at}"), text), node);
    }
    snapshot
}

#[test]
fn finds_the_node_or_says_why_not() {
    for (name, nodes, there, want, expect) in [
        ("the only one", "a", "", "cpu=1", "a"),
        ("the emptier one", "a, b", "a: cpu=2", "cpu=1", "b"),
        ("the one without its kin", "a, b cpu=2", "a: cpu=100m", "cpu=100m", "b"),
        ("the preferred one", "a, b label=disk:ssd", "", "prefer=disk:ssd", "b"),
        ("the required one", "a, b label=disk:ssd", "", "require=disk:ssd", "b"),
        ("the selected one", "a label=x:y, b", "b: cpu=1", "select=x:y", "a"),
        ("not the softly tainted one", "a taint=busy:PreferNoSchedule, b", "b: cpu=1", "cpu=1", "b"),
        ("a tainted one, tolerated", "a taint=own:NoSchedule", "", "tolerate=own", "a"),
        ("a free port", "a, b", "a: port=80", "port=80", "b"),
        ("no nodes", "", "", "", "no nodes available to schedule pods"),
        (
            "short of one thing each",
            "a cpu=1, b taint=own:NoSchedule",
            "",
            "cpu=2",
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {own: }. \
             preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
        (
            "full",
            "a pods=1, b cordon",
            "a: cpu=1",
            "cpu=1",
            "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable. preemption: 0/2 nodes are \
             available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
        ),
        (
            "unknown resource",
            "a",
            "",
            "gpu=1",
            "0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling.",
        ),
        (
            "nowhere selected",
            "a",
            "",
            "select=x:y",
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are \
             available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            "port taken",
            "a",
            "a: port=80",
            "port=80",
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 \
             nodes are available: 1 No preemption victims found for incoming pod.",
        ),
    ] {
        let got = match place(&snapshot(nodes, there), &info("new", want)) {
            Ok(node) => node.to_string(),
            Err(why) => why.to_string(),
        };
        assert_eq!(got, expect, "{name}");
    }
}

#[test]
fn only_news_about_a_node_counts_as_news() {
    let mut snapshot = snapshot("a", "");
    assert!(!snapshot.set_node(&node("a")));
    for change in ["a cpu=5", "a label=x:y", "a cordon", "a taint=own:NoSchedule", "a pods=7"] {
        assert!(snapshot.set_node(&node(change)), "{change}");
        assert!(snapshot.set_node(&node("a")), "and back from {change}");
    }
}

#[test]
fn replicas_spread_evenly() {
    let mut snapshot = snapshot("a, b, c cpu=3", "");
    let mut counts = BTreeMap::<String, usize>::new();
    for n in 0..9 {
        let pod = info(&format!("p{n}"), "cpu=100m");
        let node = place(&snapshot, &pod).unwrap();
        *counts.entry(node.to_string()).or_default() += 1;
        snapshot.add_pod(pod, &node);
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn an_init_container_counts_at_its_peak() {
    let mut pod = pod("p", "cpu=1");
    let init = |cpu: &str, policy: Option<&str>| k8s_openapi::api::core::v1::Container {
        name: "i".into(),
        restart_policy: policy.map(str::to_owned),
        resources: Some(ResourceRequirements { requests: Some(amounts(cpu, "0")), ..ResourceRequirements::default() }),
        ..Default::default()
    };
    for (name, inits, expect) in [
        ("a small one hides behind the containers", vec![init("500m", None)], 1000),
        ("a big one counts", vec![init("3", None)], 3000),
        ("a sidecar adds", vec![init("500m", Some("Always"))], 1500),
        ("a sidecar adds to a later one", vec![init("1", Some("Always")), init("3", None)], 4000),
    ] {
        let spec = pod.spec.as_mut().unwrap();
        spec.init_containers = Some(inits);
        assert_eq!(resources::of_pod(spec).milli_cpu, expect, "{name}");
    }
}

proptest! {
    #[test]
    fn sums_are_those_of_the_pods(steps in prop::collection::vec((0usize..6, 0usize..3, any::<bool>()), 0..40)) {
        let mut snapshot = snapshot("a, b, c", "");
        let mut there = BTreeMap::new();
        for (pod, node, add) in steps {
            let node = ["a", "b", "gone"][node];
            let pod = info(&format!("p{pod}"), "cpu=1 port=80");
            if add {
                there.insert(pod.uid.clone(), node);
                snapshot.add_pod(pod, node);
            } else {
                there.remove(&pod.uid);
                snapshot.remove_pod(&pod.uid);
            }
        }
        for row in snapshot.nodes() {
            let count = there.values().filter(|node| ***node == *row.name).count();
            prop_assert_eq!(row.pods, count);
            prop_assert_eq!(row.used.milli_cpu, i64::try_from(count).unwrap() * 1000);
            prop_assert_eq!(row.ports.len(), count);
            prop_assert_eq!(row.groups.is_empty(), count == 0);
        }
    }

    /// No pod is ever placed where it does not fit, whatever there is.
    #[test]
    fn never_overcommits(sizes in prop::collection::vec(1i64..2000, 1..40)) {
        let mut snapshot = snapshot("a cpu=3, b cpu=2", "");
        for (at, milli) in sizes.iter().enumerate() {
            let pod = info(&format!("p{at}"), &format!("cpu={milli}m"));
            if let Ok(node) = place(&snapshot, &pod) {
                snapshot.add_pod(pod, &node);
            }
        }
        for row in snapshot.nodes() {
            prop_assert!(row.used.milli_cpu <= row.allocatable.milli_cpu);
        }
    }
}
