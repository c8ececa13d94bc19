//! What DNS knows of one Service.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

/// A port that SRV records tell of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Port {
    /// Empty for an unnamed one.
    pub(super) name: String,
    /// `tcp`, `udp`, `sctp`.
    pub(super) protocol: String,
    pub(super) number: u16,
}

/// One ready endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Host {
    /// Its own label: its host name, or its address with dashes.
    pub(super) label: String,
    pub(super) ip: IpAddr,
    pub(super) ports: Vec<Port>,
}

/// How a Service's own name is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// With these addresses and ports.
    Cluster(Vec<IpAddr>, Vec<Port>),
    /// With its endpoints.
    Headless,
    /// With another name.
    External(String),
}

/// All that is asked of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) hosts: Vec<Host>,
}

impl Facts {
    pub(super) fn of<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let kind = kind(service);
        let mut hosts: Vec<Host> = match kind {
            Kind::External(_) => Vec::new(),
            _ => slices.flat_map(hosts_of).collect(),
        };
        hosts.sort();
        hosts.dedup();
        Self { kind, hosts }
    }

    /// Addresses that lead back to it, each with the label that is put in front (empty: none).
    pub(super) fn reverse(&self) -> Vec<(IpAddr, String)> {
        let own = match &self.kind {
            Kind::Cluster(ips, _) => ips.iter().map(|ip| (*ip, String::new())).collect(),
            _ => Vec::new(),
        };
        own.into_iter().chain(self.hosts.iter().map(|host| (host.ip, host.label.clone()))).collect()
    }
}

fn kind(service: &Service) -> Kind {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Kind::External(spec.external_name.unwrap_or_default().trim_end_matches('.').to_owned());
    }
    let listed = spec.cluster_ips.filter(|ips| !ips.is_empty()).or_else(|| spec.cluster_ip.map(|ip| vec![ip]));
    let ips: Vec<IpAddr> = listed.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        return Kind::Headless;
    }
    let ports = spec.ports.into_iter().flatten();
    Kind::Cluster(ips, ports.filter_map(|p| port(p.name, p.protocol, p.port)).collect())
}

fn port(name: Option<String>, protocol: Option<String>, number: i32) -> Option<Port> {
    let protocol = protocol.unwrap_or_else(|| "TCP".to_owned()).to_ascii_lowercase();
    Some(Port { name: name.unwrap_or_default(), protocol, number: u16::try_from(number).ok()? })
}

fn hosts_of(slice: &EndpointSlice) -> impl Iterator<Item = Host> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|p| port(p.name.clone(), p.protocol.clone(), p.port.unwrap_or_default()))
        .collect();
    slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)).flat_map(move |endpoint| {
        let ports = ports.clone();
        let ips = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
        ips.map(move |ip| Host { label: label(endpoint, ip), ip, ports: ports.clone() })
    })
}

/// Unknown counts as ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn label(endpoint: &Endpoint, ip: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(name) if !name.is_empty() => name.to_ascii_lowercase(),
        _ => ip.to_string().replace(['.', ':'], "-"),
    }
}
