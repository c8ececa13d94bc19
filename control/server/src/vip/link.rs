//! The interface that carries the virtual address, over rtnetlink.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo},
        link::LinkAttribute,
    },
};

/// An interface and a connection to the kernel.
pub struct Link {
    handle: Handle,
    /// Which it is; its hardware address is zero where it has none.
    pub place: kontiki_neighbours::Link,
}

impl Link {
    /// The interface that has `address`.
    ///
    /// # Errors
    /// There is none, or the kernel cannot be asked.
    pub async fn find(address: IpAddr) -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("rtnetlink")?;
        tokio::spawn(connection);
        let mut found = None;
        let mut addresses = handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("listing addresses")? {
            if has(&message, address) {
                found = Some(message.header.index);
            }
        }
        let Some(index) = found else { bail!("no interface has the address {address}") };
        let mut links = handle.link().get().match_index(index).execute();
        let link = links.try_next().await.context("reading the interface")?.context("the interface went away")?;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
            _ => None,
        });
        drop(links);
        drop(addresses);
        Ok(Self { handle, place: kontiki_neighbours::Link { index, mac: mac.unwrap_or_default() } })
    }

    /// Gives the interface `address` for `lifetime` from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set(&self, address: IpAddr, lifetime: Duration) -> anyhow::Result<()> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(self.place.index, address, bits).replace();
        let message = request.message_mut();
        let mut cache = CacheInfo::default();
        cache.ifa_valid = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        cache.ifa_preferred = cache.ifa_valid;
        message.attributes.push(AddressAttribute::CacheInfo(cache));
        if address.is_ipv6() {
            // Duplicate address detection would wait a second, and the old holder may still answer.
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.context("setting the address")
    }

    /// Takes `address` from the interface, if it is there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, address: IpAddr) -> anyhow::Result<()> {
        let mut addresses = self.handle.address().get().set_link_index_filter(self.place.index).execute();
        let mut present = Vec::new();
        while let Some(message) = addresses.try_next().await.context("listing addresses")? {
            if has(&message, address) {
                present.push(message);
            }
        }
        for message in present {
            self.handle.address().del(message).execute().await.context("removing the address")?;
        }
        Ok(())
    }
}

fn has(message: &AddressMessage, address: IpAddr) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Address(found) | AddressAttribute::Local(found) => *found == address,
        _ => false,
    })
}
