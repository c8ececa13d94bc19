//! Authorizers that know kinds.

mod node;

use std::sync::Arc;

use kontiki_machinery::access::Member;

/// All of them, in the order in which they are asked.
#[must_use]
pub fn chain() -> Vec<Member> {
    vec![Member::Pure(Arc::new(node::Node))]
}
