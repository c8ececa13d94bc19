//! Endpoints: the older, one-object form of a Service's addresses, kept for clients that read it.
//!
//! Invariants
//! - Only objects with our `managed-by` label are ever deleted; a person's own Endpoints stay.
//! - Addresses and ports are sorted, so an unchanged set of pods writes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpointslice::{HEADLESS, address, has_endpoints, headless, pod_reference, target_port};
use crate::action::{DeleteHow, Plan, create, delete, patch_to};
use crate::object::{deleting, label, labels};
use crate::pod;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in one object, as upstream.
const FULL: usize = 1000;

/// What a plan is made from.
pub struct View {
    /// The Service, unless it is gone.
    pub service: Option<Arc<Service>>,
    /// The Endpoints of its name.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// Decides the next write for one Service name.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let Some(service) = view.service.as_deref().filter(|service| !deleting(&service.metadata)) else {
        let ours = view.endpoints.as_deref().filter(|endpoints| {
            label(&endpoints.metadata, MANAGED_BY) == Some(MANAGER) && !deleting(&endpoints.metadata)
        });
        let deletions = ours.map(|endpoints| delete(endpoints, DeleteHow::default(), None));
        return Plan::new("its Service is gone", deletions.into_iter().collect());
    };
    if !has_endpoints(service) {
        return Plan::rest("its Service selects nothing");
    }
    let (subsets, truncated) = subsets(service, &view.pods);
    let action = match view.endpoints.as_deref() {
        None if view.namespace_terminating => return Plan::rest("its namespace is terminating"),
        None => Some(create(&filled(service, ObjectMeta::default(), subsets, truncated), None)),
        Some(old) => patch_to(old, &filled(service, old.metadata.clone(), subsets, truncated), None),
    };
    match action {
        Some(action) => Plan::new("its addresses changed", vec![action]),
        None => Plan::rest("its addresses are right"),
    }
}

