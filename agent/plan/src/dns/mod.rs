//! What the cluster's own names stand for (DNS specification 1.1.0 of Kubernetes, as CoreDNS answers it).
//!
//! Invariants
//! - A name is compared without regard to case, whole label by whole label; a name of any length costs a few look-ups.
//! - Whether a name exists does not depend on the type that is asked for: one that exists answers other types with no
//!   records.
//! - Agents are not told of namespaces: one exists here if a Service does in it, and any may hold a pod.
//!
//! Not here: packets, sockets, other names (see kontiki-net).

mod facts;
#[cfg(test)]
mod tests;
mod zone;

use std::net::IpAddr;

pub use zone::Zone;

/// Seconds that an answer may be kept, what kubeadm gives CoreDNS.
pub const TTL: u32 = 30;
/// What the specification calls its version.
pub const VERSION: &str = "1.1.0";

/// Types of records that cluster names have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    A,
    Aaaa,
    Cname,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
    /// Another: a name that exists has none.
    Other,
}

/// One record's data. Names end without a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Data {
    Address(IpAddr),
    Cname(String),
    Ns(String),
    Ptr(String),
    /// The zone's own.
    Soa,
    Srv {
        weight: u16,
        port: u16,
        target: String,
        /// Where the target is, for the additional section.
        address: IpAddr,
    },
    Txt(String),
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is none of the cluster's: ask others.
    Foreign,
    /// The cluster has no such name.
    NoName,
    /// The name exists and has these records of the type, perhaps none.
    Records(Vec<Data>),
    /// It stands for a name elsewhere, whose records of the type are wanted as well.
    Alias(String),
}
