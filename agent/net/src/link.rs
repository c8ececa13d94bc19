//! Links, addresses and routes: what the rest needs of rtnetlink, made idempotent.
//!
//! Invariants
//! - A [`Links`] acts in the network namespace in which it was opened, whatever the thread that
//!   later uses it is in.
//! - `ensure_*` leaves alone what is right already and repairs the rest.
//!
//! Also used by `kontiki up`, which wires the local cluster's namespaces with it.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd as _,
    path::Path,
};

use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};

/// Metric of the `unreachable` routes beneath the real ones.
pub const GUARD_METRIC: u32 = 4_000_000_000;

/// A netlink socket in one network namespace.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Opens a socket in the calling thread's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Opens a socket in the namespace that `path` names (as `/run/netns/NAME`).
    ///
    /// # Errors
    /// The namespace is gone, or the caller may not enter it.
    pub fn in_namespace(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own: only it changes namespace, and it ends with the call.
        std::thread::scope(|scope| {
            let opened = scope.spawn(move || {
                nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
                let _guard = runtime.enter();
                Self::new()
            });
            opened.join().unwrap_or_else(|_| Err(io::Error::other("the thread that opens a netlink socket died")))
        })
    }

    /// For requests that have no helper here.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Index of the link with this name.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.find(name).await?.map(|link| link.header.index))
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        let mut links = std::pin::pin!(self.handle.link().get().match_name(name.to_owned()).execute());
        match links.next().await {
            Some(Ok(link)) => Ok(Some(link)),
            Some(Err(error)) if is_errno(&error, libc::ENODEV) => Ok(None),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// Names of all links, with their indices.
    pub async fn names(&self) -> Result<Vec<(String, u32)>, Error> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        Ok(links.iter().filter_map(|link| Some((name_of(link)?.to_owned(), link.header.index))).collect())
    }

    /// The link's MTU.
    pub async fn mtu(&self, index: u32) -> Result<u32, Error> {
        let mut links = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let link = links.try_next().await?;
        let mtu = link.iter().flat_map(|link| &link.attributes).find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        mtu.ok_or(Error::RequestFailed)
    }

    /// The link's hardware address.
    pub async fn mac(&self, index: u32) -> Result<[u8; 6], Error> {
        let mut links = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let link = links.try_next().await?;
        let mac = link.iter().flat_map(|link| &link.attributes).find_map(|a| match a {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        mac.ok_or(Error::RequestFailed)
    }

    /// Gives a link its hardware address for good.
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).address(mac.to_vec()).build()).await
    }

    /// The bridge of that name, made if it is not there.
    pub async fn ensure_bridge(&self, name: &str, mtu: Option<u32>) -> Result<u32, Error> {
        let index = self.ensure(name, LinkBridge::new(name).build()).await?;
        if let Some(mtu) = mtu {
            self.change(LinkUnspec::new_with_index(index).mtu(mtu).build()).await?;
        }
        Ok(index)
    }

    /// A veth pair, made if `name` is not there; `peer` is then in the same namespace.
    pub async fn ensure_veth(&self, name: &str, peer: &str) -> Result<u32, Error> {
        self.ensure(name, LinkVeth::new(name, peer).build()).await
    }

    /// The link of that name, made from `message` if it is not there.
    pub async fn ensure(&self, name: &str, message: LinkMessage) -> Result<u32, Error> {
        if let Some(index) = self.index(name).await? {
            return Ok(index);
        }
        match self.handle.link().add(message).execute().await {
            Err(error) if !is_errno(&error, libc::EEXIST) => return Err(error),
            _ => {}
        }
        self.index(name).await?.ok_or(Error::RequestFailed)
    }

    /// Applies a changed attribute or flag.
    pub async fn change(&self, message: LinkMessage) -> Result<(), Error> {
        self.handle.link().change(message).execute().await
    }

    /// Raises a link, unless it is up.
    pub async fn up(&self, index: u32) -> Result<(), Error> {
        let mut links = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let up = links.try_next().await?.is_some_and(|link| link.header.flags.contains(LinkFlags::Up));
        if up { Ok(()) } else { self.change(LinkUnspec::new_with_index(index).up().build()).await }
    }

    /// Makes a link a port of a bridge.
    pub async fn attach(&self, index: u32, bridge: u32) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).controller(bridge).build()).await
    }

    /// Moves a link into another namespace under a new name.
    pub async fn move_to(&self, index: u32, namespace: &File, name: &str) -> Result<(), Error> {
        use std::os::fd::AsRawFd as _;
        let message = LinkUnspec::new_with_index(index).name(name).setns_by_fd(namespace.as_raw_fd()).build();
        self.handle.link().set(message).execute().await
    }

    /// Removes a link by name, if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(error) if !is_errno(&error, libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    /// All addresses of all links.
    pub(crate) async fn addresses(&self) -> Result<Vec<AddressMessage>, Error> {
        self.handle.address().get().execute().try_collect().await
    }

    /// IPv4 networks of all interfaces: index and address with its prefix.
    pub async fn networks(&self) -> Result<Vec<(u32, Ipv4Net)>, Error> {
        let all = self.addresses().await?;
        Ok(all.iter().filter_map(|a| Some((a.header.index, v4_of(a)?))).collect())
    }

    /// The interface that holds an address, and its subnet there.
    pub async fn holder_of(&self, ip: Ipv4Addr) -> Result<Option<(u32, Ipv4Net)>, Error> {
        let networks = self.networks().await?;
        Ok(networks.into_iter().find(|(_, net)| net.addr() == ip).map(|(index, net)| (index, net.trunc())))
    }

    /// Adds an address to a link, unless it is there.
    pub async fn ensure_address(&self, index: u32, address: Ipv4Net) -> Result<(), Error> {
        let request = self.handle.address().add(index, IpAddr::V4(address.addr()), address.prefix_len());
        match request.execute().await {
            Err(error) if !is_errno(&error, libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes this the only IPv4 address of a link.
    pub async fn only_address(&self, index: u32, address: Ipv4Net) -> Result<(), Error> {
        for message in self.addresses().await? {
            if message.header.index == index && v4_of(&message).is_some_and(|has| has != address) {
                self.handle.address().del(message).execute().await?;
            }
        }
        self.ensure_address(index, address).await
    }

    /// An `unreachable` route; a lower metric elsewhere goes before it.
    pub async fn unreachable(&self, range: Ipv4Net, metric: u32) -> Result<(), Error> {
        self.add_route(unreachable(range, metric)).await
    }

    /// Removes one of our `unreachable` routes, if it is there.
    pub async fn remove_unreachable(&self, range: Ipv4Net, metric: u32) -> Result<(), Error> {
        self.delete_route(unreachable(range, metric)).await
    }

    /// Lets processes of this machine open connections to `range` at all, from `source`: the
    /// packet rules redirect or refuse them before they would be delivered to `lo`.
    pub async fn local_route(&self, range: Ipv4Net, source: Ipv4Addr) -> Result<(), Error> {
        let lo = self.index("lo").await?.ok_or(Error::RequestFailed)?;
        self.up(lo).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.addr(), range.prefix_len())
            .output_interface(lo)
            .scope(RouteScope::Link)
            .pref_source(source);
        self.add_route(route.build()).await
    }

    /// A default route, replacing another one.
    pub async fn default_route(&self, gateway: Ipv4Addr) -> Result<(), Error> {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(Ipv4Addr::UNSPECIFIED, 0).gateway(gateway);
        self.handle.route().add(route.build()).replace().execute().await
    }

    /// All IPv4 routes of all tables.
    pub async fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect().await
    }

    /// Removes every route of the main table whose destination is exactly `range`.
    pub async fn remove_routes(&self, range: Ipv4Net) -> Result<(), Error> {
        for route in self.routes().await? {
            if route.header.table == MAIN_TABLE && destination(&route) == Some(range) {
                self.delete_route(route).await?;
            }
        }
        Ok(())
    }

    /// Adds a route, unless it is there.
    pub async fn add_route(&self, route: RouteMessage) -> Result<(), Error> {
        match self.handle.route().add(route).execute().await {
            Err(error) if !is_errno(&error, libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a route, if it is there.
    pub async fn delete_route(&self, route: RouteMessage) -> Result<(), Error> {
        match self.handle.route().del(route).execute().await {
            Err(error) if !is_errno(&error, libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The table that ordinary routes are in (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u8 = 254;

fn unreachable(range: Ipv4Net, metric: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.addr(), range.prefix_len())
        .kind(RouteType::Unreachable)
        .priority(metric)
        .build()
}

/// Where a route leads to; the default route is `0.0.0.0/0`.
#[must_use]
pub fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Ipv4Net::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).ok()
}

/// The interface a route leaves by.
#[must_use]
pub fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn v4_of(message: &AddressMessage) -> Option<Ipv4Net> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let address = find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    match local.or(address)? {
        IpAddr::V4(ip) => Ipv4Net::new(ip, message.header.prefix_len).ok(),
        IpAddr::V6(_) => None,
    }
}

/// Whether the kernel answered with this error number.
#[must_use]
pub fn is_errno(error: &Error, number: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code().abs() == number)
}
