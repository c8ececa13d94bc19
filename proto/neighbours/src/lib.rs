//! What a machine says to its neighbours on a link about an address that moves between machines, and what it hears of
//! others that have it: ARP for IPv4, neighbour advertisements for IPv6.
//!
//! Not here: giving the address to an interface, and who may have it.

use std::{
    io::{self, Read as _},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// When a new holder announces itself, counted from taking the address: a neighbour may miss one, and a holder that was
/// lost may answer for some seconds more.
const ANNOUNCEMENTS: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
    Duration::from_secs(5),
];

/// How many announcements are due of an address taken so long ago, and how long it is until the next.
#[must_use]
pub fn announcements(age: Duration) -> (usize, Option<Duration>) {
    let due = ANNOUNCEMENTS.iter().filter(|at| **at <= age).count();
    (due, ANNOUNCEMENTS.get(due).map(|next| next.saturating_sub(age)))
}

/// A hardware address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Ethernet, IPv4, lengths of their addresses.
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

/// Tells everybody on the link that `address` is here.
///
/// # Errors
/// The socket cannot be made or used: it takes CAP_NET_RAW.
pub fn announce(link: Link, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
            let to = packet_address(link.index)?;
            // Some systems learn from requests only, some from replies only.
            for frame in [Frame::request(link.mac, address, address), Frame::reply(link.mac, address)] {
                socket.send_to(&frame.bytes(), &to)?;
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

/// Asks the link who has `address`, as RFC 5227 has it: whoever has it answers, and another who is about to take it asks,
/// too. Listens for `wait`; blocks the thread as long.
///
/// # Errors
/// As [`announce`].
pub fn probe(link: Link, address: Ipv4Addr, wait: Duration) -> io::Result<Option<Mac>> {
    let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    let here = packet_address(link.index)?;
    socket.bind(&here)?;
    socket.send_to(&Frame::request(link.mac, Ipv4Addr::UNSPECIFIED, address).bytes(), &here)?;
    let end = Instant::now() + wait;
    let mut buffer = [0; 128];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let length = match (&socket).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some(other) = claimed(&buffer[..length], address, link.mac) {
            return Ok(Some(other));
        }
    }
}

/// Who else has `address`, or is about to take it, by what an Ethernet frame says.
fn claimed(frame: &[u8], address: Ipv4Addr, own: Mac) -> Option<Mac> {
    let frame = Frame::read(frame)?;
    let has = frame.sender == address;
    let asks = frame.operation == REQUEST && frame.sender.is_unspecified() && frame.target == address;
    (frame.sender_mac != own && (has || asks)).then_some(frame.sender_mac)
}

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
}

impl Frame {
    fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self { operation: REQUEST, sender_mac: mac, sender, target_mac: [0; 6], target }
    }

    fn reply(mac: Mac, address: Ipv4Addr) -> Self {
        Self { operation: REPLY, sender_mac: mac, sender: address, target_mac: BROADCAST, target: address }
    }

    /// It in an Ethernet frame to everybody.
    fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(42);
        frame.extend_from_slice(&BROADCAST);
        frame.extend_from_slice(&self.sender_mac);
        frame.extend_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        frame.extend_from_slice(&ARP_HEADER);
        frame.extend_from_slice(&self.operation.to_be_bytes());
        frame.extend_from_slice(&self.sender_mac);
        frame.extend_from_slice(&self.sender.octets());
        frame.extend_from_slice(&self.target_mac);
        frame.extend_from_slice(&self.target.octets());
        frame
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let header = frame.get(12..20)?;
        if header[..2] != ETHERTYPE_ARP.to_be_bytes() || header[2..] != ARP_HEADER {
            return None;
        }
        let mac = |from: usize| Mac::try_from(frame.get(from..from + 6)?).ok();
        let ip = |from: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(from..from + 4)?).ok()?));
        Some(Self {
            operation: u16::from_be_bytes([*frame.get(20)?, *frame.get(21)?]),
            sender_mac: mac(22)?,
            sender: ip(28)?,
            target_mac: mac(32)?,
            target: ip(38)?,
        })
    }
}

/// A neighbour advertisement with the override flag; the kernel fills the checksum in.
fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
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

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

    #[test]
    fn announcements_are_repeated_and_end() {
        let ms = Duration::from_millis;
        for (age, expect) in
            [(0, (1, Some(ms(30)))), (40, (2, Some(ms(60)))), (3_000, (8, Some(ms(2_000)))), (60_000, (9, None))]
        {
            assert_eq!(announcements(ms(age)), expect, "{age}");
        }
    }

    #[test]
    fn frames_are_as_the_standards_draw_them() {
        let frame = Frame::reply(MAC, ADDRESS).bytes();
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(&frame[14..22], &[0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(&frame[22..32], &[2, 0, 0, 0, 0, 7, 10, 0, 0, 10]);
        assert_eq!(&frame[32..], &[255, 255, 255, 255, 255, 255, 10, 0, 0, 10]);
        let gratuitous = Frame::request(MAC, ADDRESS, ADDRESS).bytes();
        assert_eq!(&gratuitous[20..22], &[0, 1]);
        assert_eq!(&gratuitous[28..], &[10, 0, 0, 10, 0, 0, 0, 0, 0, 0, 10, 0, 0, 10]);
        let question = Frame::request(MAC, Ipv4Addr::UNSPECIFIED, ADDRESS).bytes();
        assert_eq!(&question[28..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 10]);
        let packet = advertisement(MAC, Ipv6Addr::LOCALHOST);
        assert_eq!((packet.len(), packet[0], packet[4], packet[23]), (32, 136, 0x20, 1));
        assert_eq!(&packet[24..], &[2, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn who_has_an_address_or_wants_it_is_heard() {
        let (own, else_) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 11));
        let asks = |sender, target| Frame::request(MAC, sender, target).bytes();
        let mut short = Frame::reply(MAC, ADDRESS).bytes();
        short.truncate(41);
        let mut other_protocol = Frame::reply(MAC, ADDRESS).bytes();
        other_protocol[13] = 0;
        for (name, frame, expect) in [
            ("an answer", Frame::reply(MAC, ADDRESS).bytes(), Some(MAC)),
            ("an announcement", asks(ADDRESS, ADDRESS), Some(MAC)),
            ("another's question before taking it", asks(Ipv4Addr::UNSPECIFIED, ADDRESS), Some(MAC)),
            ("a client that looks for it", asks(else_, ADDRESS), None),
            ("another address", Frame::reply(MAC, else_).bytes(), None),
            ("our own question", Frame::request(own, Ipv4Addr::UNSPECIFIED, ADDRESS).bytes(), None),
            ("our own announcement", Frame::reply(own, ADDRESS).bytes(), None),
            ("cut off", short, None),
            ("no ARP", other_protocol, None),
            ("nothing", Vec::new(), None),
        ] {
            assert_eq!(claimed(&frame, ADDRESS, own), expect, "{name}");
        }
        let longer = [asks(ADDRESS, ADDRESS), vec![0; 18]].concat();
        assert_eq!(claimed(&longer, ADDRESS, own), Some(MAC), "padded to Ethernet's least");
    }
}
