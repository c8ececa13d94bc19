//! Raw clients of the etcd API, made from the contract alone.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use kontiki_proto::etcd::{
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::pki::Certs;

const CONNECT: Duration = Duration::from_secs(2);
/// Until an answer starts; a stream may last.
const ANSWER: Duration = Duration::from_secs(30);
/// Ranges of many keys are not what is tested: the answer's size is no limit here.
const MESSAGE: usize = 1 << 30;

/// Every service that is served, over one channel.
#[derive(Clone, Debug)]
pub struct Clients {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
}

impl Clients {
    pub fn new(channel: Channel) -> Self {
        macro_rules! large {
            ($client:ident) => {
                $client::new(channel.clone()).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE)
            };
        }
        Self {
            kv: large!(KvClient),
            watch: large!(WatchClient),
            lease: large!(LeaseClient),
            cluster: large!(ClusterClient),
            maintenance: large!(MaintenanceClient),
        }
    }
}

/// How to reach a member; callers may change the timeouts before they connect.
///
/// # Errors
/// The certificate's files cannot be read.
pub fn endpoint(address: SocketAddr, certs: &Certs) -> Result<Endpoint> {
    let read = |path: &std::path::Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&certs.ca)?))
        .identity(Identity::from_pem(read(&certs.cert)?, read(&certs.key)?));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    Ok(endpoint.connect_timeout(CONNECT).timeout(ANSWER).tcp_nodelay(true))
}

/// A channel that connects when it is first used, and again whenever it breaks.
///
/// # Errors
/// The certificate's files cannot be read.
pub fn connect(address: SocketAddr, certs: &Certs) -> Result<Channel> {
    Ok(endpoint(address, certs)?.connect_lazy())
}
