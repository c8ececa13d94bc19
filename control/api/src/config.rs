//! What an [`Api`](crate::Api) is built from, and the plain types of its in-process client.

use std::collections::BTreeMap;
use std::sync::Arc;

use kontiki_machinery::Registry;
use kontiki_machinery::authentication::{Anonymous, Tokens};
use kontiki_machinery::delegate::Delegates;
use kontiki_machinery::outcall::Caller;
use kontiki_machinery::{access, admission};
use kontiki_model::GroupResource;

use crate::User;
use crate::clock::{Clock, Entropy};
use crate::fairness::Limits;
use crate::node_proxy::NodeProxy;
use crate::outbound::Outbound;
use crate::proxies::Proxies;
use crate::writes::Writes;

/// What the API is assembled from.
pub struct Config {
    /// The kinds that are served.
    pub registry: Registry,
    /// Steps of admission, in order. A place in it is how a request remembers what a step answered.
    pub admission: Vec<admission::Member>,
    /// Who may allow what, in the order in which they are asked, after `system:masters`, who may do everything. See
    /// [`Api::replace_authorizers`](crate::Api::replace_authorizers).
    pub authorizers: Vec<access::Member>,
    /// Who knows tokens that are none of a ServiceAccount's, in the order in which they are asked.
    pub tokens: Vec<Arc<dyn Tokens>>,
    /// Whether, and where, those are let in who show nothing.
    pub anonymous: Anonymous,
    /// Tells the time of all that is stored and answered.
    pub clock: Arc<dyn Clock>,
    /// Gives uids, names and all else that is random.
    pub entropy: Arc<dyn Entropy>,
    /// Version of this project, e.g. `0.1.0`; part of `/version`.
    pub version: String,
    /// Private key (EC or RSA, PEM) that signs ServiceAccount tokens.
    pub service_account_key_pem: String,
    /// Issuer of ServiceAccount tokens.
    pub issuer: String,
    /// The user of the certificate whose requests name whom they are for in `X-Remote-*` headers: its name, and the group
    /// that it must be in.
    pub front_proxy: Option<User>,
    /// Proxies under an authority of their own, which name whom they ask for in headers.
    pub proxies: Option<Proxies>,
    /// The way to the nodes, for logs, exec, attach and port-forward.
    pub node_proxy: Arc<dyn NodeProxy>,
    /// Calls servers that convert objects; without it a kind that needs one is served as it is stored alone.
    pub caller: Option<Arc<dyn Caller>>,
    /// Groups that other servers serve, and the way to these.
    pub aggregation: Option<Aggregation>,
    /// How much is done at once.
    pub limits: Limits,
    /// Where committed writes are counted.
    pub writes: Writes,
    /// What `/flagz` shows: how the server is configured, without secrets.
    pub flags: BTreeMap<String, String>,
    /// Routes outside the Kubernetes API, reached after authentication by `system:masters` only.
    pub extra_routes: axum::Router,
}

/// Groups that other servers serve.
pub struct Aggregation {
    /// Who serves what.
    pub delegates: Arc<dyn Delegates>,
    /// The way there.
    pub outbound: Arc<Outbound>,
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
