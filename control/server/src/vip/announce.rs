//! Telling the neighbours: gratuitous ARP for IPv4, unsolicited neighbour advertisement for IPv6.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::link::Link;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Announces that `address` is at `link`.
///
/// # Errors
/// The socket cannot be made or used: it takes CAP_NET_RAW.
pub fn announce(link: &Link, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            let to = packet_address(link.index)?;
            // Some systems learn from requests only, some from replies only.
            for operation in [Arp::Request, Arp::Reply] {
                socket.send_to(&arp_frame(operation, link.mac, address), &to)?;
            }
            Ok(())
        }
        IpAddr::V6(address) => {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.set_multicast_hops_v6(255)?;
            socket.set_multicast_if_v6(link.index)?;
            socket.bind(&SocketAddrV6::new(address, 0, 0, 0).into())?;
            let to = SocketAddrV6::new(ALL_NODES, 0, 0, link.index);
            socket.send_to(&advertisement(link.mac, address), &to.into())?;
            Ok(())
        }
    }
}

#[derive(Clone, Copy)]
enum Arp {
    Request = 1,
    Reply = 2,
}

/// An ARP packet in an Ethernet frame, saying that `address` is at `mac`.
fn arp_frame(operation: Arp, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, lengths of their addresses.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame.extend_from_slice(&(operation as u16).to_be_bytes());
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&address.octets());
    let target = match operation {
        Arp::Request => [0; 6],
        Arp::Reply => BROADCAST,
    };
    frame.extend_from_slice(&target);
    frame.extend_from_slice(&address.octets());
    frame
}

/// A neighbour advertisement with the override flag; the kernel fills the checksum in.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    packet.extend_from_slice(&address.octets());
    // Option: target link-layer address, one unit of eight bytes.
    packet.extend_from_slice(&[2, 1]);
    packet.extend_from_slice(&mac);
    packet
}

fn packet_address(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that the storage is made to hold, and any bit
    // pattern is valid for it.
    let ll = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    ll.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
    ll.sll_protocol = ETHERTYPE_ARP.to_be();
    ll.sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    ll.sll_halen = 6;
    ll.sll_addr[..6].copy_from_slice(&BROADCAST);
    let length = libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_ll>()).expect("a small struct");
    // SAFETY: the storage was filled as a sockaddr_ll of this length just above.
    Ok(unsafe { SockAddr::new(storage, length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_standards_draw_them() {
        let mac = [2, 0, 0, 0, 0, 7];
        let frame = arp_frame(Arp::Reply, mac, Ipv4Addr::new(10, 0, 0, 10));
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(&frame[14..22], &[0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(&frame[22..32], &[2, 0, 0, 0, 0, 7, 10, 0, 0, 10]);
        assert_eq!(&frame[38..], &[10, 0, 0, 10]);
        let packet = advertisement(mac, Ipv6Addr::LOCALHOST);
        assert_eq!((packet.len(), packet[0], packet[4], packet[23]), (32, 136, 0x20, 1));
    }
}
