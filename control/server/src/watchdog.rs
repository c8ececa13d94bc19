//! What systemd is told (`sd_notify(3)`): that the server is ready, and, as often as its unit asks for, that it gets on.
//!
//! Invariants
//! - The watchdog is fed by progress: tasks run, the blocking pool takes work, and the store has answered a linearizable
//!   read, with what it is or with why it cannot. A member without a leader gets on; one whose Raft core or disk hangs
//!   does not, and is killed and started again.
//! - Without systemd nothing is told to anybody.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use kontiki_store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How often at least, whatever the unit asks for.
const LONGEST: Duration = Duration::from_secs(60);

/// Where and how often systemd wants to be told.
struct Manager {
    socket: OsString,
    every: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    fn from_environment() -> Option<Self> {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        Some(Self { socket, every: interval(number("WATCHDOG_USEC"), number("WATCHDOG_PID"), std::process::id()) })
    }

    fn tell(&self, text: &str) {
        if let Err(error) = send(&self.socket, text) {
            warn!(%error, "systemd cannot be told");
        }
    }
}

/// Half of the time after which systemd loses its patience with this process, if it watches it.
fn interval(micros: Option<u64>, watched: Option<u64>, own: u32) -> Option<Duration> {
    let micros = micros.filter(|micros| *micros > 0)?;
    let mine = watched.is_none_or(|pid| pid == u64::from(own));
    mine.then(|| (Duration::from_micros(micros) / 2).min(LONGEST))
}

/// Sends a message to a socket by path, or by a name that begins with `@`.
fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

/// Tells systemd that the server is ready, and feeds its watchdog until `stop`.
pub async fn run(store: Store, stop: CancellationToken) {
    let Some(manager) = Manager::from_environment() else { return };
    manager.tell("READY=1");
    let fed = async {
        let Some(every) = manager.every else { return std::future::pending::<()>().await };
        loop {
            // Whatever hangs here stays unfed.
            gets_on(&store).await;
            manager.tell("WATCHDOG=1");
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => manager.tell("STOPPING=1"),
        // Never ends; a dropped look loses nothing.
        () = fed => {}
    }
}

async fn gets_on(store: &Store) {
    // Either answer says that the store works: it waits for others no longer than a moment.
    if let Err(error) = store.barrier().await {
        debug!(%error, "the store answers that it cannot");
    }
    // Only a pool that takes work answers; what it answers is nothing.
    let _ = tokio::task::spawn_blocking(|| ()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_as_often_as_it_asks() {
        let second = Some(1_000_000);
        for (what, micros, watched, expect) in [
            ("no watchdog", None, None, None),
            ("off", Some(0), None, None),
            ("half its patience", second, Some(7), Some(Duration::from_millis(500))),
            ("of any process", second, None, Some(Duration::from_millis(500))),
            ("of another process", second, Some(8), None),
            ("a long patience", Some(3_600_000_000), None, Some(LONGEST)),
        ] {
            assert_eq!(interval(micros, watched, 7), expect, "{what}");
        }
    }

    #[test]
    fn messages_reach_sockets_of_both_kinds() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let name = format!("@kontiki-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).expect("a name");
        for (socket, listener) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).expect("bound")),
            (name.into(), UnixDatagram::bind_addr(&abstract_address).expect("bound")),
        ] {
            send(&socket, "READY=1").expect("sent");
            let mut buf = [0; 16];
            let read = listener.recv(&mut buf).expect("received");
            assert_eq!(&buf[..read], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }
}
