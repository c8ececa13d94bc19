//! Ports of processes under test.
//!
//! Invariants
//! - They lie below the kernel's ephemeral range: nobody's outgoing connection can take the port of a process that
//!   is down.
//! - A port that was given out is this process's until it ends, whether somebody listens or not: no other thread and no
//!   other process that asks here is given it, or listens on it to see whether it is free.

use std::{
    array,
    collections::HashMap,
    env,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use rand::Rng;

const PORTS: Range<u16> = 20_000..32_000;
const TRIES: usize = 1_000;

/// The locks of the ports that this process was given.
static GIVEN: Mutex<Option<HashMap<u16, File>>> = Mutex::new(None);

/// Addresses of the loopback that nobody listens on and nobody else was given.
///
/// # Errors
/// There are not so many, or the locks in the folder for temporary files cannot be written.
pub fn free<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let locks = env::temp_dir().join("kontiki-test-ports");
    fs::create_dir_all(&locks)?;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let mut found = Vec::with_capacity(N);
    for _ in 0..TRIES {
        if found.len() == N {
            return Ok(array::from_fn(|i| found[i]));
        }
        let port = rand::rng().random_range(PORTS);
        if given.contains_key(&port) {
            continue;
        }
        let lock = File::create(locks.join(port.to_string()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if lock.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
            given.insert(port, lock);
            found.push(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no {N} free ports in {PORTS:?}")))
}

/// # Panics
/// There is none.
pub fn one() -> SocketAddr {
    let [address] = free().expect("a free port");
    address
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn no_port_is_given_twice_while_nobody_listens() {
        let many = || (0..200).flat_map(|_| free::<5>().expect("ports")).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(many)).collect();
        let all: Vec<SocketAddr> = threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect();
        assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (4_000, 4_000));
    }

    #[test]
    fn the_port_of_somebody_else_is_not_listened_on() {
        let lock =
            File::create(env::temp_dir().join("kontiki-test-ports").join(one().port().to_string())).expect("a file");
        assert!(lock.try_lock().is_err(), "what was given is locked for others");
    }
}
