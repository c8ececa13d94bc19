//! The store alone, in etcd's place: the same flags, the same ports.
//!
//! Invariants
//! - A member of a new group knows all others from its flags, and each is told the same.
//! - A member that joins a group takes the id under which it was added there.
//! - A planned stop hands leadership over first.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kontiki_gate::Gate;
use kontiki_store::{Config, Member, PeerTls, Store, StoreError};
use sha2::{Digest, Sha256};
use tokio::{net::lookup_host, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{Admit, Listener, TlsFiles, tls};

/// How long a joining member looks for the group it was added to.
const JOIN: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);

/// How a stand-alone member runs. URLs are etcd's: `https://host:port`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Member name.
    pub name: String,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Where it serves clients.
    pub listen_client: Vec<String>,
    /// Where clients are told to find it.
    pub advertise_client: Vec<String>,
    /// Where it listens for members.
    pub listen_peer: String,
    /// Where members find it.
    pub advertise_peer: String,
    /// The members of the group, `name=url`; itself alone if empty.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether the group exists already.
    pub existing: bool,
    /// Certificates for clients.
    pub client_tls: TlsFiles,
    /// Certificates for members.
    pub peer_tls: TlsFiles,
    /// The names of which a member's certificate must have one; any if there are none.
    pub peer_names: Vec<String>,
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// The least time after which a silent leader is replaced; the most is twice that.
    pub election: Duration,
    pub max_feature_level: Option<u32>,
}

/// The `host:port` of a URL.
pub(crate) fn peer_address(url: &str) -> Result<String, String> {
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{url}: {scheme} is not served, only https is")),
        None => url,
    };
    let address = rest.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err(format!("{url}: not an address like https://10.0.0.1:2380")),
    }
}

async fn resolve(url: &str) -> Result<SocketAddr, String> {
    let address = peer_address(url)?;
    let found = lookup_host(&address).await.map_err(|error| format!("{url}: {error}"))?.next();
    found.ok_or_else(|| format!("{url}: no such host"))
}

/// Runs one member until `stop`.
///
/// # Errors
/// One line that says what is wrong.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), String> {
    let tls = Arc::new(tls::server_config(&options.client_tls)?);
    let (mut listeners, gate) = (Vec::new(), Gate::default());
    for url in &options.listen_client {
        let address = resolve(url).await?;
        let bound = Listener::bind(address, Arc::clone(&tls), Admit::Any);
        listeners.push(bound.map_err(|error| format!("cannot listen on {url}: {error}"))?.behind(gate.clone()));
    }
    let cluster = cluster(&options)?;
    let config = config(&options, &cluster).await?;
    let store = Store::open(config.clone()).await.map_err(|error| error.to_string())?;
    if !store.initialized() && !options.existing {
        match store.bootstrap_together(&cluster).await {
            Ok(()) | Err(StoreError::AlreadyInitialized) => {}
            Err(error) => return Err(format!("cannot start the group: {error}")),
        }
    }
    tracing::info!(name = options.name, id = format!("{:x}", config.id), "serving the store");
    let introduce = tokio::spawn(introduce(store.clone(), config.clone(), options.advertise_client.clone()));
    let serving: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(listener.run(store.clone(), stop.clone()))).collect();
    let failed = tokio::select! {
        () = stop.cancelled() => false,
        () = store.stopped() => true,
    };
    introduce.abort();
    // Leadership goes first, so that clients who are cut off find a leader elsewhere.
    store.shutdown().await;
    stop.cancel();
    for task in serving {
        let _ = task.await;
    }
    match (failed, store.halted()) {
        (false, _) => Ok(()),
        (true, Some(reason)) => Err(reason.to_owned()),
        (true, None) => Err("the store has stopped, see the log".to_owned()),
    }
}

