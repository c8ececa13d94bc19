//! Sockets: those that listen, and what all have in common.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

const BACKLOG: i32 = 1024;
/// After how long a peer is asked whether it is still there, and how often.
const PROBE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

/// A listener, also for IPv4 where an address of IPv6 stands for all.
fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens at a port of one address, or of all that the machine has.
pub(crate) fn listen(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    let six = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match address {
        Some(address) => listen_at((address, port).into()),
        None => match listen_at(six) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            // A machine may be without IPv6.
            Err(_) => listen_at((Ipv4Addr::UNSPECIFIED, port).into()),
            listener => listener,
        },
    }
}

/// Makes small answers quick, and a peer that is gone be noticed.
pub(crate) fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true); // only a matter of speed
    let probes = TcpKeepalive::new().with_time(PROBE.0).with_interval(PROBE.1);
    let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
}
