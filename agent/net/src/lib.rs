//! The network of one node: the bridge its pods hang on, the overlay to the other nodes, and the
//! service proxy and the name server.
//!
//! Invariants
//! - Everything acts in the network namespace of the calling process, and only on things that
//!   carry our names: bridge `cni0`, device `kontiki-vx`, table `ip kontiki`, routes for the
//!   cluster's own ranges.
//! - Pod and service ranges have an `unreachable` route beneath the real ones, so a packet for
//!   them never follows the default route.
//! - Each call makes the kernel equal to its argument, whatever was there before; calling again
//!   with the same argument changes nothing.
//! - Rule changes are one nftables transaction: a packet sees the old rules or the new ones.
//!
//! Not here: which Services and endpoints exist (kontiki-agent-plan), pods' own interfaces (CNI).

mod cni;
mod config;
pub mod dns;
mod health;
pub mod link;
pub mod load_balancer;
mod overlay;
mod proxy;
mod sysctl;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};
pub use config::{BRIDGE, NetConfig, Peer};
use ipnet::{IpNet, Ipv4Net};
pub use kontiki_agent_plan::services::{Endpoint, Protocol, ServicePort};
use kontiki_agent_plan::{policy::Policies, services};
use tokio::sync::Mutex;

use crate::{
    config::Node,
    health::HealthPorts,
    link::Links,
    overlay::Overlay,
    proxy::{Proxy, divert::Divert},
};

/// Bytes that VXLAN adds to a packet over IPv4.
const VXLAN_OVERHEAD: u32 = 50;

/// Handle to this node's network.
pub struct Network {
    config: NetConfig,
    node: Node,
    links: Links,
    overlay: Overlay,
    proxy: Mutex<Proxy>,
    health: Mutex<HealthPorts>,
}

impl Network {
    /// Prepares the node: kernel switches, guard routes, overlay device. Rules that are already
    /// in the kernel stay in force until the first [`Network::set_services`].
    ///
    /// # Errors
    /// What is missing on this machine or was refused by the kernel.
    pub async fn start(config: NetConfig) -> Result<Self> {
        for plugin in cni::PLUGINS {
            let path = config.cni_bin_dir.join(plugin);
            if !path.exists() {
                bail!("CNI plugin {} is missing; install containernetworking-plugins", path.display());
            }
        }
        let links = Links::new().context("opening a netlink socket")?;
        let node = survey(&config, &links).await?;
        sysctl::prepare()?;
        links.unreachable(node.pods, link::GUARD_METRIC).await.context("adding the guard route for pods")?;
        links.unreachable(node.services, link::GUARD_METRIC).await.context("adding the guard route for services")?;
        links
            .local_route(node.services, node.ip)
            .await
            .with_context(|| format!("adding the route for services {}", node.services))?;
        if let Some(dns) = node.dns {
            address_dns(&links, dns).await.context("giving the name server its address")?;
        }
        let overlay = Overlay::start(&links, &node).await.context("setting up the overlay device")?;
        let proxy = Mutex::new(Proxy::new(proxy::Facts::of(&node)));
        tracing::info!(node = %config.node_name, ip = %node.ip, pods = %node.pods, services = %node.services, mtu = node.mtu, "network prepared");
        Ok(Self { config, node, links, overlay, proxy, health: Mutex::default() })
    }

