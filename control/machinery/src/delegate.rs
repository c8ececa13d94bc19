//! Groups and versions that other servers serve: what is known of them, for whoever passes requests on.

use std::sync::Arc;

use kontiki_model::ObjectKey;

use crate::{GroupResource, outcall::Target};

/// A version of a group that another server serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegate {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The server: a service of the cluster.
    pub target: Target,
    /// Whether its certificate may be anybody's.
    pub insecure: bool,
    /// Whether it is known to answer.
    pub available: bool,
    /// Where its group stands in lists: the highest first.
    pub group_priority: i64,
    /// Where its version stands in its group: the highest first.
    pub version_priority: i64,
}

/// Who serves what.
pub trait Delegates: Send + Sync {
    /// The resources whose objects say so. Whoever uses this tells of each that is there, then of each change
    /// ([`Self::changed`]), in order.
    fn follows(&self) -> &'static [GroupResource<'static>];

    /// An object is so now, as it is stored; `None`: it is gone.
    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>);

    /// The server of a version of a group, if it is another.
    fn find(&self, group: &str, version: &str) -> Option<Arc<Delegate>>;

    /// All of them: groups by priority, then by name; within a group versions by priority, then by name.
    fn all(&self) -> Arc<[Arc<Delegate>]>;
}
