//! The leaf crate: names, keys, revisions, selectors and quantities shared by masters and agents.
//!
//! Invariants
//! - Nothing here does I/O, reads a clock or knows a transport.
//! - [`key::ObjectKey`] is the only road between an object's name and its bytes in the store.

pub mod address;
pub mod amount;
pub mod cron;
pub mod edition;
pub mod indexes;
pub mod ingress;
pub mod key;
pub mod metrics;
pub mod pace;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod requests;
pub mod resource;
pub mod revision;
pub mod rollout;
pub mod rule;
pub mod selector;
pub mod typed;

pub use k8s_openapi;
pub use key::ObjectKey;
pub use quantity::Quantity;
pub use resource::{GroupResource, GroupVersionKind, GroupVersionResource};
pub use revision::{Revision, Term};
pub use rule::Rule;
