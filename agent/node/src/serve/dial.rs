//! Connections to whatever the node has a way to, for masters that have none of their own.
//!
//! Invariants
//! - What listens on the node for itself alone (loopback, link-local addresses) is not reached.
//! - The master hears of the connection, by one byte, before it is sent anything else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use kontiki_proto::node::Dial;
use tokio::{net::TcpStream, time::timeout};

use super::joined;
use crate::session::tunnels::{TunnelError, TunnelReceiver, TunnelSender};

const CONNECT: Duration = Duration::from_secs(10);
/// Says that the connection stands.
const CONNECTED: Bytes = Bytes::from_static(&[1]);

/// Serves one connection to its end.
pub(crate) async fn serve(request: &Dial, tx: &TunnelSender, rx: TunnelReceiver) -> Result<(), TunnelError> {
    let address = address(request)?;
    let stream = timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| TunnelError::new(504, format!("dial tcp {address}: i/o timeout")))?
        .map_err(|error| TunnelError::new(502, format!("dial tcp {address}: connect: {}", reason(&error))))?;
    let _ = stream.set_nodelay(true);
    if tx.send(CONNECTED).await {
        joined::copy(stream, tx, rx).await;
    }
    Ok(())
}

fn address(request: &Dial) -> Result<SocketAddr, TunnelError> {
    let refused = || TunnelError::new(403, format!("address {} is not dialled", request.address));
    let ip: IpAddr = request.address.parse().map_err(|_| refused())?;
    let port = u16::try_from(request.port).ok().filter(|port| *port != 0).ok_or_else(refused)?;
    let own = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast(),
    };
    if own { Err(refused()) } else { Ok(SocketAddr::new(ip, port)) }
}

/// The system's own words, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_may_reach_is_dialled() {
        for (ip, port, expect) in [
            ("10.2.0.7", 8443, Some("10.2.0.7:8443")),
            ("fd00::7", 1, Some("[fd00::7]:1")),
            ("10.2.0.7", 0, None),
            ("10.2.0.7", 65_536, None),
            ("127.0.0.1", 80, None),
            ("::ffff:127.0.0.1", 80, None),
            ("::1", 80, None),
            ("0.0.0.0", 80, None),
            ("169.254.169.254", 80, None),
            ("fe80::1", 80, None),
            ("224.0.0.1", 80, None),
            ("localhost", 80, None),
        ] {
            let got = address(&Dial { address: ip.to_owned(), port });
            assert_eq!(got.ok().map(|a| a.to_string()).as_deref(), expect, "{ip} {port}");
        }
    }

    #[test]
    fn the_reason_is_the_systems() {
        let error = std::io::Error::from_raw_os_error(111);
        assert_eq!(reason(&error), "connection refused");
    }
}
