//! Addresses of load balancers on the interface that has the node's own: given for a time, announced, taken away.
//!
//! Invariants
//! - Only addresses that bear our mark are touched. One that is there without it, the node's own above all, is never taken.
//! - An address is a host's, without a route to a network, and never without a lifetime.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kontiki_neighbours as neighbours;
pub use kontiki_neighbours::{Link, announcements};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};

use crate::link::{self, Links};

/// What tells our addresses: IPv4's label, and for IPv6, which has none, the protocol.
const LABEL: &str = "kontiki-lb";
const PROTOCOL: u8 = 107;

/// The addresses of this node's load balancers.
pub struct Addresses {
    links: Links,
    node_ip: IpAddr,
}

/// What is there.
pub struct Seen {
    /// The interface that has the node's own address.
    pub link: Link,
    /// Addresses of load balancers, on whatever interface.
    pub held: Vec<Held>,
    /// What the machine has for other purposes.
    others: BTreeSet<IpAddr>,
}

/// One that is there.
#[derive(Clone, Debug)]
pub struct Held {
    pub address: IpAddr,
    /// Its interface.
    pub index: u32,
    /// Seconds that the kernel keeps it yet.
    pub left: u32,
    message: AddressMessage,
}

impl Addresses {
    /// Those of the calling thread's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(node_ip: IpAddr) -> io::Result<Self> {
        Ok(Self { links: Links::new()?, node_ip })
    }

    /// What is there.
    ///
    /// # Errors
    /// No interface has the node's own address, or the kernel does not say.
    pub async fn look(&self) -> Result<Seen> {
        let all = self.links.addresses().await.context("listing addresses")?;
        let own = all.iter().find(|message| ip_of(message) == Some(self.node_ip));
        let index = own.with_context(|| format!("no interface has the node address {}", self.node_ip))?.header.index;
        // One without a hardware address has no neighbours to tell either.
        let link = Link { index, mac: self.links.mac(index).await.unwrap_or_default() };
        let others = all.iter().filter(|message| !is_ours(message)).filter_map(ip_of).collect();
        Ok(Seen { link, held: all.into_iter().filter_map(held).collect(), others })
    }

    /// Has the kernel keep an address for so long from now on.
    ///
    /// # Errors
    /// The address is there for another purpose, or the kernel refuses.
    pub async fn set(&self, seen: &Seen, address: IpAddr, seconds: u32) -> Result<()> {
        ensure!(!seen.others.contains(&address), "this machine has the address for another purpose");
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.links.handle().address().add(seen.link.index, address, bits).replace();
        let message = request.message_mut();
        let mut cache = CacheInfo::default();
        cache.ifa_valid = seconds;
        // The machine is never to speak from it by itself.
        cache.ifa_preferred = if address.is_ipv6() { 0 } else { seconds };
        message.attributes.push(AddressAttribute::CacheInfo(cache));
        if address.is_ipv6() {
            // Duplicate address detection would wait a second.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        } else {
            message.attributes.push(AddressAttribute::Label(LABEL.to_owned()));
        }
        request.execute().await.context("setting the address")
    }

    /// Takes an address away, if it is still there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, held: Held) -> Result<()> {
        match self.links.handle().address().del(held.message).execute().await {
            Err(error) if !link::is_errno(&error, libc::EADDRNOTAVAIL) => Err(error).context("removing the address"),
            _ => Ok(()),
        }
    }
}

/// Who else on the link has `address`, or is about to take it: heard within `wait`.
///
/// # Errors
/// The link cannot be asked.
pub async fn other_holder(link: Link, address: Ipv4Addr, wait: Duration) -> io::Result<Option<[u8; 6]>> {
    let asked = tokio::task::spawn_blocking(move || neighbours::probe(link, address, wait));
    asked.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Tells the link that `address` is here.
///
/// # Errors
/// The link cannot be told.
pub fn announce(link: Link, address: IpAddr) -> io::Result<()> {
    neighbours::announce(link, address)
}

fn held(message: AddressMessage) -> Option<Held> {
    let address = ip_of(&message).filter(|_| is_ours(&message))?;
    let left = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::CacheInfo(cache) => Some(cache.ifa_valid),
        _ => None,
    });
    Some(Held { address, index: message.header.index, left: left.unwrap_or_default(), message })
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Label(label) => label == LABEL,
        AddressAttribute::Protocol(protocol) => *protocol == AddressProtocol::Other(PROTOCOL),
        _ => false,
    })
}

fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    local.or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.attributes = attributes;
        message
    }

    #[test]
    fn only_what_bears_the_mark_is_ours() {
        let four = AddressAttribute::Local(IpAddr::from([10, 0, 0, 9]));
        let six = AddressAttribute::Address("fd00::9".parse().expect("an address"));
        let label = |text: &str| AddressAttribute::Label(text.to_owned());
        let mut cache = CacheInfo::default();
        cache.ifa_valid = 5;
        for (name, attributes, expect) in [
            ("ours", vec![four.clone(), label(LABEL), AddressAttribute::CacheInfo(cache)], Some(("10.0.0.9", 5))),
            ("the node's", vec![four.clone(), label("eth0")], None),
            ("without a label", vec![four], None),
            (
                "ours, of IPv6",
                vec![six.clone(), AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL))],
                Some(("fd00::9", 0)),
            ),
            ("the kernel's", vec![six, AddressAttribute::Protocol(AddressProtocol::LinkLocal)], None),
        ] {
            let found = held(message(attributes)).map(|held| (held.address.to_string(), held.left));
            assert_eq!(found, expect.map(|(address, left)| (address.to_owned(), left)), "{name}");
        }
    }
}
