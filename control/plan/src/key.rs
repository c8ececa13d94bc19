//! What controllers are asked about: the keys of their queues.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::ObjectKey;

use crate::object;

/// An object of a namespaced kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl NamespacedName {
    /// From its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The name of an object.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(object::namespace(meta), object::name(meta))
    }
}

impl From<&ObjectKey> for NamespacedName {
    fn from(key: &ObjectKey) -> Self {
        Self::new(key.namespace.as_deref().unwrap_or_default(), &key.name)
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that is of one sort only.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(
    /// The name of an object outside of namespaces: a node, a namespace.
    Name
);
text!(
    /// One incarnation of an object.
    Uid
);

impl From<&ObjectKey> for Name {
    fn from(key: &ObjectKey) -> Self {
        Self::from(key.name.as_str())
    }
}
