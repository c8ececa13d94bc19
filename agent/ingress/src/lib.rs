//! Ingress: HTTP and HTTPS from outside to the endpoints of Services, on each node for itself.
//!
//! ```text
//! objects ──read──▶ table, certificates ──Proxy::set──▶ Shared
//! client ──serve (gate, TLS, HTTP)──▶ forward ──table──▶ pool ──▶ endpoint
//! ```
//!
//! Invariants
//! - What is not wanted is not there: without a route no port is open.
//! - A request sees one table, from its first look to its last.
//! - Ports that cannot be opened are told of in [`State`], and tried again with the next [`Proxy::set`].
//!
//! Not here: which Ingresses are served (masters send no others), packet rules, statuses.

mod body;
mod certificates;
mod forward;
mod pool;
pub mod read;
pub mod rewrite;
mod serve;
mod socket;
pub mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kontiki_gate::{Gate, Limits};
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    certificates::{Certificates, Known},
    pool::Pool,
    read::SecretName,
    table::{Host, Table},
};

/// How long requests in flight may take after the stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Where the proxy listens, and how much it takes on; fixed while the agent runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The address to listen at; all that the machine has unless given.
    pub address: Option<IpAddr>,
    /// Port of HTTP.
    pub http_port: u16,
    /// Port of HTTPS.
    pub https_port: u16,
    /// How many connections of clients there may be, and how many requests at once.
    pub most: usize,
}

/// What the proxy is to serve.
#[derive(Default)]
pub struct Wanted {
    /// The routes.
    pub table: Table,
    /// Which certificate is for which host.
    pub certificates: Vec<(Host, SecretName)>,
    /// The Secrets that are known.
    pub secrets: HashMap<SecretName, Arc<Secret>>,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is nothing to serve.
    Idle,
    /// What is wanted is served.
    Serving,
    /// It is not, or not all of it; why.
    Failed(String),
}

#[derive(Default)]
struct Current {
    table: Arc<Table>,
    targets: HashSet<SocketAddr>,
}

/// What all connections use.
pub(crate) struct Shared {
    current: RwLock<Current>,
    pool: Pool,
    /// Places of requests.
    requests: Arc<Semaphore>,
    https_port: u16,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.current.read().table)
    }

    fn is_target(&self, target: SocketAddr) -> bool {
        self.current.read().targets.contains(&target)
    }
}

/// An open port.
struct Open {
    stop: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Default)]
struct Ports {
    http: Option<Open>,
    https: Option<Open>,
    known: Known,
}

/// See the crate.
pub struct Proxy {
    config: Config,
    shared: Arc<Shared>,
    certificates: Arc<Certificates>,
    tls: TlsAcceptor,
    gate: Gate,
    ports: Mutex<Ports>,
}

impl Proxy {
    /// A proxy that serves nothing yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(config: Config) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = Arc::new(Certificates::new(Arc::clone(&provider)));
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let resolver: Arc<Certificates> = Arc::clone(&certificates);
        let mut tls = builder.with_no_client_auth().with_cert_resolver(resolver);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let shared = Arc::new(Shared {
            current: RwLock::default(),
            pool: Pool::default(),
            requests: Arc::new(Semaphore::new(config.most)),
            https_port: config.https_port,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        // Whoever balances in front of the nodes is one address.
        let limits = Limits { per_address: config.most.div_ceil(2), total: config.most };
        let (tls, gate) = (TlsAcceptor::from(Arc::new(tls)), Gate::new(limits));
        Ok(Self { config, shared, certificates, tls, gate, ports: Mutex::default() })
    }

    /// From now on exactly this is served. Must be called within a tokio runtime.
    pub fn set(&self, wanted: Wanted) -> State {
        let (idle, secure) = (wanted.table.is_empty(), !wanted.certificates.is_empty());
        let mut ports = self.ports.lock();
        self.certificates.set(wanted.certificates, &wanted.secrets, &mut ports.known);
        let targets: HashSet<SocketAddr> = wanted.table.targets().collect();
        self.shared.pool.keep(&targets);
        *self.shared.current.write() = Current { table: Arc::new(wanted.table), targets };
        if self.shared.stop.is_cancelled() {
            return State::Idle;
        }
        let Config { http_port, https_port, .. } = self.config;
        let http = self.settle(&mut ports.http, !idle, http_port, None);
        let https = self.settle(&mut ports.https, !idle && secure, https_port, Some(&self.tls));
        let failed: Vec<String> = [http, https].into_iter().filter_map(Result::err).collect();
        match (idle, failed.is_empty()) {
            (_, false) => State::Failed(failed.join("; ")),
            (true, true) => State::Idle,
            (false, true) => State::Serving,
        }
    }

    /// Opens a port or closes it.
    fn settle(
        &self,
        open: &mut Option<Open>,
        wanted: bool,
        port: u16,
        tls: Option<&TlsAcceptor>,
    ) -> Result<(), String> {
        if !wanted {
            *open = None;
            return Ok(());
        }
        if open.is_some() {
            return Ok(());
        }
        let listener = socket::listen(self.config.address, port)
            .map_err(|error| format!("port {port} cannot be opened: {error}"))?;
        let stop = self.shared.stop.child_token();
        let (shared, gate, tls) = (Arc::clone(&self.shared), self.gate.clone(), tls.cloned());
        self.shared.tasks.spawn(serve::accept(shared, gate, listener, tls, stop.clone()));
        *open = Some(Open { stop });
        tracing::info!(port, "serving Ingresses");
        Ok(())
    }

    /// Lets requests in flight finish until `stop`, and some moments longer.
    pub async fn run(&self, stop: CancellationToken) {
        stop.cancelled().await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(DRAIN, self.shared.tasks.wait()).await.is_err() {
            tracing::info!("some requests of Ingresses were cut off at the stop");
        }
    }
}
