//! Upstream's built-in admission, a step per file. What a step relies on guards the write.

mod always_pull_images;
mod certificates;
mod claim_resize;
mod custom_kinds;
mod default_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod device_admin;
pub mod event_rate_limit;
mod extended_resource_toleration;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod owner_references;
pub mod pod_security;
mod pod_topology_labels;
mod priority;
mod privilege_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

use std::sync::Arc;

use kontiki_machinery::admission::{Member, Step};

pub use owner_references::OwnerReferencesPermissionEnforcement;

/// What the steps depend on in a cluster. Steps that are not on by default are off in upstream as well.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seconds a pod stays bound to a node that is not ready or unreachable, unless it says so itself.
    pub default_toleration_seconds: i64,
    /// What namespaces that say nothing are held to, and who is not.
    pub pod_security: pod_security::Settings,
    /// Every image is pulled anew, so that credentials are checked each time.
    pub always_pull_images: bool,
    /// Services may have no new external addresses.
    pub deny_service_external_ips: bool,
    /// Pods tolerate nodes that are tainted for the extended resources which they ask for.
    pub extended_resource_toleration: bool,
    /// Who blocks an owner's deletion may set its finalizers.
    pub owner_references: bool,
    /// How many events are taken; empty: all.
    pub event_rate_limits: Vec<event_rate_limit::Limit>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_toleration_seconds: 300,
            pod_security: pod_security::Settings::default(),
            always_pull_images: false,
            deny_service_external_ips: false,
            extended_resource_toleration: false,
            owner_references: false,
            event_rate_limits: Vec::new(),
        }
    }
}

/// All steps, in upstream's order.
#[must_use]
pub fn chain(settings: &Settings) -> Vec<Member> {
    let limits = &settings.event_rate_limits;
    let steps: [Option<Arc<dyn Step>>; 26] = [
        Some(Arc::new(namespace_lifecycle::NamespaceLifecycle)),
        Some(Arc::new(custom_kinds::CustomKinds)),
        Some(Arc::new(limit_ranger::LimitRanger)),
        Some(Arc::new(service_account::ServiceAccount)),
        Some(Arc::new(node_restriction::NodeRestriction)),
        Some(Arc::new(taint_nodes::TaintNodesByCondition)),
        settings.always_pull_images.then(|| Arc::new(always_pull_images::AlwaysPullImages) as _),
        Some(Arc::new(pod_security::PodSecurity(settings.pod_security.clone()))),
        Some(Arc::new(priority::Priority)),
        Some(Arc::new(default_toleration_seconds::DefaultTolerationSeconds(settings.default_toleration_seconds))),
        (!limits.is_empty()).then(|| Arc::new(event_rate_limit::EventRateLimit::new(limits)) as _),
        settings
            .extended_resource_toleration
            .then(|| Arc::new(extended_resource_toleration::ExtendedResourceToleration) as _),
        Some(Arc::new(default_class::DefaultStorageClass)),
        Some(Arc::new(storage_protection::StorageObjectInUseProtection)),
        settings.owner_references.then(|| Arc::new(OwnerReferencesPermissionEnforcement) as _),
        Some(Arc::new(claim_resize::PersistentVolumeClaimResize)),
        Some(Arc::new(runtime_class::RuntimeClass)),
        Some(Arc::new(certificates::CertificateApproval)),
        Some(Arc::new(certificates::CertificateSigning)),
        Some(Arc::new(certificates::CertificateSubjectRestriction)),
        Some(Arc::new(default_class::DefaultIngressClass)),
        Some(Arc::new(privilege_escalation::PrivilegeEscalation)),
        Some(Arc::new(pod_topology_labels::PodTopologyLabels)),
        settings.deny_service_external_ips.then(|| Arc::new(deny_service_external_ips::DenyServiceExternalIps) as _),
        Some(Arc::new(device_admin::DeviceAdminAccess)),
        Some(Arc::new(resource_quota::ResourceQuota)),
    ];
    steps.into_iter().flatten().map(Member::Pure).collect()
}
