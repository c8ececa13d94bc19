//! What is remembered of resources that change while a pod runs. What is made of it is `resize`'s.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

/// What the worker remembers of resources that can change.
#[derive(Clone, Debug, Default)]
pub struct Resizing {
    /// What each container may have, by name.
    pub granted: BTreeMap<String, ResourceRequirements>,
    /// What the runtime was told, by container id.
    pub applied: BTreeMap<String, ResourceRequirements>,
    /// What is asked for and not granted.
    pub pending: Option<Pending>,
    /// Why the runtime did not do as it was told, and when it is told again.
    pub failed: Option<(String, Timestamp)>,
}

/// A change that is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// It can never be on this node; else it may later.
    pub infeasible: bool,
    pub message: String,
    /// When it is looked at again.
    pub retry: Timestamp,
}
