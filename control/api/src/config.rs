//! What an [`Api`](crate::Api) is built from, and the plain types of its in-process client.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use kontiki_model::GroupResource;

use crate::node_proxy::NodeProxy;
use crate::writes::Writes;

/// Cluster-wide settings of the API.
pub struct Config {
    /// Name of this server.
    pub server_name: String,
    /// Cluster DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// Range of pod addresses of the whole cluster.
    pub pod_cidr: IpNet,
    /// Range that ClusterIPs are taken from. Its first address is the API's own Service.
    pub service_cidr: IpNet,
    /// Range that node ports are taken from.
    pub node_ports: RangeInclusive<u16>,
    /// Version of this project, e.g. `0.1.0`; part of `/version`.
    pub version: String,
    /// The cluster CA, which client certificates must chain to.
    pub ca_pem: String,
    /// Private key (EC or RSA, PEM) that signs ServiceAccount tokens.
    pub service_account_key_pem: String,
    /// Issuer of ServiceAccount tokens.
    pub issuer: String,
    /// Seconds a pod stays bound to a node that is not ready or unreachable, unless it says so itself.
    pub default_toleration_seconds: i64,
    /// The way to the nodes, for logs, exec, attach and port-forward.
    pub node_proxy: Arc<dyn NodeProxy>,
    /// Where committed writes are counted.
    pub writes: Writes,
    /// Routes outside the Kubernetes API, reached after authentication by `system:masters` only.
    pub extra_routes: axum::Router,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, where the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Whatever else the authenticator found.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of `groups`, without id and extras.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() }
    }

    /// Whether the user is a member of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The address of one object, or of one of its subresources.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Group and plural of the resource.
    pub resource: GroupResource<'a>,
    /// Namespace, unless the resource is cluster-scoped.
    pub namespace: Option<&'a str>,
    /// Object name.
    pub name: &'a str,
    /// `status`, `scale`, `binding`, …
    pub subresource: Option<&'a str>,
}

/// The patch languages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, guided by merge keys.
    Strategic,
}

/// What happens to the objects that name a deleted one as their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are collected after it.
    Background,
    /// It stays until they are gone.
    Foreground,
    /// They lose the owner and stay.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a pod gets to end; 0 removes the object at once.
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Delete only this incarnation.
    pub precondition_uid: Option<String>,
    /// Delete only this version.
    pub precondition_resource_version: Option<String>,
}