/// The members of a new group, each with the id that everybody works out for it.
fn cluster(options: &Options) -> Result<Vec<(u64, String, String)>, String> {
    let own = (options.name.clone(), options.advertise_peer.clone());
    let listed =
        if options.initial_cluster.is_empty() { std::slice::from_ref(&own) } else { &options.initial_cluster[..] };
    let mut members = Vec::new();
    for (name, url) in listed {
        let address = peer_address(url)?;
        members.push((member_id(name, &address), name.clone(), address));
    }
    let own_address = peer_address(&options.advertise_peer)?;
    if !options.existing && !members.iter().any(|(_, name, address)| *name == options.name && *address == own_address) {
        return Err(format!(
            "--initial-cluster does not list {}={}: it has to name every member as that member names itself",
            options.name, options.advertise_peer
        ));
    }
    Ok(members)
}

/// The id that everybody works out for a member of a new group.
pub(crate) fn member_id(name: &str, address: &str) -> u64 {
    let hash = Sha256::digest(format!("{name}={address}"));
    // As large as JSON's readers take exactly.
    (u64::from_be_bytes(hash[..8].try_into().expect("eight bytes")) >> 11).max(1)
}

async fn config(options: &Options, cluster: &[(u64, String, String)]) -> Result<Config, String> {
    let pem = options.peer_tls.read()?;
    let tls = PeerTls {
        ca_pem: pem.ca,
        cert_pem: pem.cert,
        key_pem: pem.key,
        organization: None,
        names: options.peer_names.clone(),
    };
    let advertise = peer_address(&options.advertise_peer)?;
    let id = match kontiki_store::identity(&options.data_dir) {
        // As it was before, whatever the flags say.
        Some((id, _)) => id,
        None if options.existing => {
            let (id, generation) = joined_as(&tls, &advertise, cluster).await?;
            kontiki_store::adopt_generation(&options.data_dir, generation)
                .map_err(|error| format!("cannot use {}: {error}", options.data_dir.display()))?;
            id
        }
        None => member_id(&options.name, &advertise),
    };
    Ok(Config {
        id,
        name: options.name.clone(),
        dir: options.data_dir.clone(),
        listen: resolve(&options.listen_peer).await?,
        advertise,
        tls,
        heartbeat: options.heartbeat,
        election: (options.election, options.election * 2),
        max_feature_level: options.max_feature_level,
        past: kontiki_store::Past::NONE,
    })
}

/// The id under which the group has added this member, and the group's generation.
async fn joined_as(tls: &PeerTls, own: &str, cluster: &[(u64, String, String)]) -> Result<(u64, u64), String> {
    let others: Vec<&str> =
        cluster.iter().map(|(_, _, address)| &**address).filter(|address| *address != own).collect();
    let looked = timeout(JOIN, async {
        loop {
            for other in &others {
                let members: Vec<Member> = kontiki_store::members_at(tls, other).await.unwrap_or_default();
                if let Some(member) = members.iter().find(|member| member.address == own) {
                    return (member.id, kontiki_store::generation_of(&members));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    looked.await.map_err(|_| {
        format!("no member of the group at {} knows {own}: add it first (etcdctl member add)", others.join(", "))
    })
}

/// Tells the group this member's name and where clients find it, once it belongs to one.
async fn introduce(store: Store, config: Config, urls: Vec<String>) {
    let mut status = store.status();
    loop {
        let known = {
            let status = status.borrow_and_update();
            status.members.iter().find(|member| member.id == config.id).cloned()
        };
        let told = known.as_ref().is_some_and(|known| known.name == config.name && known.client_urls == urls);
        if known.is_some() && !told {
            let update = store.update_member(config.id, &config.name, &config.advertise, urls.clone());
            if let Err(error) = update.await {
                tracing::debug!(%error, "the group does not know this member's addresses yet");
            }
        }
        if timeout(Duration::from_secs(1), status.changed()).await.is_ok_and(|changed| changed.is_err()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_etcds() {
        assert_eq!(peer_address("https://10.0.0.1:2380").unwrap(), "10.0.0.1:2380");
        assert_eq!(peer_address("https://[::1]:2380/").unwrap(), "[::1]:2380");
        assert_eq!(peer_address("db1.example:2380").unwrap(), "db1.example:2380");
        for bad in ["http://10.0.0.1:2380", "https://10.0.0.1", "https://:2380", "unix://x:1", ""] {
            assert!(peer_address(bad).is_err(), "{bad}");
        }
    }
}
