//! Nodes and pods in a few words, and plugins judged one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ContainerImage, ContainerPort, EphemeralVolumeSource, Node, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, NodeSpec, NodeStatus, PersistentVolumeClaimVolumeSource, Pod,
    PodCondition, PodResourceClaim, PodSpec, PreferredSchedulingTerm, ResourceRequirements, Taint, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::framework::{Context, CycleState, Plugin, Prepared, Scheduler};
use super::peers::HOSTNAME;
use super::pod::{PREEMPTED, PodInfo};
use super::table::NodeTable;
use super::testing_peers;
use crate::object::time;
use crate::testing::{NOW, map, meta, pod as bound_pod};

pub fn amounts(cpu: &str, memory: &str) -> BTreeMap<String, Quantity> {
    [("cpu", cpu), ("memory", memory)].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into()
}

/// `name`, then any of `cpu=N`, `pods=N`, `cordon`, `taint=key[=value]:Effect`, `label=key:value`,
/// `image=name:megabytes`; four processors and 8 GiB without.
pub fn node(text: &str) -> Node {
    let mut words = text.split_whitespace();
    let mut node = Node { metadata: meta(words.next().unwrap()), ..Node::default() };
    node.metadata.namespace = None;
    node.metadata.labels = Some(map(&[(HOSTNAME, node.metadata.name.as_deref().unwrap())]));
    let mut allocatable = amounts("4", "8Gi");
    allocatable.insert("pods".into(), Quantity("110".into()));
    let spec = node.spec.insert(NodeSpec::default());
    let mut images = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "cordon" => spec.unschedulable = Some(true),
            "taint" => {
                let (name, effect) = value.split_once(':').unwrap();
                let (key, value) = name.split_once('=').map_or((name, None), |(k, v)| (k, Some(v.into())));
                let taint = Taint { key: key.into(), value, effect: effect.into(), time_added: None };
                spec.taints.get_or_insert_default().push(taint);
            }
            "label" => {
                let (key, value) = value.split_once(':').unwrap();
                node.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
            }
            "image" => {
                let (name, size) = value.split_once(':').unwrap();
                let size_bytes = Some(size.parse::<i64>().unwrap() * 1024 * 1024);
                images.push(ContainerImage { names: Some(vec![name.into()]), size_bytes });
            }
            other => drop(allocatable.insert(other.into(), Quantity(value.into()))),
        }
    }
    node.status = Some(NodeStatus { allocatable: Some(allocatable), images: Some(images), ..NodeStatus::default() });
    node
}

/// `key:Operator[:value,value]`.
fn requirement(text: &str) -> NodeSelectorRequirement {
    let mut parts = text.splitn(3, ':').map(str::to_owned);
    let (key, operator) = (parts.next().unwrap(), parts.next().unwrap());
    let values = parts.next().map(|values| values.split(',').map(str::to_owned).collect());
    NodeSelectorRequirement { key, operator, values }
}

fn node_affinity(spec: &mut PodSpec) -> &mut NodeAffinity {
    spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default()
}

fn require(spec: &mut PodSpec, term: NodeSelectorTerm) {
    let required = &mut node_affinity(spec).required_during_scheduling_ignored_during_execution;
    required.get_or_insert(NodeSelector { node_selector_terms: Vec::new() }).node_selector_terms.push(term);
}

/// `number[/protocol][@address]`.
fn port(text: &str) -> ContainerPort {
    let (text, address) = text.split_once('@').map_or((text, None), |(t, a)| (t, Some(a.to_owned())));
    let (number, protocol) = text.split_once('/').map_or((text, None), |(n, p)| (n, Some(p.to_owned())));
    ContainerPort { host_port: number.parse().ok(), host_ip: address, protocol, ..ContainerPort::default() }
}

/// Named like what it mounts: a claim, a claim of the pod's own, or a volume of a driver.
fn volume(kind: &str, name: &str) -> Volume {
    let volume = Volume { name: name.into(), ..Volume::default() };
    let claim = PersistentVolumeClaimVolumeSource { claim_name: name.into(), ..Default::default() };
    match kind {
        "mount" => Volume { persistent_volume_claim: Some(claim), ..volume },
        "own" => Volume { ephemeral: Some(EphemeralVolumeSource::default()), ..volume },
        _ => Volume { csi: Some(CSIVolumeSource { driver: name.into(), ..Default::default() }), ..volume },
    }
}

