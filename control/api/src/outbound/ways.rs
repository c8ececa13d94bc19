//! How a master reaches those who serve: which they are, and connections to them.

use std::net::IpAddr;
use std::sync::Arc;

use kontiki_machinery::outcall::{Endpoint, NoEndpoint, Resolver};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock::{self, Entropy};
use crate::dial::{Connection, Destination, dial};
use crate::node_proxy::NodeProxy;
use crate::objects::Seen;
use crate::outbound::tls;

/// Those who serve that are tried before a call fails.
const TRIES: usize = 3;

/// The ways out of this master.
pub(crate) struct Ways {
    pub store: kontiki_cache::Backend,
    pub nodes: Arc<dyn NodeProxy>,
    pub resolver: Arc<dyn Resolver>,
    pub entropy: Arc<dyn Entropy>,
}

impl Ways {
    /// Where a service is served; whom is tried first is up to chance.
    pub fn to_service(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<Destination>, NoEndpoint> {
        let mut backends = self.resolver.endpoints(&Seen(self.store.snapshot()), namespace, name, port)?;
        let first = usize::try_from(self.entropy.draw() % backends.len().max(1) as u64).unwrap_or_default();
        backends.rotate_left(first);
        let destination = |Endpoint { node, address, port }| Destination { node, address, port };
        Ok(backends.into_iter().map(destination).collect())
    }

    /// A connection to the first that takes one.
    pub async fn dial(&self, destinations: &[Destination]) -> Result<Connection, String> {
        let mut failed = String::from("there is nowhere to connect to");
        for to in destinations.iter().take(TRIES) {
            match dial(&*self.nodes, to).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error.message,
            }
        }
        Err(failed)
    }

    /// A uid that nobody else has.
    pub fn uid(&self) -> String {
        clock::uid(self.entropy.draw(), self.entropy.draw())
    }
}

/// Where a host that is no part of the cluster is.
pub(crate) async fn looked_up(host: &str, port: u16) -> Result<Vec<Destination>, String> {
    let to = |address: IpAddr| Destination { node: None, address, port };
    if let Ok(address) = host.parse() {
        return Ok(vec![to(address)]);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<Destination> = found.into_iter().flatten().map(|address| to(address.ip())).collect();
    if found.is_empty() { Err(format!("dial tcp: lookup {host}: no such host")) } else { Ok(found) }
}

/// TLS over `stream` to whoever can show that it is `host`.
pub(crate) async fn handshake(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: Connection,
) -> Result<TlsStream<Connection>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a server"))?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| tls::reason(&error))
}
