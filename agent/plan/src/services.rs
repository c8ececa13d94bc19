//! What the service proxy must forward, derived from Services and EndpointSlices.
//!
//! Invariants
//! - The result depends on nothing but the given objects and the node's name; its order is stable,
//!   so equal input gives equal output and the proxy can compare.
//! - A headless, `ExternalName` or address-less Service yields nothing that a packet could be sent to.
//! - Which endpoints a packet may be sent to is decided here ([`ServicePort::cluster_targets`],
//!   [`ServicePort::local_targets`]), as `pkg/proxy/topology.go` of upstream does.
//!
//! Not here: packet rules (see kontiki-net).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort as SpecPort, ServiceSpec},
        discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::load_balancer;

/// Transport protocol of a service port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As nftables and `/proc` spell it.
    #[must_use]
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// As the API spells it. An absent protocol is TCP.
    #[must_use]
    pub fn from_api(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// One port of one Service, with everything needed to forward to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServicePort {
    pub namespace: String,
    pub name: String,
    /// Empty for an unnamed port.
    pub port_name: String,
    pub protocol: Protocol,
    pub cluster_ips: Vec<IpAddr>,
    pub port: u16,
    pub node_port: Option<u16>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer that lead to nodes unchanged (`ipMode: VIP`).
    pub balancer_ips: Vec<IpAddr>,
    /// Those of `balancer_ips` that the cluster announces itself: nothing but Services answers there.
    pub announced_ips: Vec<IpAddr>,
    /// Who may use `balancer_ips`; `None`: everybody.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Where a load balancer asks this node whether it has endpoints of its own.
    pub health_check_port: Option<u16>,
    /// `sessionAffinity: ClientIP` with this time-out.
    pub affinity_seconds: Option<u32>,
    pub external_policy_local: bool,
    pub internal_policy_local: bool,
    pub endpoints: Vec<Endpoint>,
}

/// One backend of a service port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// It runs on this node.
    pub local: bool,
    /// The hints of its Service mean it for this node, or there are none to follow.
    pub near: bool,
}

impl Endpoint {
    fn drains(&self) -> bool {
        self.serving && self.terminating
    }
}

impl ServicePort {
    /// Where traffic of the `Cluster` policy goes: ready endpoints that are meant for this node; failing any,
    /// those that still serve while they terminate. Sorted, each once.
    #[must_use]
    pub fn cluster_targets(&self) -> Vec<SocketAddr> {
        self.first_of(|e| e.ready && e.near, Endpoint::drains)
    }

    /// As [`Self::cluster_targets`], for the `Local` policy: this node's own endpoints, whatever hints say.
    #[must_use]
    pub fn local_targets(&self) -> Vec<SocketAddr> {
        self.first_of(|e| e.local && e.ready, |e| e.local && e.drains())
    }

    fn first_of(&self, best: impl Fn(&Endpoint) -> bool, other: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddr> {
        let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
            self.endpoints.iter().filter(|e| wanted(e)).map(|e| SocketAddr::new(e.ip, e.port)).collect()
        };
        let found = pick(&best);
        if found.is_empty() { pick(&other) } else { found }.into_iter().collect()
    }
}

/// The node that rules are derived for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here<'a> {
    pub node: &'a str,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<&'a str>,
}

/// What a load balancer is told of a Service at its health check port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub namespace: String,
    pub name: String,
    /// Ready endpoints on this node.
    pub local: usize,
}

/// The answers at the health check ports of this node.
#[must_use]
pub fn health(services: &[ServicePort]) -> BTreeMap<u16, Health> {
    let mut found: BTreeMap<u16, (&ServicePort, BTreeSet<IpAddr>)> = BTreeMap::new();
    for service in services {
        if let Some(port) = service.health_check_port {
            let ready = service.endpoints.iter().filter(|e| e.local && e.ready).map(|e| e.ip);
            found.entry(port).or_insert_with(|| (service, BTreeSet::new())).1.extend(ready);
        }
    }
    let answer = |(service, ips): (&ServicePort, BTreeSet<IpAddr>)| Health {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        local: ips.len(),
    };
    found.into_iter().map(|(port, found)| (port, answer(found))).collect()
}

/// Every service port that some packet can be sent to, sorted.
///
/// `slices` are those of all services; a slice belongs to the service its
/// `kubernetes.io/service-name` label names, in its own namespace.
#[must_use]
pub fn derive<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
) -> Vec<ServicePort> {
    let mut all = ports(services, slices, here, |_, _| true);
    all.retain(|port| !port.cluster_ips.is_empty());
    all
}

/// As [`derive`], for whoever sends to endpoints by itself: of the Services that `wanted` names alone, those without an
/// address too.
#[must_use]
pub fn behind<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
    wanted: &BTreeSet<(&str, &str)>,
) -> Vec<ServicePort> {
    ports(services, slices, here, |namespace, name| wanted.contains(&(namespace, name)))
}