/// Any of `cpu=N`, `gpu=N`, `port=N[/protocol][@address]`, `select=key:value`, `tolerate=key`,
/// `on=node`, `priority=N`, and with `key:Operator[:value,value]`: `require`, `prefer`, `field`;
/// `label=key:value`, `ns=name`, `mount=claim`, `own=volume`, `inline=driver`, `going=1`, `preempted=1`, `never=1`, `started=seconds`, `nominated=node`, `claim=name`;
/// and what [`super::testing_peers`] reads.
pub fn pod(name: &str, text: &str) -> Pod {
    let mut pod = bound_pod(name, &[("app", "web")]);
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = None;
    let mut requests = BTreeMap::new();
    let term = |value: &str| NodeSelectorTerm { match_expressions: Some(vec![requirement(value)]), match_fields: None };
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "port" => spec.containers[0].ports = Some(vec![port(value)]),
            "select" => spec.node_selector = Some(map(&[value.split_once(':').unwrap()])),
            "prefer" => {
                let preferred = &mut node_affinity(spec).preferred_during_scheduling_ignored_during_execution;
                let term = PreferredSchedulingTerm { preference: term(value), weight: 10 };
                preferred.get_or_insert_default().push(term);
            }
            "require" => require(spec, term(value)),
            "field" => {
                let match_fields = Some(vec![requirement(value)]);
                require(spec, NodeSelectorTerm { match_expressions: None, match_fields });
            }
            "tolerate" => {
                let toleration =
                    Toleration { key: Some(value.into()), operator: Some("Exists".into()), ..Toleration::default() };
                spec.tolerations = Some(vec![toleration]);
            }
            "ns" => pod.metadata.namespace = Some(value.into()),
            "label" => {
                let (key, value) = value.split_once(':').unwrap();
                pod.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
            }
            "going" => pod.metadata.deletion_timestamp = Some(time(NOW)),
            "never" => spec.preemption_policy = Some("Never".into()),
            "started" => {
                let at = NOW + jiff::SignedDuration::from_secs(value.parse().unwrap());
                pod.status.get_or_insert_default().start_time = Some(time(at));
            }
            "nominated" => pod.status.get_or_insert_default().nominated_node_name = Some(value.into()),
            "preempted" => {
                let reason = Some(PREEMPTED.to_owned());
                let condition = PodCondition {
                    type_: "DisruptionTarget".into(),
                    status: "True".into(),
                    reason,
                    ..Default::default()
                };
                pod.status.get_or_insert_default().conditions = Some(vec![condition]);
            }
            "mount" | "own" | "inline" => spec.volumes.get_or_insert_default().push(volume(key, value)),
            "claim" => {
                let claim = PodResourceClaim { name: value.into(), ..Default::default() };
                spec.resource_claims = Some(vec![claim]);
            }
            "near" | "apart" | "likes" | "dislikes" | "spread" => testing_peers::add(spec, key, value),
            "on" => spec.node_name = Some(value.into()),
            "priority" => spec.priority = value.parse().ok(),
            "gpu" => drop(requests.insert("example.com/gpu".to_owned(), Quantity(value.into()))),
            other => drop(requests.insert(other.to_owned(), Quantity(value.into()))),
        }
    }
    spec.containers[0].resources =
        Some(ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() });
    pod
}

/// A pod that the Service `web` selects.
pub fn info(name: &str, text: &str) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(&pod(name, text), &["web".to_owned()]))
}

pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|text| !text.trim().is_empty())
}

/// With nodes, by comma, and pods that are there (`node: pod`), by comma.
pub fn fill(mut scheduler: Scheduler, nodes: &str, pods: &str) -> Scheduler {
    for text in parts(nodes) {
        scheduler.set_node(&node(text));
    }
    for (at, text) in parts(pods).enumerate() {
        let (node, text) = text.split_once(':').unwrap();
        scheduler.add_pod(info(&format!("there{at}"), text), node.trim());
    }
    scheduler
}

pub fn scheduler(nodes: &str, pods: &str) -> Scheduler {
    fill(Scheduler::default(), nodes, pods)
}

pub fn table(nodes: &str, pods: &str) -> NodeTable {
    scheduler(nodes, pods).nodes().clone()
}

/// What a filter refuses: `node: reason + reason` by comma, with `!` where no preemption would help.
pub fn check_filter(name: &str, plugin: &Plugin, nodes: &str, there: &str, want: &str, expect: &str) {
    let (table, pod, filter) = (table(nodes, there), info("new", want), plugin.filter.unwrap());
    let mut state = CycleState::default();
    let prepared = filter.pre_filter(&pod.spec, &table, &mut state);
    let cx = Context { pod: &pod.spec, nodes: &table, state: &state };
    let mut refused = Vec::new();
    for row in table.rows().iter().filter(|_| prepared != Ok(Prepared::Skip)) {
        if let Err(refusal) = filter.filter(&cx, *row) {
            let reasons: Vec<String> = refusal.reasons().map(|reason| (plugin.describe)(&cx, reason)).collect();
            let mark = if refusal.unresolvable { "!" } else { "" };
            refused.push(format!("{}: {}{mark}", table.name(*row), reasons.join(" + ")));
        }
    }
    assert_eq!(refused.join(", "), expect, "{name}");
}

/// The normalized scores of all nodes; zeros where the plugin has nothing to say.
pub fn check_score(name: &str, plugin: &Plugin, nodes: &str, there: &str, want: &str, expect: &[i64]) {
    let (table, pod, score) = (table(nodes, there), info("new", want), plugin.score.unwrap());
    let mut state = CycleState::default();
    let prepared = score.pre_score(&pod.spec, &table, &mut state);
    let mut scores = vec![0; table.rows().len()];
    if prepared != Prepared::Skip {
        score.survey(&pod.spec, &table, table.rows(), &mut state);
        let cx = Context { pod: &pod.spec, nodes: &table, state: &state };
        scores = table.rows().iter().map(|row| score.score(&cx, *row)).collect();
        score.normalize(&mut scores);
    }
    assert_eq!(scores, expect, "{name}");
}
