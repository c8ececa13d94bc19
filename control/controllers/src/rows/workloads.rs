//! Deployment and ReplicaSet.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::informer::{Change, Registration};
use kontiki_model::selector::Selector;
use kontiki_plan::object::{controller, labels, name, namespace, uid};
use kontiki_plan::replicaset::Failure;
use kontiki_plan::{Plan, deployment, pod, replicaset};

use super::{key, split};
use crate::queue::Queue;
use crate::world::{BY_CONTROLLER, LOOSE, World};

pub(super) fn deployment_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let caches = &world.caches;
    let own = {
        let queue = queue.clone();
        caches.deployments.on_change(move |change| queue.add(&key_of(&change.key)))
    };
    let sets = {
        let (world, queue) = (world.clone(), queue.clone());
        caches.replica_sets.on_change(move |change| {
            for set in change.both() {
                deployments_of(&world, set).iter().for_each(|key| queue.add(key));
            }
        })
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        // Only a recreation waits for pods themselves.
        caches.pods.on_change(move |change| {
            let ended = change.new.as_ref().is_none_or(|pod| pod::finished(pod));
            if let Some(pod) = change.old.as_ref().filter(|_| ended) {
                recreated_by(&world, pod).iter().for_each(|key| queue.add(key));
            }
        })
    };
    vec![own, sets, pods]
}

fn key_of(object: &kontiki_model::ObjectKey) -> String {
    key(object.namespace.as_deref().unwrap_or_default(), &object.name)
}

/// The deployment that manages a set, or those that might adopt it.
fn deployments_of(world: &World, set: &ReplicaSet) -> Vec<String> {
    let space = namespace(&set.metadata);
    match controller(&set.metadata) {
        Some(owner) if owner.kind == Deployment::KIND => vec![key(space, &owner.name)],
        Some(_) => Vec::new(),
        None => {
            let own = labels(&set.metadata);
            let candidates = world.caches.deployments.by_namespace(space);
            let matches = |d: &&Arc<Deployment>| Selector::from_spec(&d.spec.selector).is_some_and(|s| s.matches(&own));
            candidates.iter().filter(matches).map(|d| key(space, name(&d.metadata))).collect()
        }
    }
}

fn recreated_by(world: &World, pod: &Pod) -> Option<String> {
    let space = namespace(&pod.metadata);
    let owner = controller(&pod.metadata).filter(|owner| owner.kind == ReplicaSet::KIND)?;
    let set = world.caches.replica_sets.get(Some(space), &owner.name)?;
    let owner = controller(&set.metadata).filter(|owner| owner.kind == Deployment::KIND)?;
    let deployment = world.caches.deployments.get(Some(space), &owner.name)?;
    recreates(&deployment).then(|| key(space, &owner.name))
}

fn recreates(deployment: &Deployment) -> bool {
    deployment.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub(super) fn deployment(world: &World, key: &str, now: Timestamp, _: Option<&Failure>) -> Plan {
    let (space, name) = split(key);
    let caches = &world.caches;
    let Some(deployment) = caches.deployments.get(Some(space), name) else { return Plan::default() };
    let sets = caches.replica_sets.by_namespace(space);
    let pods = if recreates(&deployment) {
        let own = caches.replica_sets.by_index(BY_CONTROLLER, uid(&deployment.metadata));
        own.iter().flat_map(|set| caches.pods.by_index(BY_CONTROLLER, uid(&set.metadata))).collect()
    } else {
        Vec::new()
    };
    let namespace_going = world.namespace_going(space);
    deployment::plan(&deployment::View { deployment: &deployment, sets: &sets, pods: &pods, namespace_going }, now)
}

pub(super) fn replica_set_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let caches = &world.caches;
    let own = {
        let queue = queue.clone();
        caches.replica_sets.on_change(move |change| queue.add(&key_of(&change.key)))
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        caches.pods.on_change(move |change| {
            if change.old.is_none() && change.new.as_ref().is_some_and(|pod| controller(&pod.metadata).is_none()) {
                return adopters(&world, change).iter().for_each(|key| queue.add(key));
            }
            for pod in change.both() {
                match controller(&pod.metadata) {
                    Some(owner) if owner.kind == ReplicaSet::KIND => {
                        queue.add(&key(namespace(&pod.metadata), &owner.name));
                    }
                    Some(_) => {}
                    None => adopters(&world, change).iter().for_each(|key| queue.add(key)),
                }
            }
        })
    };
    vec![own, pods]
}

/// The sets that might adopt a pod without a manager.
fn adopters(world: &World, change: &Change<Pod>) -> Vec<String> {
    let Some(pod) = change.new.as_ref().filter(|pod| controller(&pod.metadata).is_none()) else { return Vec::new() };
    let (space, own) = (namespace(&pod.metadata), labels(&pod.metadata));
    let matches = |set: &&Arc<ReplicaSet>| Selector::from_spec(&set.spec.selector).is_some_and(|s| s.matches(&own));
    let sets = world.caches.replica_sets.by_namespace(space);
    sets.iter().filter(matches).map(|set| key(space, name(&set.metadata))).collect()
}

pub(super) fn replica_set(world: &World, key: &str, now: Timestamp, failure: Option<&Failure>) -> Plan {
    let (space, name) = split(key);
    let caches = &world.caches;
    let Some(set) = caches.replica_sets.get(Some(space), name) else { return Plan::default() };
    let mut pods = caches.pods.by_index(BY_CONTROLLER, uid(&set.metadata));
    pods.extend(caches.pods.by_index(LOOSE, space));
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    let crowding = if pods.len() > wanted { crowding(world, &set) } else { HashMap::new() };
    let failure = failure.cloned();
    let namespace_going = world.namespace_going(space);
    replicaset::plan(&replicaset::View { set: &set, pods: &pods, crowding, failure, namespace_going }, now)
}

/// Active pods per node of all sets with the same manager.
fn crowding(world: &World, set: &Arc<ReplicaSet>) -> HashMap<String, usize> {
    let caches = &world.caches;
    let related = match controller(&set.metadata) {
        Some(owner) => caches.replica_sets.by_index(BY_CONTROLLER, &owner.uid),
        None => vec![set.clone()],
    };
    let mut out = HashMap::new();
    for pod in related.iter().flat_map(|set| caches.pods.by_index(BY_CONTROLLER, uid(&set.metadata))) {
        if let Some(node) = pod::node(&pod).filter(|_| pod::active(&pod)) {
            *out.entry(node.to_owned()).or_default() += 1;
        }
    }
    out
}

use k8s_openapi::Resource as _;