fn ports<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    here: Here<'_>,
    wanted: impl Fn(&str, &str) -> bool,
) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let owner = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        if let (Some(owner), Some(namespace)) = (owner, slice.metadata.namespace.as_deref())
            && wanted(namespace, owner)
        {
            by_service.entry((namespace, owner)).or_default().push(slice);
        }
    }
    let mut out = Vec::new();
    for service in services {
        let (Some(namespace), Some(name), Some(spec)) =
            (service.metadata.namespace.as_deref(), service.metadata.name.as_deref(), &service.spec)
        else {
            continue;
        };
        if !wanted(namespace, name) {
            continue;
        }
        let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        for port in spec.ports.iter().flatten() {
            out.extend(service_port(namespace, name, service, spec, port, slices, here));
        }
    }
    out.sort();
    out
}

fn service_port(
    namespace: &str,
    name: &str,
    service: &Service,
    spec: &ServiceSpec,
    port: &SpecPort,
    slices: &[&EndpointSlice],
    here: Here<'_>,
) -> Option<ServicePort> {
    let cluster_ips = cluster_ips(spec);
    let protocol = Protocol::from_api(port.protocol.as_deref())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let port_name = port.name.clone().unwrap_or_default();
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let seconds = timeout.and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800);
    Some(ServicePort {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        endpoints: endpoints(slices, &port_name, protocol, here),
        port_name,
        protocol,
        cluster_ips,
        port: u16::try_from(port.port).ok()?,
        node_port: port_number(port.node_port),
        external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
        balancer_ips: load_balancer::addresses(service),
        announced_ips: load_balancer::announcer(service).map(|_| load_balancer::addresses(service)).unwrap_or_default(),
        source_ranges: source_ranges(spec),
        health_check_port: port_number(spec.health_check_node_port),
        affinity_seconds: sticky.then_some(seconds),
        external_policy_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        internal_policy_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    let texts = if listed.is_empty() { spec.cluster_ip.iter().collect() } else { listed };
    texts.into_iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn port_number(port: Option<i32>) -> Option<u16> {
    port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

fn source_ranges(spec: &ServiceSpec) -> Option<Vec<IpNet>> {
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty())?;
    Some(ranges.iter().filter_map(|range| range.trim().parse().ok()).collect())
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str, protocol: Protocol, here: Here<'_>) -> Vec<Endpoint> {
    let mut found: Vec<(Endpoint, Hints<'_>)> = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port_name
                && Protocol::from_api(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = matching.and_then(|p| port_number(p.port)) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready != Some(false);
            // Upstream forwards to the first address of an endpoint only.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let endpoint_of = Endpoint {
                ip,
                port,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating == Some(true),
                local: endpoint.node_name.as_deref() == Some(here.node),
                near: true,
            };
            found.push((endpoint_of, Hints::of(endpoint)));
        }
    }
    // While an endpoint moves between slices it is in both; the one that says more good of it counts.
    let rank = |e: &Endpoint| (e.ip, e.port, !e.ready, !e.serving, !e.local);
    found.sort_by_key(|(e, _)| rank(e));
    found.dedup_by_key(|(e, _)| (e.ip, e.port));
    let mode = Mode::of(&found, here);
    let near = |(e, hints): (Endpoint, Hints<'_>)| Endpoint { near: mode.takes(&hints, here), ..e };
    let mut out: Vec<Endpoint> = found.into_iter().map(near).collect();
    out.sort();
    out
}

/// Whom an endpoint is meant for.
#[derive(Default)]
struct Hints<'a> {
    nodes: Vec<&'a str>,
    zones: Vec<&'a str>,
}

impl<'a> Hints<'a> {
    fn of(endpoint: &'a SliceEndpoint) -> Self {
        let Some(hints) = &endpoint.hints else { return Self::default() };
        Self {
            nodes: hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect(),
            zones: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect(),
        }
    }

    fn zone(&self, here: Here<'_>) -> bool {
        here.zone.is_some_and(|zone| self.zones.contains(&zone))
    }
}

/// Which hints are followed: those that every ready endpoint has, if one is meant for this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Any,
    Zone,
    Node,
}

impl Mode {
    fn of(found: &[(Endpoint, Hints<'_>)], here: Here<'_>) -> Self {
        let ready: Vec<&Hints<'_>> = found.iter().filter(|(e, _)| e.ready).map(|(_, hints)| hints).collect();
        if ready.iter().all(|h| !h.nodes.is_empty()) && ready.iter().any(|h| h.nodes.contains(&here.node)) {
            Self::Node
        } else if ready.iter().all(|h| !h.zones.is_empty()) && ready.iter().any(|h| h.zone(here)) {
            Self::Zone
        } else {
            Self::Any
        }
    }

    fn takes(self, hints: &Hints<'_>, here: Here<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Zone => hints.zone(here),
            Self::Node => hints.nodes.contains(&here.node),
        }
    }
}

/// The port that a probe or hook means: a number, or the name of one of the container's ports.
#[must_use]
pub fn container_port(container: &k8s_openapi::api::core::v1::Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let named = |p: &&k8s_openapi::api::core::v1::ContainerPort| p.name.as_deref() == Some(name);
                container.ports.iter().flatten().find(named)?.container_port
            }
        },
    };
    u16::try_from(number).ok().filter(|p| *p != 0)
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
