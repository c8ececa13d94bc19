//! EndpointSlice and Endpoints.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kontiki_api::informer::{Change, Registration};
use kontiki_model::selector::Selector;
use kontiki_plan::endpointslice::SERVICE_NAME;
use kontiki_plan::object::{Labels, deleting, label, labels, name, namespace};
use kontiki_plan::replicaset::Failure;
use kontiki_plan::{Plan, endpoints, endpointslice, pod};

use super::{key, split};
use crate::queue::Queue;
use crate::world::World;

const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn slice_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let mut inputs = service_inputs(world, queue);
    let slices = {
        let queue = queue.clone();
        world.caches.slices.on_change(move |change| {
            for slice in change.both() {
                if let Some(service) = label(&slice.metadata, SERVICE_NAME) {
                    queue.add(&key(namespace(&slice.metadata), service));
                }
            }
        })
    };
    let nodes = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.nodes.clone().on_change(move |change| {
            if place(change.old.as_deref()) != place(change.new.as_deref()) {
                for service in world.caches.services.list() {
                    queue.add(&key(namespace(&service.metadata), name(&service.metadata)));
                }
            }
        })
    };
    inputs.extend([slices, nodes]);
    inputs
}

pub(super) fn endpoints_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let mut inputs = service_inputs(world, queue);
    let queue = queue.clone();
    inputs.push(world.caches.endpoints.on_change(move |change| {
        queue.add(&key(change.key.namespace.as_deref().unwrap_or_default(), &change.key.name));
    }));
    inputs
}

fn service_inputs(world: &Arc<World>, queue: &Arc<Queue>) -> Vec<Registration> {
    let services = {
        let queue = queue.clone();
        world.caches.services.on_change(move |change| {
            queue.add(&key(change.key.namespace.as_deref().unwrap_or_default(), &change.key.name));
        })
    };
    let pods = {
        let (world, queue) = (world.clone(), queue.clone());
        world.caches.pods.clone().on_change(move |change| {
            services_of(&world, change).iter().for_each(|key| queue.add(key));
        })
    };
    vec![services, pods]
}

/// Whether and where a node is, as far as endpoints show it.
fn place(node: Option<&Node>) -> Option<Option<&str>> {
    node.map(|node| label(&node.metadata, ZONE))
}

/// What endpoints show of a pod.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    (
        (labels(&pod.metadata), pod.metadata.uid.as_deref(), deleting(&pod.metadata)),
        (pod::node(pod), pod::ready(pod), pod::finished(pod)),
        (status.and_then(|status| status.pod_ip.as_deref()), status.and_then(|status| status.pod_ips.as_ref())),
    )
}

/// The Services whose endpoints a pod's change may concern.
fn services_of(world: &World, change: &Change<Pod>) -> Vec<String> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && shown(old) == shown(new)
    {
        return Vec::new();
    }
    let space = change.key.namespace.as_deref().unwrap_or_default();
    let sides: Vec<Labels> = change.both().map(|pod| labels(&pod.metadata)).collect();
    let services = world.caches.services.by_namespace(space);
    let concerned = services.iter().filter(|service| {
        selector(service).is_some_and(|selector| sides.iter().any(|labels| selector.matches(labels)))
    });
    concerned.map(|service| key(space, name(&service.metadata))).collect()
}

fn selector(service: &Service) -> Option<Selector> {
    let map = service.spec.as_ref()?.selector.as_ref().filter(|map| !map.is_empty())?;
    Some(Selector::from_map(map))
}

fn selected(world: &World, service: &Service) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut pods = world.caches.pods.by_namespace(namespace(&service.metadata));
    pods.retain(|pod| selector.matches_with(|key| label(&pod.metadata, key)));
    pods
}

pub(super) fn slices(world: &World, key: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let (space, name) = split(key);
    let Some(service) = world.caches.services.get(Some(space), name) else { return Plan::default() };
    let mut slices = world.caches.slices.by_namespace(space);
    slices.retain(|slice| label(&slice.metadata, SERVICE_NAME) == Some(name));
    let pods = selected(world, &service);
    let zones = |node: &str| {
        let node = world.caches.nodes.get(None, node)?;
        Some(label(&node.metadata, ZONE).map(str::to_owned))
    };
    let namespace_going = world.namespace_going(space);
    endpointslice::plan(&endpointslice::View {
        service: &service,
        pods: &pods,
        slices: &slices,
        zones: &zones,
        namespace_going,
    })
}

pub(super) fn endpoints(world: &World, key: &str, _: Timestamp, _: Option<&Failure>) -> Plan {
    let (space, name) = split(key);
    let service = world.caches.services.get(Some(space), name);
    let endpoints = world.caches.endpoints.get(Some(space), name);
    let pods = service.as_ref().map(|service| selected(world, service)).unwrap_or_default();
    endpoints::plan(&endpoints::View {
        service: service.as_deref(),
        endpoints: endpoints.as_deref(),
        pods: &pods,
        namespace_going: world.namespace_going(space),
    })
}
