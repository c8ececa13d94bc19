//! Authorizers that know kinds.

mod node;

use std::sync::Arc;

use kontiki_machinery::access::Authorizer;

/// All of them, in the order in which they are asked.
#[must_use]
pub fn chain() -> Vec<Arc<dyn Authorizer>> {
    vec![Arc::new(node::Node)]
}
