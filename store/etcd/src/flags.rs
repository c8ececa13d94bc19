//! The command line of the store alone. The flags are etcd's, so that one replaces the other.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{Options, TlsFiles, standalone};

/// What is logged unless `RUST_LOG` says otherwise. openraft's own view of requests that the store
/// tries again would only worry people.
const LOG: &str = "info,openraft=error,openraft::raft::api=off";

/// The store alone, in etcd's place.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// Name of this member
    #[arg(long, default_value = "default", env = "ETCD_NAME")]
    name: String,
    /// Data directory [default: <name>.kontiki]
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to serve clients, several with commas
    #[arg(long, default_value = "https://127.0.0.1:2379", value_delimiter = ',', value_name = "URLS")]
    listen_client_urls: Vec<String>,
    /// Where clients find this member [default: where it listens]
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    advertise_client_urls: Vec<String>,
    /// Where to listen for the other members
    #[arg(long, default_value = "https://127.0.0.1:2380", value_name = "URL")]
    listen_peer_urls: String,
    /// Where the other members find this one [default: where it listens]
    #[arg(long, value_name = "URL")]
    initial_advertise_peer_urls: Option<String>,
    /// All members of the group, as name=url, with commas [default: this one alone]
    #[arg(long, value_delimiter = ',', value_name = "MEMBERS")]
    initial_cluster: Vec<String>,
    /// Whether the group is made now, or this member was added to one that exists
    #[arg(long, default_value = "new", value_parser = ["new", "existing"])]
    initial_cluster_state: String,
    /// CA of the clients' certificates
    #[arg(long, value_name = "FILE")]
    trusted_ca_file: PathBuf,
    /// Certificate for clients
    #[arg(long, value_name = "FILE")]
    cert_file: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Clients have to show a certificate: always so
    #[arg(long)]
    client_cert_auth: bool,
    /// CA of the members' certificates [default: the clients']
    #[arg(long, value_name = "FILE")]
    peer_trusted_ca_file: Option<PathBuf>,
    /// Certificate for the other members [default: the one for clients]
    #[arg(long, value_name = "FILE")]
    peer_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    peer_key_file: Option<PathBuf>,
    /// Members have to show a certificate: always so
    #[arg(long)]
    peer_client_cert_auth: bool,
    /// The common or DNS names of which a member's certificate must have one, with commas. Where members' and clients'
    /// certificates are of one CA, any that is for servers is a member's otherwise
    #[arg(long, alias = "peer-cert-allowed-hostname", value_delimiter = ',', value_name = "NAMES")]
    peer_cert_allowed_cn: Vec<String>,
    /// Milliseconds between two signs of life of a leader
    #[arg(long, default_value_t = 100, value_name = "MS")]
    heartbeat_interval: u64,
    /// Milliseconds of silence after which a leader is replaced, at least
    #[arg(long, default_value_t = 300, value_name = "MS")]
    election_timeout: u64,
    /// Keeps the group below later feature levels, so that an upgrade can be taken back until this is left away
    #[arg(long, env = "KONTIKI_MAX_FEATURE_LEVEL", value_name = "LEVEL")]
    max_feature_level: Option<u32>,
}

impl Flags {
    fn options(self) -> Result<Options, String> {
        if self.heartbeat_interval == 0 || self.election_timeout < 3 * self.heartbeat_interval {
            return Err("--election-timeout has to be at least three times --heartbeat-interval".to_owned());
        }
        let members = self.initial_cluster.iter().map(|member| {
            let pair = member.split_once('=').ok_or("--initial-cluster: each member is name=url".to_owned());
            pair.map(|(name, url)| (name.to_owned(), url.to_owned()))
        });
        let initial_cluster = members.collect::<Result<_, String>>()?;
        let client_tls = TlsFiles { ca: self.trusted_ca_file, cert: self.cert_file, key: self.key_file };
        if self.peer_cert_file.is_some() != self.peer_key_file.is_some() {
            return Err("--peer-cert-file and --peer-key-file go together".to_owned());
        }
        let peer_tls = TlsFiles {
            ca: self.peer_trusted_ca_file.unwrap_or_else(|| client_tls.ca.clone()),
            cert: self.peer_cert_file.unwrap_or_else(|| client_tls.cert.clone()),
            key: self.peer_key_file.unwrap_or_else(|| client_tls.key.clone()),
        };
        let told =
            if self.advertise_client_urls.is_empty() { &self.listen_client_urls } else { &self.advertise_client_urls };
        Ok(Options {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(format!("{}.kontiki", self.name))),
            name: self.name,
            advertise_client: told.clone(),
            listen_client: self.listen_client_urls,
            advertise_peer: self.initial_advertise_peer_urls.unwrap_or_else(|| self.listen_peer_urls.clone()),
            listen_peer: self.listen_peer_urls,
            initial_cluster,
            existing: self.initial_cluster_state == "existing",
            client_tls,
            peer_tls,
            peer_names: self.peer_cert_allowed_cn,
            heartbeat: Duration::from_millis(self.heartbeat_interval),
            election: Duration::from_millis(self.election_timeout),
            max_feature_level: self.max_feature_level,
        })
    }
}

/// Runs the process of a stand-alone member until it is told to stop.
///
/// # Errors
/// One line that says what is wrong.
pub fn run(flags: Flags) -> Result<(), String> {
    let options = flags.options()?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| LOG.into());
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    // Half of the cores: the rest is for the disk's thread and the kernel, and fewer threads wake each
    // other less often.
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let stop = CancellationToken::new();
        watch_signals(stop.clone()).map_err(|error| error.to_string())?;
        standalone::run(options, stop).await
    })
}

fn watch_signals(stop: CancellationToken) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
