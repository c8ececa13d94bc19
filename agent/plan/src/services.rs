//! What the service proxy must forward, derived from Services and EndpointSlices.
//!
//! Invariants
//! - The result depends on nothing but the given objects and the node's name; its order is stable,
//!   so equal input gives equal output and the proxy can compare.
//! - A headless, `ExternalName` or address-less Service yields nothing.
//!
//! Not here: packet rules (see kontiki-net).

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort as SpecPort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

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
    /// External IPs and load balancer addresses.
    pub external_ips: Vec<IpAddr>,
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
}

/// Every service port that some packet can be sent to, sorted.
///
/// `slices` are those of all services; a slice belongs to the service its
/// `kubernetes.io/service-name` label names, in its own namespace.
#[must_use]
pub fn derive<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let owner = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        if let (Some(owner), Some(namespace)) = (owner, slice.metadata.namespace.as_deref()) {
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
        let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        for port in spec.ports.iter().flatten() {
            out.extend(service_port(namespace, name, service, spec, port, slices, node));
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
    node: &str,
) -> Option<ServicePort> {
    let cluster_ips = cluster_ips(spec);
    let protocol = Protocol::from_api(port.protocol.as_deref())?;
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return None;
    }
    let port_name = port.name.clone().unwrap_or_default();
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let seconds = timeout.and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800);
    Some(ServicePort {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        endpoints: endpoints(slices, &port_name, protocol, node),
        port_name,
        protocol,
        cluster_ips,
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0),
        external_ips: external_ips(service, spec),
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

fn external_ips(service: &Service, spec: &ServiceSpec) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let balancer = balancer.into_iter().flatten().filter_map(|i| i.ip.as_ref());
    spec.external_ips.iter().flatten().chain(balancer).filter_map(|ip| ip.parse().ok()).collect()
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str, protocol: Protocol, node: &str) -> Vec<Endpoint> {
    let mut out = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port_name
                && Protocol::from_api(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = matching.and_then(|p| u16::try_from(p.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready != Some(false);
            // Upstream forwards to the first address of an endpoint only.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            out.push(Endpoint {
                ip,
                port,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating == Some(true),
                local: endpoint.node_name.as_deref() == Some(node),
            });
        }
    }
    out.sort();
    out.dedup_by_key(|e| (e.ip, e.port));
    out
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
mod tests {
    use super::*;

    fn show(service: &str, slices: &[&str]) -> String {
        let yaml = |text: &str| {
            format!("{{metadata: {{namespace: d, name: web, labels: {{kubernetes.io/service-name: web}}}}, {text}}}")
        };
        let service: Service = serde_yaml_ng::from_str(&yaml(&format!("spec: {{{service}}}"))).expect("a service");
        let slices: Vec<EndpointSlice> = slices
            .iter()
            .map(|s| serde_yaml_ng::from_str(&yaml(&format!("addressType: IPv4, {s}"))).expect("a slice"))
            .collect();
        let line = |p: ServicePort| {
            let ends: Vec<_> = p
                .endpoints
                .iter()
                .map(|e| {
                    format!("{}:{}{}{}", e.ip, e.port, if e.ready { "" } else { "!" }, if e.local { "*" } else { "" })
                })
                .collect();
            format!("{:?}/{} {} -> {}", p.cluster_ips, p.port, p.node_port.unwrap_or(0), ends.join(" "))
        };
        derive([&service], &slices, "n1").into_iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn ports_meet_their_endpoints() {
        let slice = "ports: [{port: 8080}], endpoints: [{addresses: [10.1.0.2], nodeName: n1}, {addresses: [10.1.1.3], nodeName: n2, conditions: {ready: false}}]";
        for (name, service, slices, expect) in [
            (
                "plain",
                "clusterIP: 10.96.0.5, ports: [{port: 80, nodePort: 30080}]",
                vec![slice],
                "[10.96.0.5]/80 30080 -> 10.1.0.2:8080* 10.1.1.3:8080!",
            ),
            ("no endpoints", "clusterIP: 10.96.0.5, ports: [{port: 80}]", vec![], "[10.96.0.5]/80 0 -> "),
            ("headless", "clusterIP: None, ports: [{port: 80}]", vec![slice], ""),
            ("external name", "type: ExternalName, externalName: a.b", vec![], ""),
            (
                "port names must match",
                "clusterIP: 10.96.0.5, ports: [{port: 80, name: http}]",
                vec![slice],
                "[10.96.0.5]/80 0 -> ",
            ),
        ] {
            assert_eq!(show(service, &slices), expect, "{name}");
        }
    }
}
