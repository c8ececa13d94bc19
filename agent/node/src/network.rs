//! Keeps the node's network equal to what the masters say: its own pod range, the other nodes,
//! the services, and the Ingresses.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use kontiki_ingress::{Proxy, State};
use kontiki_net::{
    Network, Peer,
    dns::{Dns, DnsConfig},
};
use nix::sys::resource::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, host::identity::Cluster, node::Node, runtime::settings::Settings};

/// Changes come in bursts (a rollout); one pass serves a burst.
const GATHER: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);
/// Someone else may have changed the kernel's state.
const AGAIN: Duration = Duration::from_secs(60);

/// How soon a port is tried again that somebody else has.
const PORTS: Duration = Duration::from_secs(5);
/// Connections of clients of Ingresses: each may need a second one, and half of what the agent may open is for the rest.
const INGRESS_CONNECTIONS: usize = 8192;

/// The machine's own resolver settings.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where this node's name server answers; `None` if others do, or the address is none that it can take.
pub(crate) fn dns_address(config: &Config, cluster: &Cluster) -> Option<Ipv4Addr> {
    match (Settings { config, cluster }).name_server() {
        Some(IpAddr::V4(address)) if config.dns => Some(address),
        _ => None,
    }
}

/// The name server, if it is this node's task.
///
/// # Errors
/// Its port is taken.
pub(crate) fn name_server(config: &Config, cluster: &Cluster) -> anyhow::Result<Option<Arc<Dns>>> {
    let Some(address) = dns_address(config, cluster) else { return Ok(None) };
    let ranges = [&cluster.pod_cidr, &cluster.service_cidr].into_iter().filter_map(|range| range.parse().ok());
    let own = [IpAddr::from(Ipv4Addr::LOCALHOST), config.node_ip].map(IpNet::from);
    let dns = Dns::bind(&DnsConfig {
        address,
        port: 53,
        domain: cluster.cluster_domain.clone(),
        resolv_conf: RESOLV_CONF.into(),
        clients: ranges.chain(own).collect(),
    })?;
    Ok(Some(Arc::new(dns)))
}

/// Answers until `stop`.
pub(crate) async fn serve_dns(dns: Arc<Dns>, stop: CancellationToken) {
    tokio::select! {
        () = dns.run() => {}
        () = stop.cancelled() => {}
    }
}

/// Who serves Ingresses, if it is this node's task.
///
/// # Errors
/// TLS cannot be set up.
pub(crate) fn proxy(config: &Config) -> anyhow::Result<Option<Arc<Proxy>>> {
    if !config.ingress {
        return Ok(None);
    }
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit on open files")?;
    let proxy = Proxy::new(kontiki_ingress::Config {
        address: config.ingress_address,
        http_port: config.ingress_http_port,
        https_port: config.ingress_https_port,
        most: INGRESS_CONNECTIONS.min(usize::try_from(files / 4).unwrap_or(usize::MAX)),
    });
    Ok(Some(Arc::new(proxy.context("setting up TLS for Ingresses")?)))
}

/// The parts of the network beside the kernel's.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) dns: Option<Arc<Dns>>,
    pub(crate) proxy: Option<Arc<Proxy>>,
}

/// Follows the cache until `stop`.
pub(crate) async fn run(node: Arc<Node>, network: Network, parts: Parts, stop: CancellationToken) {
    let mut changed = node.objects.network_changed();
    loop {
        changed.borrow_and_update();
        let ports = parts.proxy.as_deref().map_or(AGAIN, |proxy| ingresses(&node, proxy));
        let pause = match turn(&node, &network, parts.dns.as_deref()).await {
            Ok(()) => AGAIN,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the network is not as it should be yet");
                RETRY
            }
        };
        tokio::select! {
            // Cancel-safe: the receiver keeps the unseen version.
            _ = changed.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(pause.min(ports)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Has exactly the Ingresses served that are known. Returns how soon to look again.
fn ingresses(node: &Node, proxy: &Proxy) -> Duration {
    if node.objects.snapshots() == 0 {
        return AGAIN; // nothing is known
    }
    let state = proxy.set(node.ingresses());
    let pause = if matches!(state, State::Failed(_)) { PORTS } else { AGAIN };
    node.ingress.send_if_modified(|known| {
        let news = *known != state;
        if let (State::Failed(reason), true) = (&state, news) {
            tracing::warn!(reason, "Ingresses are not all served");
        }
        *known = state;
        news
    });
    pause
}

/// Each part for itself: one that fails holds up no other.
async fn turn(node: &Node, network: &Network, dns: Option<&Dns>) -> anyhow::Result<()> {
    if node.objects.snapshots() == 0 {
        return Ok(()); // nothing is known: what the kernel has is better
    }
    let parts = [
        names(node, network, dns).await,
        pods(node, network).await,
        network.set_services(node.service_ports(), node.objects.policies(&node.config.name)).await,
    ];
    let failed: Vec<String> = parts.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

async fn names(node: &Node, network: &Network, dns: Option<&Dns>) -> anyhow::Result<()> {
    let Some(dns) = dns else { return Ok(()) };
    dns.set_services(&node.objects.services(), &node.objects.slices());
    network.keep_dns().await
}

async fn pods(node: &Node, network: &Network) -> anyhow::Result<()> {
    let nodes = node.objects.nodes();
    let own = nodes.iter().find(|n| n.metadata.name.as_ref() == Some(&node.config.name));
    let Some(range) = own.and_then(|n| pod_range(n)) else { return Ok(()) };
    let own = network.set_node(range).await;
    let others = nodes.iter().filter(|n| n.metadata.name.as_ref() != Some(&node.config.name));
    let peers = network.set_peers(others.filter_map(|n| peer(n)).collect()).await;
    own.and(peers)
}

fn pod_range(node: &v1::Node) -> Option<IpNet> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

fn peer(node: &v1::Node) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?;
    Some(Peer { name: node.metadata.name.clone()?, node_ip: address.address.parse().ok()?, pod_cidr: pod_range(node)? })
}
