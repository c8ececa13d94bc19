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
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
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

/// What must be reachable through the overlay, sorted; later duplicates of a range are dropped.
fn ways(own: Ipv4Addr, peers: &[Peer]) -> Vec<Way> {
    let mut ways: Vec<Way> = peers
        .iter()
        .filter_map(|peer| match (peer.node_ip, peer.pod_cidr) {
            (IpAddr::V4(node), IpNet::V4(pods)) if node != own => Some(Way { pods: pods.trunc(), node }),
            _ => None,
        })
        .collect();
    ways.sort();
    ways.dedup_by_key(|way| way.pods);
    ways
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
        Ok(Self { index })
    }

    /// Gives the device the network address of the node's own range: the source of what the node
    /// itself sends to pods elsewhere, so that the answers come back through the overlay.
    pub(crate) async fn set_own(&self, links: &Links, own: Ipv4Net) -> Result<(), Error> {
        let address = Ipv4Net::from(own.network());
        links.only_address(self.index, address).await
    }

    /// Makes exactly these peers reachable. What is right already is only looked at.
    pub(crate) async fn set_peers(&self, links: &Links, own: Ipv4Addr, peers: &[Peer]) -> Result<(), Error> {
        let ways = ways(own, peers);
        let routes = self.prune_routes(links, &ways).await?;
        let hops = ways.iter().map(|way| (way.mac(), way.next_hop())).collect();
        let hops = self.prune_neighbours(links, AddressFamily::Inet, &hops).await?;
        let forwards = ways.iter().map(|way| (way.mac(), way.node)).collect();
        let forwards = self.prune_neighbours(links, AddressFamily::Bridge, &forwards).await?;
        for way in &ways {
            let known = routes.contains(&way.pods)
                && hops.contains(&(way.mac(), way.next_hop()))
                && forwards.contains(&(way.mac(), way.node));
            if !known {
                self.add(links, way).await?;
            }
        }
        Ok(())
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
    fn ways_leave_the_node_itself_out() {
        let peer = |name: &str, ip: &str, pods: &str| Peer {
            name: name.into(),
            node_ip: ip.parse().expect("ip"),
            pod_cidr: pods.parse().expect("range"),
        };
        let peers = [
            peer("c", "10.0.0.3", "10.244.3.0/24"),
            peer("a", "10.0.0.1", "10.244.1.0/24"),
            peer("b", "10.0.0.2", "10.244.2.0/24"),
            peer("twin", "10.0.0.9", "10.244.2.0/24"),
        ];
        let got = ways(Ipv4Addr::new(10, 0, 0, 1), &peers);
        let shown: Vec<String> = got.iter().map(|w| format!("{} via {} at {}", w.pods, w.next_hop(), w.node)).collect();
        assert_eq!(shown, ["10.244.2.0/24 via 10.244.2.0 at 10.0.0.2", "10.244.3.0/24 via 10.244.3.0 at 10.0.0.3"]);
        assert_eq!(got[0].mac(), [0x0a, 0x6b, 10, 0, 0, 2]);
    }
}
