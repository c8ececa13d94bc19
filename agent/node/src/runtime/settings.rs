//! What of the node goes into the configuration of its pods.

use std::net::IpAddr;

use crate::{config::Config, host::identity::Cluster};

/// The node, as far as sandboxes and containers are made by it.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cluster: &'a Cluster,
}

impl Settings<'_> {
    /// The name server of pods.
    pub(crate) fn name_server(&self) -> Option<IpAddr> {
        let default = || kontiki_net::dns::default_address(self.cluster.service_cidr.parse().ok()?);
        self.config.cluster_dns.or_else(default)
    }
}
