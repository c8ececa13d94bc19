//! The address of an object, and its one encoding as a key of the store.
//!
//! Shape: `/registry/<group or core>/<resource>/[<namespace>/]<name>`, UTF-8. Names and namespaces
//! cannot hold a slash (the API validates them first), so the encoding is unambiguous, sorts by
//! namespace and then by name, and every collection is one contiguous prefix.

use std::fmt;

use bytes::Bytes;

use crate::GroupResource;

const ROOT: &str = "/registry/";
const CORE: &str = "core";

/// The address of one object of any kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace; `None` for a cluster-scoped object.
    pub namespace: Option<String>,
    /// Object name.
    pub name: String,
}

impl ObjectKey {
    /// The address of `name`, in `namespace` unless the resource is cluster-scoped.
    #[must_use]
    pub fn new(resource: GroupResource<'_>, namespace: Option<&str>, name: &str) -> Self {
        Self {
            group: resource.group.to_owned(),
            resource: resource.resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// The group and resource of this key.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.resource }
    }

    /// The key's bytes in the store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = prefix(self.group_resource(), self.namespace.as_deref());
        out.push_str(&self.name);
        Bytes::from(out)
    }

    /// Reads a key back. `None` if the bytes are not an object's key.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(bytes).ok()?.strip_prefix(ROOT)?;
        let mut parts = rest.split('/');
        let (group, resource, third) = (parts.next()?, parts.next()?, parts.next()?);
        let (namespace, name) = match parts.next() {
            Some(name) => (Some(third.to_owned()), name),
            None => (None, third),
        };
        if parts.next().is_some() || resource.is_empty() || name.is_empty() {
            return None;
        }
        let group = if group == CORE { "" } else { group };
        Some(Self { group: group.to_owned(), resource: resource.to_owned(), namespace, name: name.to_owned() })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.group_resource(), self.name),
            None => write!(f, "{} {}", self.group_resource(), self.name),
        }
    }
}

/// The prefix of all keys of a resource, or of those in one namespace. Ends with a slash.
#[must_use]
pub fn prefix(resource: GroupResource<'_>, namespace: Option<&str>) -> String {
    let group = if resource.group.is_empty() { CORE } else { resource.group };
    match namespace {
        Some(namespace) => format!("{ROOT}{group}/{}/{namespace}/", resource.resource),
        None => format!("{ROOT}{group}/{}/", resource.resource),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_reads_back(group in "([a-z]{1,8}\\.[a-z]{2,4})?", resource in "[a-z]{1,12}",
                                namespace in proptest::option::of("[a-z0-9-]{1,12}"), name in "[a-z0-9.:-]{1,20}") {
            let key = ObjectKey::new(GroupResource { group: &group, resource: &resource }, namespace.as_deref(), &name);
            prop_assert_eq!(ObjectKey::decode(&key.encode()), Some(key));
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = ObjectKey::decode(&bytes);
        }
    }

    #[test]
    fn foreign_keys_are_refused() {
        for bytes in ["", "/registry/", "/registry/core/pods", "/other/core/pods/a/b", "/registry/core/pods/a/b/c"] {
            assert_eq!(ObjectKey::decode(bytes.as_bytes()), None, "{bytes}");
        }
    }
}
