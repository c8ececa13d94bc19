//! VXLAN between nodes, with every entry static: no learning, no flooding, no multicast.
//!
//! Invariants
//! - A node's hardware address on the overlay follows from its IP, so peers need to be told
//!   nothing but names, addresses and pod ranges.
//! - All routes, neighbours and forwarding entries on the device are ours: what is not wanted is
//!   removed, whoever left it.
//!
//! The next hop to a peer's pods is the network address of its pod range (as flannel does): no
//! pod can have it, and it tells the node's own traffic from its pods'.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
};

use futures::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{
    Error, LinkUnspec, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
};

use crate::{
    config::{Node, Peer},
    link::{self, Links},
};

/// Name of the VXLAN device.
pub(crate) const DEVICE: &str = "kontiki-vx";
const VNI: u32 = 1;
/// Linux' own default, not IANA's 4789, so that another VXLAN user of the machine is undisturbed.
const PORT: u16 = 8472;

type Mac = [u8; 6];
/// Hardware address and what it stands for.
type Entries = BTreeSet<(Mac, Ipv4Addr)>;

/// The VXLAN device.
pub(crate) struct Overlay {
    index: u32,
    /// Peers that are left out, as last told.
    reported: Mutex<BTreeSet<String>>,
}

/// One peer as the kernel must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    pods: Ipv4Net,
    node: Ipv4Addr,
}

impl Way {
    fn next_hop(&self) -> Ipv4Addr {
        self.pods.network()
    }

    fn mac(&self) -> Mac {
        mac(self.node)
    }
}

/// Locally administered, unicast, different for different addresses.
fn mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x6b, a, b, c, d]
}

/// What must be reachable through the overlay, sorted; and the peers that cannot be, with the reason.
///
/// A range that is this node's own, or none of the cluster's, would take over routes that others need.
fn ways(node: &Node, own: Option<Ipv4Net>, peers: &[Peer]) -> (Vec<Way>, BTreeSet<String>) {
    let (mut ways, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut taken: BTreeMap<Ipv4Net, Ipv4Addr> = BTreeMap::new();
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort_by_key(|peer| (peer.node_ip, peer.pod_cidr));
    for peer in sorted {
        let (IpAddr::V4(ip), IpNet::V4(pods)) = (peer.node_ip, peer.pod_cidr) else { continue };
        let pods = pods.trunc();
        if ip == node.ip {
            continue;
        }
        let mut refuse = |why: String| {
            refused.insert(format!("{} with {pods}: {why}", peer.name));
        };
        if !node.pods.contains(&pods) {
            refuse(format!("the cluster's pods are in {}", node.pods));
        } else if own.is_some_and(|own| own.contains(&pods) || pods.contains(&own)) {
            refuse("this node has it".into());
        } else if let Some(other) = taken.get(&pods) {
            refuse(format!("{other} has it"));
        } else {
            taken.insert(pods, ip);
            ways.insert(Way { pods, node: ip });
        }
    }
    (ways.into_iter().collect(), refused)
}

impl Overlay {
    /// Makes the device, or takes over the one that is there if it fits this node.
    pub(crate) async fn start(links: &Links, node: &Node) -> Result<Self, Error> {
        if links.index(DEVICE).await?.is_some() && !fits(links, node).await? {
            links.remove(DEVICE).await?;
        }
        let message = LinkVxlan::new(DEVICE, VNI)
            .local(node.ip)
            .port(PORT)
            .learning(false)
            .address(mac(node.ip).to_vec())
            .mtu(node.mtu)
            .build();
        let index = links.ensure(DEVICE, message).await?;
        links.change(LinkUnspec::new_with_index(index).mtu(node.mtu).build()).await?;
        links.up(index).await?;
        Ok(Self { index, reported: Mutex::default() })
    }

    /// Gives the device the network address of the node's own range: the source of what the node
    /// itself sends to pods elsewhere, so that the answers come back through the overlay.
    pub(crate) async fn set_own(&self, links: &Links, own: Ipv4Net) -> Result<(), Error> {
        let address = Ipv4Net::from(own.network());
        links.only_address(self.index, address).await
    }

    /// Makes exactly these peers reachable. What is right already is only looked at; a peer that the kernel refuses
    /// holds up no other.
    pub(crate) async fn set_peers(
        &self,
        links: &Links,
        node: &Node,
        own: Option<Ipv4Net>,
        peers: &[Peer],
    ) -> anyhow::Result<()> {
        let (ways, refused) = ways(node, own, peers);
        self.report(refused);
        let routes = self.prune_routes(links, &ways).await?;
        let hops = ways.iter().map(|way| (way.mac(), way.next_hop())).collect();
        let hops = self.prune_neighbours(links, AddressFamily::Inet, &hops).await?;
        let forwards = ways.iter().map(|way| (way.mac(), way.node)).collect();
        let forwards = self.prune_neighbours(links, AddressFamily::Bridge, &forwards).await?;
        let mut failed = Vec::new();
        for way in &ways {
            let known = routes.contains(&way.pods)
                && hops.contains(&(way.mac(), way.next_hop()))
                && forwards.contains(&(way.mac(), way.node));
            if known {
                continue;
            }
            if let Err(error) = self.add(links, way).await {
                failed.push(format!("{} at {}: {error}", way.pods, way.node));
            }
        }
        anyhow::ensure!(failed.is_empty(), "{} of {} peers: {}", failed.len(), ways.len(), failed.join("; "));
        Ok(())
    }

    /// Says once which peers are left out.
    fn report(&self, refused: BTreeSet<String>) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in refused.difference(&reported) {
            tracing::warn!(peer, "the pods of a node are left unreachable");
        }
        *reported = refused;
    }

    async fn add(&self, links: &Links, way: &Way) -> Result<(), Error> {
        let neighbours = links.handle().neighbours();
        neighbours
            .add(self.index, IpAddr::V4(way.next_hop()))
            .link_layer_address(&way.mac())
            .replace()
            .execute()
            .await?;
        neighbours
            .add_bridge(self.index, &way.mac())
            .destination(IpAddr::V4(way.node))
            .flags(NeighbourFlags::Own)
            .replace()
            .execute()
            .await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(way.pods.addr(), way.pods.prefix_len())
            .gateway(way.next_hop())
            .output_interface(self.index)
            .onlink()
            .build();
        links.handle().route().add(route).replace().execute().await
    }

    /// Removes routes to nobody; returns the ones that stay.
    async fn prune_routes(&self, links: &Links, ways: &[Way]) -> Result<BTreeSet<Ipv4Net>, Error> {
        let wanted: BTreeSet<Ipv4Net> = ways.iter().map(|way| way.pods).collect();
        let mut kept = BTreeSet::new();
        for route in links.routes().await? {
            let ours = route.header.table == link::MAIN_TABLE && link::output(&route) == Some(self.index);
            match link::destination(&route).filter(|_| ours) {
                Some(range) if wanted.contains(&range) => {
                    kept.insert(range);
                }
                Some(_) => links.delete_route(route).await?,
                None => {}
            }
        }
        Ok(kept)
    }

    /// Removes entries that nobody wants; returns the ones that stay.
    async fn prune_neighbours(&self, links: &Links, family: AddressFamily, wanted: &Entries) -> Result<Entries, Error> {
        let mut kept = Entries::new();
        for entry in self.neighbours(links, family).await? {
            match mac_of(&entry).zip(destination(&entry)).filter(|pair| wanted.contains(pair)) {
                Some(pair) => {
                    kept.insert(pair);
                }
                None => delete(links, entry).await?,
            }
        }
        Ok(kept)
    }

    async fn neighbours(&self, links: &Links, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        let request = links.handle().neighbours().get().set_address_family(family);
        let all: Vec<NeighbourMessage> = request.execute().try_collect().await?;
        Ok(all.into_iter().filter(|entry| entry.header.ifindex == self.index).collect())
    }
}

