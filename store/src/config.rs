//! How one member is configured.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// One member's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Member id, never used again once removed.
    pub id: u64,
    /// Member name.
    pub name: String,
    /// Data directory; made if missing.
    pub dir: PathBuf,
    /// Where the peer server listens.
    pub listen: SocketAddr,
    /// How other members reach it, `host:port`.
    pub advertise: String,
    /// Certificates for talking to peers.
    pub tls: PeerTls,
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two calls an election.
    pub election: (Duration, Duration),
    /// Says to the others that it knows no later feature level than this: so that the group's stays below until an
    /// upgrade is surely kept. No limit if missing.
    pub max_feature_level: Option<u32>,
    /// How much is kept of the past that is compacted.
    pub past: Past,
}

/// How much is kept of what is compacted, for those who ask what became of one key. Nobody else sees it: a watch, a read
/// of the past and etcd's API go back to the compacted revision only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// How far back, as long as there is room.
    pub time: Duration,
    /// Bytes of files, about. The oldest goes first, and sooner on a disk that fills up.
    pub bytes: u64,
}

impl Past {
    /// What is compacted goes.
    pub const NONE: Self = Self { time: Duration::ZERO, bytes: 0 };
}

impl Config {
    /// 100 ms, for members in one building: half a lease, so that one that is late does not end it.
    pub const HEARTBEAT: Duration = Duration::from_millis(100);
    /// 300 to 600 ms, for members in one building.
    pub const ELECTION: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(600));

    /// For tests that open a database and no network.
    #[cfg(test)]
    pub(crate) fn unconnected(id: u64, dir: &std::path::Path) -> Self {
        Self {
            id,
            name: format!("s{id}"),
            dir: dir.to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: String::new(),
            tls: PeerTls {
                ca_pem: String::new(),
                cert_pem: String::new(),
                key_pem: String::new(),
                organization: None,
                names: Vec::new(),
            },
            heartbeat: Self::HEARTBEAT,
            election: Self::ELECTION,
            max_feature_level: None,
            past: Past::NONE,
        }
    }
}

/// PEM texts for mutual TLS between members. A peer must show a certificate signed by this CA.
#[derive(Clone)]
pub struct PeerTls {
    /// Certificates of the cluster's CA.
    pub ca_pem: String,
    /// This member's certificate.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
    /// The organization that the subject of a member's certificate must have, where the CA signs
    /// others' too.
    pub organization: Option<String>,
    /// The names of which a member's certificate must have one, as its common name or an alternative DNS name; any if
    /// there are none.
    pub names: Vec<String>,
}

impl PeerTls {
    /// The organization of masters' certificates.
    pub const SERVERS: &str = "kontiki:servers";
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerTls(..)")
    }
}
