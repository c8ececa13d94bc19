//! The gate of a master: how many connections it holds, from whom, and what ends one before its time. All ports that
//! clients and nodes reach share one [`Gate`].
//!
//! Invariants
//! - A connection beyond a limit costs one accepted socket, which is closed at once, before any cryptography.
//! - A place is given back when its stream is dropped, whatever ended it.
//! - A certificate that becomes barred ends the connections that showed it, established ones too: both directions fail
//!   when they are next looked at, which barring sees to.
//! - A connection that does not say which protocol it speaks, or whose other side takes nothing, ends by itself.
//!
//! Not here: TLS, requests, and which certificates are barred.

mod guarded;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

pub use guarded::Guarded;

/// How many connections there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one address; from one network of 64 bits, where addresses have 128.
    pub per_address: usize,
    /// From all together.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_address: 1024, total: 8192 }
    }
}

/// How long a connection may make others wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From its acceptance until it is known which version of HTTP it speaks.
    pub greeting: Duration,
    /// How long what is sent may find no room on its way to the other side.
    pub stall: Duration,
}

impl Default for Patience {
    /// A person may stop the output of a tool for some minutes.
    fn default() -> Self {
        Self { greeting: Duration::from_secs(10), stall: Duration::from_secs(600) }
    }
}

/// Tells whether a certificate (DER) is barred.
pub type Barred = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// See the crate. Clones are one gate.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    limits: Limits,
    places: Mutex<Places>,
    barred: RwLock<Option<Barred>>,
}

#[derive(Default)]
struct Places {
    next: u64,
    open: HashMap<u64, Open>,
    by_address: HashMap<IpAddr, usize>,
    turned_away: u64,
    expelled: u64,
}

struct Open {
    /// What the other side showed, if it did.
    certificate: Option<Box<[u8]>>,
    end: CancellationToken,
}

/// What has passed a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections that are open.
    pub open: usize,
    /// Connections that found no place, since the start.
    pub turned_away: u64,
    /// Connections that ended because their certificate was barred, since the start.
    pub expelled: u64,
}

/// There is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Its address has as many as it may have.
    Address,
    /// There are as many as there may be.
    Total,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Gate {
    /// A gate that nobody has passed.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, places: Mutex::default(), barred: RwLock::default() }))
    }

    /// A place for a connection from `address`.
    ///
    /// # Errors
    /// There is none: the socket is to be closed.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Full> {
        let Limits { per_address, total } = self.0.limits;
        let (mut places, address) = (self.0.places.lock(), counted_as(address));
        let full = if places.open.len() >= total {
            Some(Full::Total)
        } else if places.by_address.get(&address).is_some_and(|count| *count >= per_address) {
            Some(Full::Address)
        } else {
            None
        };
        if let Some(full) = full {
            places.turned_away += 1;
            return Err(full);
        }
        let (id, end) = (places.next, CancellationToken::new());
        places.next += 1;
        *places.by_address.entry(address).or_default() += 1;
        places.open.insert(id, Open { certificate: None, end: end.clone() });
        drop(places);
        Ok(Place { gate: self.clone(), id, address, end })
    }

    /// From now on `barred` says which certificates are not let in; connections that showed one end.
    pub fn bar(&self, barred: Barred) {
        *self.0.barred.write() = Some(Arc::clone(&barred));
        let mut places = self.0.places.lock();
        let shown = |open: &&Open| open.certificate.as_ref().is_some_and(|shown| barred(shown));
        let expelled: Vec<_> = places.open.values().filter(shown).map(|open| open.end.clone()).collect();
        places.expelled += expelled.iter().filter(|end| !end.is_cancelled()).count() as u64;
        drop(places);
        expelled.iter().for_each(CancellationToken::cancel);
    }

    /// Whether a certificate (DER) is barred.
    #[must_use]
    pub fn is_barred(&self, certificate: &[u8]) -> bool {
        let barred = self.0.barred.read().clone();
        barred.is_some_and(|barred| barred(certificate))
    }

    /// What has passed.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let places = self.0.places.lock();
        Figures { open: places.open.len(), turned_away: places.turned_away, expelled: places.expelled }
    }
}

/// Whoever has a network of IPv6 has all its addresses.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// The place of one connection, given back when it is dropped.
pub struct Place {
    gate: Gate,
    id: u64,
    address: IpAddr,
    end: CancellationToken,
}

impl Place {
    /// What the other side has shown in its handshake (DER), if anything.
    ///
    /// # Errors
    /// The certificate is barred.
    pub fn identify(&self, certificate: Option<&[u8]>) -> io::Result<()> {
        let Some(certificate) = certificate else { return Ok(()) };
        // Known first and judged then: who bars one at this moment finds it, or is seen here.
        if let Some(open) = self.gate.0.places.lock().open.get_mut(&self.id) {
            open.certificate = Some(certificate.into());
        }
        match self.gate.is_barred(certificate) {
            false => Ok(()),
            true => Err(barred()),
        }
    }

    /// The stream of the connection, which takes the place along.
    pub fn guard<S>(self, stream: S, patience: Patience) -> Guarded<S> {
        let end = [self.end.clone(), self.end.clone()];
        Guarded::new(stream, self, end, patience)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.gate.0.places.lock();
        places.open.remove(&self.id);
        if let Some(count) = places.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                places.by_address.remove(&self.address);
            }
        }
    }
}

fn barred() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the certificate is revoked")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let gate = Gate::new(Limits { per_address: 2, total: 3 });
        let enter = |address: &str| gate.enter(address.parse().unwrap());
        let first = enter("10.0.0.1").unwrap();
        let second = enter("::ffff:10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.1").err(), Some(Full::Address), "however it is written");
        let third = enter("2001:db8::1").unwrap();
        assert_eq!(enter("10.0.0.2").err(), Some(Full::Total));
        assert_eq!(gate.figures(), Figures { open: 3, turned_away: 2, expelled: 0 });
        drop((first, second));
        let fourth = enter("2001:db8::2").unwrap();
        assert_eq!(enter("2001:db8::3").err(), Some(Full::Address), "one network is one client");
        drop((third, fourth));
        assert_eq!(gate.figures().open, 0);
        assert!(gate.0.places.lock().by_address.is_empty(), "nothing is kept of those who left");
    }

    #[test]
    fn who_is_barred_goes_and_does_not_come_back() {
        let gate = Gate::default();
        let enter = |shown: &[u8]| {
            let place = gate.enter([10, 0, 0, 1].into()).unwrap();
            place.identify(Some(shown)).map(|()| place)
        };
        let (thief, honest) = (enter(b"thief").unwrap(), enter(b"honest").unwrap());
        let bar = || gate.bar(Arc::new(|shown| shown == b"thief"));
        bar();
        assert!(thief.end.is_cancelled() && !honest.end.is_cancelled());
        assert!(enter(b"thief").is_err() && enter(b"honest").is_ok());
        bar();
        assert_eq!(gate.figures().expelled, 1, "counted once");
    }
}