fn filled(service: &Service, old: ObjectMeta, subsets: Vec<EndpointSubset>, truncated: bool) -> Endpoints {
    let mut wanted = labels(&service.metadata);
    wanted.insert(MANAGED_BY.into(), MANAGER.into());
    wanted.remove(HEADLESS);
    if headless(service) {
        wanted.insert(HEADLESS.into(), String::new());
    }
    let mut annotations = old.annotations.clone().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(wanted),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..old
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// One port: name, number, protocol, application protocol.
type Port = (String, i32, String, Option<String>);

fn ports_of(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut ports: Vec<Port> = ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((port.name.clone().unwrap_or_default(), target_port(pod, port)?, protocol, port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

/// By IP and target name: whether it is ready, and the address as it is published.
type Addresses = BTreeMap<(IpAddr, String), (bool, EndpointAddress)>;

/// The addresses grouped by ports, and whether some had to be left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let eager = spec.is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let family = spec.and_then(|spec| spec.ip_families.as_ref()?.first()).map_or("IPv4", String::as_str);
    let has_ports = spec.is_some_and(|spec| spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
    let mut groups: BTreeMap<Vec<Port>, Addresses> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod::finished(pod) && (eager || !deleting(&pod.metadata))) {
        let Some(ip) = address(pod, family) else { continue };
        let ports = ports_of(service, pod);
        if ports.is_empty() && has_ports {
            continue;
        }
        let Ok(sort) = ip.parse() else { continue };
        let entry = (eager || pod::ready(pod), address_of(service, pod, ip));
        groups.entry(ports).or_default().insert((sort, pod.metadata.uid.clone().unwrap_or_default()), entry);
    }
    let mut room = FULL;
    let total: usize = groups.values().map(BTreeMap::len).sum();
    let subsets = groups.into_iter().map(|(ports, addresses)| subset(&ports, addresses.into_values(), &mut room));
    (subsets.collect(), total > FULL)
}

fn address_of(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_ref());
    let hostname = spec.and_then(|spec| spec.hostname.clone());
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: hostname.filter(|name| !name.is_empty() && subdomain == service.metadata.name.as_ref()),
        node_name: pod::node(pod).map(str::to_owned),
        target_ref: Some(pod_reference(pod)),
    }
}

fn subset(
    ports: &[Port],
    addresses: impl Iterator<Item = (bool, EndpointAddress)>,
    room: &mut usize,
) -> EndpointSubset {
    // What serves goes first, if there is not room for all.
    let (ready, rest): (Vec<_>, Vec<_>) = addresses.partition(|(ready, _)| *ready);
    let mut take = |list: Vec<(bool, EndpointAddress)>| {
        let kept: Vec<EndpointAddress> = list.into_iter().take(*room).map(|(_, address)| address).collect();
        *room -= kept.len();
        (!kept.is_empty()).then_some(kept)
    };
    let port = |(name, port, protocol, app_protocol): &Port| EndpointPort {
        name: (!name.is_empty()).then(|| name.clone()),
        port: *port,
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    };
    EndpointSubset {
        addresses: take(ready),
        not_ready_addresses: take(rest),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, map, meta, pods, show};

    fn service() -> Service {
        let spec = ServiceSpec {
            selector: Some(map(&[("app", "web")])),
            ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        };
        Service { metadata: meta("web"), spec: Some(spec), status: None }
    }

    #[test]
    fn readiness_decides_the_list() {
        for (have, ready, not_ready) in [("a", 1, 0), ("a!", 0, 1), ("a~", 0, 0), ("a.", 0, 0), ("", 0, 0)] {
            let (subsets, _) = subsets(&service(), &pods("web", have));
            let count = |of: fn(&EndpointSubset) -> &Option<Vec<EndpointAddress>>| -> usize {
                subsets.iter().filter_map(|subset| of(subset).as_ref()).map(Vec::len).sum()
            };
            assert_eq!((count(|s| &s.addresses), count(|s| &s.not_ready_addresses)), (ready, not_ready), "{have}");
        }
    }

    #[test]
    fn rests_after_one_write_and_goes_with_its_service() {
        let (mut cluster, pods) = (Cluster::default(), pods("web", "a b!"));
        let rested = cluster.settle(3, |cluster| {
            let endpoints = cluster.list::<Endpoints>();
            let service = Some(Arc::new(service()));
            let endpoints = endpoints.first().cloned();
            plan(&View { service, endpoints, pods: pods.clone(), namespace_terminating: false }).actions
        });
        assert!(rested, "{}", cluster.trace());
        let endpoints: Endpoints = cluster.only();
        let gone = |endpoints: Endpoints| {
            let endpoints = Some(Arc::new(endpoints));
            let plan = plan(&View { service: None, endpoints, pods: Vec::new(), namespace_terminating: false });
            assert_eq!(plan.why, "its Service is gone");
            show(&plan.actions)
        };
        assert_eq!(gone(endpoints.clone()), "-web");
        assert_eq!(gone(Endpoints { metadata: meta("web"), subsets: None }), "");
        let mut going = endpoints;
        going.metadata.deletion_timestamp = Some(time(NOW));
        assert_eq!(gone(going), "", "a finalizer holds it");
    }

    #[test]
    fn a_namespace_on_its_way_out_gets_no_new_ones() {
        let old = || Some(Arc::new(Endpoints { metadata: meta("web"), subsets: None }));
        for (namespace_terminating, endpoints, expect, why) in [
            (false, None, "+web", "its addresses changed"),
            (true, None, "", "its namespace is terminating"),
            (true, old(), "patch web", "its addresses changed"),
        ] {
            let service = Some(Arc::new(service()));
            let plan = plan(&View { service, endpoints, pods: pods("web", "a"), namespace_terminating });
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why));
        }
    }

    #[test]
    fn a_service_without_selector_is_left_alone() {
        let mut service = service();
        service.spec.as_mut().unwrap().selector = None;
        let view =
            View { service: Some(Arc::new(service)), endpoints: None, pods: Vec::new(), namespace_terminating: false };
        assert_eq!(plan(&view), Plan::rest("its Service selects nothing"));
    }
}
