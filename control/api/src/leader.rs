//! What the leader's work (controllers, scheduler) is started with. Here so that both crates and
//! the server that starts them share one type.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kontiki_model::Term;
use tokio_util::sync::CancellationToken;

use crate::{Api, Client};

/// One term of leadership.
#[derive(Clone)]
pub struct LeaderContext {
    /// The API of this master: store, cache.
    pub api: Api,
    /// Fenced by `term`; user `system:kontiki-leader` in `system:masters`.
    pub client: Client,
    /// The term that all writes carry.
    pub term: Term,
    /// Cancelled when leadership ends.
    pub stop: CancellationToken,
    /// Cluster settings.
    pub settings: Arc<Settings>,
    /// The cluster's CA.
    pub signer: Arc<dyn Signer>,
}

/// Signs certificates with the key of the cluster's CA.
pub trait Signer: Send + Sync {
    /// The certificate for a request (RFC 2986, PEM) that others have checked, as PEM: with its subject and alternative
    /// names, for `usages` (named as a CertificateSigningRequest does) and no longer than `life`.
    ///
    /// # Errors
    /// Why it is not signed.
    fn sign(&self, request_pem: &str, usages: &[String], life: Duration) -> Result<String, String>;
}

/// Settings of the leader's work.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Range of pod addresses of the whole cluster.
    pub pod_cidr: IpNet,
    /// Prefix length of one node's share of it.
    pub node_cidr_bits: u8,
    /// The address of the API that moves with the leader.
    pub virtual_address: Option<IpAddr>,
    /// Silence after which a node counts as lost.
    pub node_grace: Duration,
    /// The cluster CA, published as `kube-root-ca.crt`.
    pub ca_pem: String,
    /// Cluster DNS domain.
    pub cluster_domain: String,
    /// Age at which Events expire.
    pub event_ttl: Duration,
    /// Whether the cluster gives load balancers their addresses.
    pub load_balancers: bool,
    /// Whether nodes serve Ingresses.
    pub ingresses: bool,
}
