//! Addresses that no machine can have for itself.

use std::net::{IpAddr, Ipv4Addr};

/// Who has an address that nobody can be given, in words; `None`: it may be given.
#[must_use]
pub fn taken_by_nature(address: IpAddr) -> Option<&'static str> {
    let everybody = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_loopback() {
        Some("every machine for itself")
    } else if address.is_multicast() || everybody {
        Some("groups of machines")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_are_nobodys() {
        for (address, free) in [
            ("10.1.2.3", true),
            ("fd00::1", true),
            ("0.0.0.0", false),
            ("127.0.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(taken_by_nature(address.parse().expect("an address")).is_none(), free, "{address}");
        }
    }
}