    /// Makes sure that the name server's address is still there.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn keep_dns(&self) -> Result<()> {
        match self.node.dns {
            Some(dns) => address_dns(&self.links, dns).await.context("giving the name server its address"),
            None => Ok(()),
        }
    }

    /// Gives this node its share of the pod range: bridge, gateway address, CNI configuration.
    ///
    /// # Errors
    /// What the kernel or the file system refused.
    pub async fn set_node(&self, pod_cidr: IpNet) -> Result<()> {
        let IpNet::V4(own) = pod_cidr else {
            bail!("the node's pod range {pod_cidr} is not IPv4");
        };
        let own = own.trunc();
        if !self.node.pods.contains(&own) {
            bail!("the node's pod range {own} is not part of the cluster's {}", self.node.pods);
        }
        let gateway = own.hosts().next().with_context(|| format!("the node's pod range {own} is empty"))?;
        let bridge = self.links.ensure_bridge(BRIDGE, Some(self.node.mtu)).await.context("making the pod bridge")?;
        let address = Ipv4Net::new(gateway, own.prefix_len()).context("the prefix came from a network")?;
        self.links.only_address(bridge, address).await.context("addressing the pod bridge")?;
        self.links.up(bridge).await.context("raising the pod bridge")?;
        self.overlay.set_own(&self.links, own).await.context("addressing the overlay device")?;
        cni::write(&self.config, own, self.node.mtu)?;
        self.proxy.lock().await.set_own_pods(own).await.context("loading the packet rules")?;
        if let Err(error) = self.divert(bridge, own).await {
            // Where the kernel hands bridged packets to IP's hooks nothing is amiss.
            tracing::warn!(error = format!("{error:#}"), "traffic between this node's pods cannot be routed");
        }
        Ok(())
    }

    /// Has traffic between this node's pods routed, not bridged.
    async fn divert(&self, bridge: u32, pods: Ipv4Net) -> Result<()> {
        let mac = self.links.mac(bridge).await?;
        let mut proxy = self.proxy.lock().await;
        let divert = Divert { pods, bridge: mac };
        if proxy.diverted() != Some(divert) {
            // A bridge changes its address with its ports, unless it was given one.
            self.links.set_mac(bridge, mac).await?;
            sysctl::no_redirects(BRIDGE)?;
        }
        proxy.divert(divert).await
    }

    /// Makes exactly these nodes' pods reachable through the overlay. This node itself may be
    /// among them and is left out, as are those whose range nobody may have but this node, or nobody at all.
    ///
    /// # Errors
    /// What the kernel refused; all other peers are in force.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<()> {
        let own = self.proxy.lock().await.own_pods();
        self.overlay.set_peers(&self.links, &self.node, own, &peers).await.context("updating the overlay")
    }

    /// Makes the service proxy forward exactly these ports, and lets pass what these policies allow. Called again with the same ones, it
    /// sees whether our table is still there (a firewall script may have flushed all).
    ///
    /// # Errors
    /// What nftables refused; the former rules are still in force then.
    pub async fn set_services(&self, services: Vec<ServicePort>, policies: Policies) -> Result<()> {
        self.health.lock().await.update(services::health(&services)).await;
        self.proxy.lock().await.set(services, policies).await.context("updating the service proxy")
    }
}

/// Removes everything this crate adds to a network namespace. Things that are not there are fine.
///
/// # Errors
/// What the kernel refused.
pub async fn teardown(pod_cidr: IpNet, service_cidr: IpNet) -> Result<()> {
    proxy::remove().await?;
    let links = Links::new().context("opening a netlink socket")?;
    for name in [overlay::DEVICE, BRIDGE, dns::DEVICE] {
        links.remove(name).await.with_context(|| format!("removing {name}"))?;
    }
    for range in [pod_cidr, service_cidr] {
        if let IpNet::V4(range) = range {
            links.remove_routes(range.trunc()).await.with_context(|| format!("removing the routes for {range}"))?;
        }
    }
    Ok(())
}

/// Puts the name server's address on a device of its own.
async fn address_dns(links: &Links, address: Ipv4Addr) -> Result<(), rtnetlink::Error> {
    let device = links.ensure_bridge(dns::DEVICE, None).await?;
    links.only_address(device, Ipv4Net::from(address)).await?;
    links.up(device).await
}

async fn survey(config: &NetConfig, links: &Links) -> Result<Node> {
    let (IpAddr::V4(ip), IpNet::V4(pods), IpNet::V4(services)) = (config.node_ip, config.pod_cidr, config.service_cidr)
    else {
        bail!("only IPv4 node addresses, pod ranges and service ranges are supported");
    };
    let (link, subnet) = links
        .holder_of(ip)
        .await?
        .with_context(|| format!("no interface of this machine has the node address {ip}"))?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => links.mtu(link).await?.saturating_sub(VXLAN_OVERHEAD),
    };
    if mtu < 576 {
        bail!("a pod MTU of {mtu} is too small (the node's link less {VXLAN_OVERHEAD}); it must be 576 at least");
    }
    let (pods, services) = (pods.trunc(), services.trunc());
    Ok(Node { ip, subnet, pods, services, egress: config.egress, dns: config.dns, mtu })
}
