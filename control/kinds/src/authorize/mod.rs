//! Authorizers that know kinds.

pub(crate) mod node;
mod rbac;
mod rules;

use std::sync::Arc;

use kontiki_machinery::access::Member;

pub use rbac::Rbac;
pub(crate) use rules::{describe, quoted};

/// All of them, in the order in which they are asked.
#[must_use]
pub fn chain() -> Vec<Member> {
    vec![Member::Pure(Arc::new(node::Node)), Member::Pure(Arc::new(Rbac::default()))]
}
