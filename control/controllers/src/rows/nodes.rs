//! What concerns nodes: pod ranges, liveness and taints, eviction, pods that nobody removes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kontiki_api::informer::Registration;
use kontiki_plan::node_lifecycle::state;
use kontiki_plan::object::{deleting, name};
use kontiki_plan::replicaset::Failure;
use kontiki_plan::{Plan, node_ipam, node_lifecycle, pod, podgc, taint_eviction};

use crate::queue::Queue;
use crate::world::{BY_NODE, World};

const LEASES: &str = "kube-node-lease";

pub(super) fn ipam_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let queue = queue.clone();
    vec![world.caches.nodes.on_change(move |change| {
        let lacks = |node: &Arc<Node>| node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()).is_none();
        if change.new.as_ref().is_none_or(lacks) {
            queue.add("");
        }
    })]
}

pub(super) fn ipam(world: &World, _: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let nodes = world.caches.nodes.list();
    let settings = &world.settings;
    node_ipam::plan(&node_ipam::View { nodes: &nodes, network: settings.pod_cidr, prefix: settings.node_cidr_bits })
}

fn renewal(lease: &Lease) -> String {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    renewed.map(|time| time.0.to_string()).unwrap_or_default()
}

pub(super) fn lifecycle_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let leases = {
        let world = world.clone();
        world.caches.leases.clone().on_change(move |change| {
            if change.key.namespace.as_deref() == Some(LEASES)
                && let Some(lease) = &change.new
            {
                world.liveness.heard(&change.key.name, renewal(lease));
            }
        })
    };
    let nodes = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.nodes.clone().on_change(move |change| {
            queue.add(&change.key.name);
            if change.new.is_none() {
                world.liveness.forget(&change.key.name);
            }
            let ready =
                |node: &Option<Arc<Node>>| node.as_ref().is_some_and(|node| state(node, "Ready") == Some("True"));
            if ready(&change.old) != ready(&change.new) {
                // Whether any node is ready at all concerns every node.
                world.caches.nodes.list().iter().for_each(|node| queue.add(name(&node.metadata)));
            }
        })
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.pods.clone().on_change(move |change| {
            let serving = change.new.as_ref().filter(|pod| pod::ready(pod));
            if let Some(node) = serving.and_then(|pod| pod::node(pod)).filter(|node| lost(&world, node)) {
                queue.add(node);
            }
        })
    };
    vec![leases, nodes, pods]
}

fn lost(world: &World, node: &str) -> bool {
    world.caches.nodes.get(None, node).is_some_and(|node| state(&node, "Ready") == Some("Unknown"))
}

pub(super) fn lifecycle(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let Some(node) = world.caches.nodes.get(None, key) else { return Plan::default() };
    let pods = world.caches.pods.by_index(BY_NODE, key);
    let any_ready = world.caches.nodes.list().iter().any(|node| state(node, "Ready") == Some("True"));
    let (silent, grace) = (world.liveness.silent(key), world.settings.node_grace);
    node_lifecycle::plan(&node_lifecycle::View { node: &node, silent, grace, pods: &pods, any_ready }, now)
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

pub(super) fn eviction_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let nodes = {
        let queue = queue.clone();
        world.caches.nodes.on_change(move |change| {
            if change.both().any(|node| no_execute(node).next().is_some()) {
                queue.add(&change.key.name);
            }
        })
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.pods.clone().on_change(move |change| {
            let Some(name) = change.new.as_ref().and_then(|pod| pod::node(pod)) else { return };
            if world.caches.nodes.get(None, name).is_some_and(|node| no_execute(&node).next().is_some()) {
                queue.add(name);
            }
        })
    };
    vec![nodes, pods]
}

pub(super) fn eviction(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let prefix = format!("{key}/");
    let taints: Vec<(Taint, Timestamp)> = match world.caches.nodes.get(None, key) {
        Some(node) => no_execute(&node).map(|taint| (taint.clone(), since(world, &prefix, taint, now))).collect(),
        None => Vec::new(),
    };
    let present: Vec<String> = taints.iter().map(|(taint, _)| label(&prefix, taint)).collect();
    world.taints.forget_others(&prefix, &present);
    let pods = world.caches.pods.by_index(BY_NODE, key);
    taint_eviction::plan(&taint_eviction::View { taints: &taints, pods: &pods }, now)
}

fn label(prefix: &str, taint: &Taint) -> String {
    format!("{prefix}{}={}", taint.key, taint.value.as_deref().unwrap_or_default())
}

/// From when a taint counts: its own time, else the time it was first noticed here.
fn since(world: &World, prefix: &str, taint: &Taint, now: Timestamp) -> Timestamp {
    match &taint.time_added {
        Some(time) => time.0,
        None => world.taints.since(&label(prefix, taint), now),
    }
}

pub(super) fn podgc_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let nodes = {
        let queue = queue.clone();
        world.caches.nodes.on_change(move |change| queue.add(&change.key.name))
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.pods.clone().on_change(move |change| {
            if let Some(pod) = change.new.as_ref().filter(|pod| unattended(&world, pod)) {
                queue.add(pod::node(pod).unwrap_or_default());
            }
        })
    };
    vec![nodes, pods]
}

/// Whether a pod might be one that no agent removes.
fn unattended(world: &World, pod: &Pod) -> bool {
    deleting(&pod.metadata) || pod::node(pod).is_some_and(|node| world.caches.nodes.get(None, node).is_none())
}

pub(super) fn podgc(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let node = if key.is_empty() { None } else { world.caches.nodes.get(None, key) };
    let pods = world.caches.pods.by_index(BY_NODE, key);
    let missing = !key.is_empty() && node.is_none() && !pods.is_empty();
    let absent_since = missing.then(|| world.absent.since(&format!("{key}/"), now));
    if !missing {
        world.absent.forget_others(&format!("{key}/"), &[]);
    }
    podgc::plan(&podgc::View { node: node.as_deref(), absent_since, pods: &pods }, now)
}
