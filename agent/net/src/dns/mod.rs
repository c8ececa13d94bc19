//! The cluster's name server, on each node for the node's own pods: no query for a cluster name leaves the machine.
//!
//! Invariants
//! - It answers the node and the cluster's pods only, and nothing that is itself an answer.
//! - Names of the cluster come from memory. All others are asked of the machine's own name servers, so many at a time
//!   as [`forward`] says, and answers are kept for half a minute at most.
//! - An answer over UDP is no longer than the client takes, and never longer than 1,232 bytes.
//!
//! Not here: what cluster names stand for (kontiki-agent-plan).

mod forward;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, RwLock},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kontiki_agent_plan::dns::Zone;
use tokio::net::{TcpListener, UdpSocket};

use self::{forward::Forward, serve::Server};

/// The device that holds the name server's address: a bridge without ports, for want of a dummy device in every kernel.
pub(crate) const DEVICE: &str = "kontiki-dns";

/// The address that a service range keeps for the name server, as kubeadm does: its tenth.
#[must_use]
pub fn default_address(services: IpNet) -> Option<IpAddr> {
    services.hosts().nth(9)
}

/// What the name server is made of; fixed while the agent runs.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The address pods ask.
    pub address: Ipv4Addr,
    /// UDP and TCP port.
    pub port: u16,
    /// The cluster's domain.
    pub domain: String,
    /// The machine's `resolv.conf`, which names who is asked for other names.
    pub resolv_conf: PathBuf,
    /// Who is answered.
    pub clients: Vec<IpNet>,
}

/// The name server of this node.
pub struct Dns {
    zone: Arc<RwLock<Zone>>,
    server: Arc<Server>,
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Dns {
    /// Takes the ports. The address need not be on an interface yet.
    ///
    /// # Errors
    /// The port is taken, or may not be used.
    pub fn bind(config: &DnsConfig) -> Result<Self> {
        let address = SocketAddr::from((config.address, config.port));
        let zone = Arc::new(RwLock::new(Zone::new(&config.domain)));
        let forward = Forward::new(config.resolv_conf.clone(), IpAddr::V4(config.address));
        Ok(Self {
            udp: Arc::new(serve::udp(address).with_context(|| format!("taking UDP {address} for DNS"))?),
            tcp: serve::tcp(address).with_context(|| format!("taking TCP {address} for DNS"))?,
            server: Arc::new(Server::new(zone.clone(), forward, config.clients.clone())),
            zone,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// From now on these Services are named. Objects that are the same `Arc`s as last time cost next to nothing.
    pub fn set_services(&self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) {
        self.zone.write().unwrap_or_else(std::sync::PoisonError::into_inner).update(services, slices);
    }

    /// Answers until it is dropped.
    pub async fn run(&self) {
        tokio::join!(serve::serve_udp(&self.server, &self.udp), serve::serve_tcp(&self.server, &self.tcp));
    }
}
