//! Upstream's built-in admission, a step per file. What a step relies on guards the write.

mod default_toleration_seconds;
mod namespace_lifecycle;
mod priority;
mod runtime_class;
mod service_account;
mod taint_nodes;

use std::sync::Arc;

use kontiki_machinery::admission::{Member, Step};

/// What the steps depend on in a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seconds a pod stays bound to a node that is not ready or unreachable, unless it says so itself.
    pub default_toleration_seconds: i64,
}

/// All steps, in upstream's order.
#[must_use]
pub fn chain(settings: &Settings) -> Vec<Member> {
    let steps: [Arc<dyn Step>; 6] = [
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(priority::Priority),
        Arc::new(service_account::ServiceAccount),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds(settings.default_toleration_seconds)),
        Arc::new(runtime_class::RuntimeClass),
    ];
    steps.map(Member::Pure).into()
}