/// Whether the device that is there has this node's address; it changes with a reinstallation.
async fn fits(links: &Links, node: &Node) -> Result<bool, Error> {
    use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo};
    let mut found = std::pin::pin!(links.handle().link().get().match_name(DEVICE.to_owned()).execute());
    let Some(link) = found.try_next().await? else { return Ok(false) };
    let mut infos =
        link.attributes.iter().filter_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None });
    Ok(infos.by_ref().flatten().any(|info| {
        matches!(info, LinkInfo::Data(InfoData::Vxlan(data))
            if data.contains(&InfoVxlan::Local(node.ip)) && data.contains(&InfoVxlan::Id(VNI)))
    }))
}

async fn delete(links: &Links, entry: NeighbourMessage) -> Result<(), Error> {
    match links.handle().neighbours().del(entry).execute().await {
        Err(error) if !link::is_errno(&error, libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

fn destination(entry: &NeighbourMessage) -> Option<Ipv4Addr> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        // The bridge family's destination is not typed by the library.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })
}

fn mac_of(entry: &NeighbourMessage) -> Option<Mac> {
    entry.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_leave_out_the_node_itself_and_ranges_that_are_not_theirs() {
        let net = |text: &str| text.parse::<Ipv4Net>().expect("range");
        let peer = |name: &str, ip: &str, pods: &str| Peer {
            name: name.into(),
            node_ip: ip.parse().expect("ip"),
            pod_cidr: pods.parse().expect("range"),
        };
        let node = Node {
            ip: Ipv4Addr::new(10, 0, 0, 1),
            subnet: net("10.0.0.0/24"),
            pods: net("10.244.0.0/16"),
            services: net("10.96.0.0/16"),
            egress: true,
            dns: None,
            mtu: 1450,
        };
        let peers = [
            peer("c", "10.0.0.3", "10.244.3.0/24"),
            peer("a", "10.0.0.1", "10.244.1.0/24"),
            peer("b", "10.0.0.2", "10.244.2.0/24"),
            peer("twin", "10.0.0.9", "10.244.2.0/24"),
            peer("thief", "10.0.0.8", "10.244.1.0/24"),
            peer("part", "10.0.0.7", "10.244.1.128/25"),
            peer("all", "10.0.0.6", "0.0.0.0/0"),
            peer("part of b", "10.0.0.5", "10.244.2.0/25"),
        ];
        let (got, refused) = ways(&node, Some(net("10.244.1.0/24")), &peers);
        let shown: Vec<String> = got.iter().map(|w| format!("{} via {} at {}", w.pods, w.next_hop(), w.node)).collect();
        let expect = [
            "10.244.2.0/24 via 10.244.2.0 at 10.0.0.2",
            "10.244.2.0/25 via 10.244.2.0 at 10.0.0.5",
            "10.244.3.0/24 via 10.244.3.0 at 10.0.0.3",
        ];
        assert_eq!(shown, expect);
        assert_eq!(
            refused.into_iter().collect::<Vec<_>>(),
            [
                "all with 0.0.0.0/0: the cluster's pods are in 10.244.0.0/16",
                "part with 10.244.1.128/25: this node has it",
                "thief with 10.244.1.0/24: this node has it",
                "twin with 10.244.2.0/24: 10.0.0.2 has it",
            ]
        );
        assert_eq!(got[0].mac(), [0x0a, 0x6b, 10, 0, 0, 2]);
    }
}
