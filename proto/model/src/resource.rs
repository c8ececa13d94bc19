//! Names of kinds and resources, as Kubernetes spells them.

use std::fmt;

/// `(group, plural)`: what a stored object is filed under, whatever version a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupResource<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural resource name, e.g. `pods`.
    pub resource: &'a str,
}

/// Resources that the machinery of a cluster itself is about: accounts and what tokens are bound to, namespaces, events.
pub const EVENTS: GroupResource<'static> = GroupResource { group: "", resource: "events" };
/// See [`EVENTS`].
pub const NAMESPACES: GroupResource<'static> = GroupResource { group: "", resource: "namespaces" };
/// See [`EVENTS`].
pub const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };
/// See [`EVENTS`].
pub const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
/// See [`EVENTS`].
pub const SECRETS: GroupResource<'static> = GroupResource { group: "", resource: "secrets" };
/// See [`EVENTS`].
pub const SERVICE_ACCOUNTS: GroupResource<'static> = GroupResource { group: "", resource: "serviceaccounts" };

impl fmt::Display for GroupResource<'_> {
    /// As upstream prints it in errors: `pods`, `deployments.apps`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

/// `(group, version, plural)`: how a request names a resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupVersionResource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, e.g. `v1`.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
}

/// `(group, version, kind)`: how an object names its type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind, e.g. `Pod`.
    pub kind: String,
}

impl GroupVersionKind {
    /// Splits an object's `apiVersion` (`v1`, `apps/v1`) and joins its `kind`.
    #[must_use]
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// The object's `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}
