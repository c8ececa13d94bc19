//! Connection tracking of UDP: a flow that has begun keeps its endpoint for as long as packets
//! come, even when the endpoint is gone. Such flows are forgotten, so the next packet chooses anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result, bail};
use kontiki_agent_plan::services::{Protocol, ServicePort};

use super::command::tool;

/// Flows to forget: arguments that select them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stale {
    /// The service address, or none for a node port, which has as many as the node has addresses.
    pub(super) to: Option<Ipv4Addr>,
    pub(super) port: u16,
    /// The endpoint that went away, or none: flows that began before there was any endpoint.
    pub(super) endpoint: Option<Ipv4Addr>,
}

/// Where UDP to a service goes: front (address, port) to endpoints.
type Fronts = BTreeMap<(Option<Ipv4Addr>, u16), BTreeSet<Ipv4Addr>>;

fn fronts(services: &[ServicePort]) -> Fronts {
    let mut fronts = Fronts::new();
    for service in services.iter().filter(|s| s.protocol == Protocol::Udp) {
        // A flow to an endpoint that drains may go on; new ones choose another.
        let usable = service.endpoints.iter().filter(|e| e.ready || e.serving);
        let targets: BTreeSet<Ipv4Addr> = usable.filter_map(|e| v4(&e.ip)).collect();
        let outer = service.external_ips.iter().chain(&service.balancer_ips);
        let addresses = service.cluster_ips.iter().chain(outer).filter_map(v4);
        for ip in addresses {
            fronts.entry((Some(ip), service.port)).or_default().extend(&targets);
        }
        if let Some(port) = service.node_port {
            fronts.entry((None, port)).or_default().extend(&targets);
        }
    }
    fronts
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }
}

/// Flows that the change from `have` to `want` leaves pointing at nothing.
pub(super) fn stale(have: &[ServicePort], want: &[ServicePort]) -> Vec<Stale> {
    let (have, want) = (fronts(have), fronts(want));
    let mut stale = BTreeSet::new();
    for (&(to, port), old) in &have {
        let new = want.get(&(to, port));
        for ip in old.iter().filter(|ip| new.is_none_or(|new| !new.contains(*ip))) {
            stale.insert(Stale { to, port, endpoint: Some(*ip) });
        }
    }
    for (&(to, port), new) in &want {
        let before = have.get(&(to, port)).is_some_and(|old| !old.is_empty());
        if !new.is_empty() && !before {
            stale.insert(Stale { to, port, endpoint: None });
        }
    }
    stale.into_iter().collect()
}

/// Removes the flows from the kernel's table.
pub(super) async fn forget(flow: &Stale) -> Result<()> {
    let mut command = tool("conntrack");
    command.args(["-D", "-p", "udp", "--orig-port-dst", &flow.port.to_string()]);
    if let Some(to) = flow.to {
        command.args(["--orig-dst", &to.to_string()]);
    }
    if let Some(endpoint) = flow.endpoint {
        command.args(["--reply-src", &endpoint.to_string()]);
    }
    let output = command.output().await.context("running conntrack")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It exits 1 when nothing matched, which is the usual case.
    if output.status.success() || said.contains("0 flow entries have been deleted") {
        return Ok(());
    }
    bail!("conntrack: {}", said.trim())
}
