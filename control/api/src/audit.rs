//! What is recorded of requests, and where records go.

use std::sync::Arc;

use kontiki_machinery::audit::Policy;
use serde_json::Value;

/// Where records go.
pub trait Sink: Send + Sync {
    /// Takes a record (`audit.k8s.io/v1` Event). Called from requests: it must not wait.
    fn record(&self, event: &Value);
}

/// What is recorded, and where.
pub(crate) struct Auditor {
    pub policy: Policy,
    pub sink: Arc<dyn Sink>,
}
