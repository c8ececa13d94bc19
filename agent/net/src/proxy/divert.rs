//! Traffic between pods of one bridge is routed rather than bridged, so that the packet rules see it.
//!
//! Invariants
//! - Whether the kernel hands bridged packets to IP's hooks (`bridge-nf-call-iptables`) makes no difference: frames
//!   between this node's pods are given to the bridge itself, and come out of it by way of IP's `forward`.
//! - Broadcast, multicast and ARP stay on the bridge.
//!
//! Without this a pod that reaches a neighbour through a Service would get the answer from an address that it did not
//! ask, and no policy could stand between two pods of one node. The kernel has no connection tracking for bridges
//! everywhere, so rules in the bridge family itself would not do.

use ipnet::Ipv4Net;

/// Family and name of the table, as nft wants them.
pub(crate) const TABLE: &str = "bridge kontiki";

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// What is diverted, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Divert {
    /// This node's pods.
    pub(crate) pods: Ipv4Net,
    /// The bridge's own address.
    pub(crate) bridge: Mac,
}

impl Divert {
    /// A script that replaces whatever the table held.
    pub(crate) fn script(&self) -> String {
        let Self { pods, bridge } = self;
        let mac = bridge.map(|byte| format!("{byte:02x}")).join(":");
        // Before br_netfilter (priority 0) looks where the frame goes. `pkttype`: the kernel had set the frame aside
        // as one for somebody else.
        format!(
            "add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n\
             add chain {TABLE} divert {{ type filter hook prerouting priority -310; }}\n\
             add rule {TABLE} divert ip saddr {pods} ip daddr {pods} ether daddr & 01:00:00:00:00:00 == \
             00:00:00:00:00:00 ether daddr set {mac} meta pkttype set host\n"
        )
    }
}
