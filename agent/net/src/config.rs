//! What the network is told, and what it knows of its node.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net};

/// The bridge pods are attached to.
pub const BRIDGE: &str = "cni0";
/// What the node's network is made of; fixed while the agent runs.
#[derive(Clone, Debug)]
pub struct NetConfig {
    pub node_name: String,
    /// The address by which the other nodes reach this one.
    pub node_ip: IpAddr,
    /// Range of all pods of the cluster.
    pub pod_cidr: IpNet,
    /// Range of all ClusterIPs.
    pub service_cidr: IpNet,
    /// Whether pods may open connections to addresses outside the cluster (by source NAT).
    pub egress: bool,
    /// Where the node's own name server answers, if there is one.
    pub dns: Option<Ipv4Addr>,
    /// Where the CNI configuration list is written.
    pub cni_conf_dir: PathBuf,
    /// Where the CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where `host-local` keeps its leases.
    pub ipam_dir: PathBuf,
    /// Largest packet of a pod; found from the node's own link unless given.
    pub mtu: Option<u32>,
}

/// Another node, as far as its pods are reached through it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    pub name: String,
    pub node_ip: IpAddr,
    pub pod_cidr: IpNet,
}

/// [`NetConfig`] after its checks, with what was found out about the node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) ip: Ipv4Addr,
    /// The subnet of `ip` on the interface that holds it.
    pub(crate) subnet: Ipv4Net,
    pub(crate) pods: Ipv4Net,
    pub(crate) services: Ipv4Net,
    pub(crate) egress: bool,
    pub(crate) dns: Option<Ipv4Addr>,
    pub(crate) mtu: u32,
}
