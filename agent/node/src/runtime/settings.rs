//! What of the node goes into the configuration of its pods.

use crate::{config::Config, host::identity::Cluster};

/// The node, as far as sandboxes and containers are made by it.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cluster: &'a Cluster,
}
