//! The table of controllers, each in a file of its own.

mod bootstrap_token;
mod certificates;
mod clusterrole_aggregation;
mod cronjob;
mod custom_kinds;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod gc;
mod horizontal_pod_autoscaler;
mod ingress;
mod job;
mod load_balancer;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_certificates;
mod podgc;
mod replicas;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_addresses;
mod statefulset;
mod storage_protection;
mod taint_eviction;
mod ttl_after_finished;
mod type_checking;
mod volume_binder;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kontiki_api::Api;

use crate::controller::Controller;
use crate::drive::{self, Shell};

/// One controller.
pub(crate) struct Row {
    /// For logs and metrics.
    pub name: &'static str,
    /// Fills its caches.
    pub warm: fn(&Api),
    /// Runs it until its term ends.
    pub run: fn(Shell) -> BoxFuture<'static, ()>,
}

impl Row {
    const fn of<C: Controller>() -> Self {
        Self { name: C::NAME, warm: |api| drop(C::new(api)), run: |shell| drive::run::<C>(shell).boxed() }
    }
}

/// All controllers.
pub(crate) static TABLE: &[Row] = &[
    Row::of::<namespace::NamespaceController>(),
    Row::of::<gc::GarbageCollector>(),
    Row::of::<custom_kinds::CustomKinds>(),
    Row::of::<service_account::ServiceAccountController>(),
    Row::of::<root_ca::RootCaPublisher>(),
    Row::of::<bootstrap_token::TokenCleaner>(),
    Row::of::<certificates::Certificates<certificates::Approving>>(),
    Row::of::<certificates::Certificates<certificates::Signing>>(),
    Row::of::<certificates::Certificates<certificates::Cleaning>>(),
    Row::of::<pod_certificates::PodCertificateCleaner>(),
    Row::of::<clusterrole_aggregation::ClusterRoleAggregation>(),
    Row::of::<deployment::DeploymentController>(),
    Row::of::<replicas::ReplicaSetController>(),
    Row::of::<replicas::ReplicationControllerManager>(),
    Row::of::<statefulset::StatefulSetController>(),
    Row::of::<daemonset::DaemonSetController>(),
    Row::of::<job::JobController>(),
    Row::of::<cronjob::CronJobController>(),
    Row::of::<ttl_after_finished::TtlAfterFinished>(),
    Row::of::<horizontal_pod_autoscaler::Autoscalers>(),
    Row::of::<disruption::DisruptionController>(),
    Row::of::<endpointslice::EndpointSliceController>(),
    Row::of::<endpoints::EndpointsController>(),
    Row::of::<endpointslice_mirroring::MirroringController>(),
    Row::of::<service_addresses::ServiceAddresses>(),
    Row::of::<service_addresses::ServiceCidrs>(),
    Row::of::<load_balancer::LoadBalancers>(),
    Row::of::<load_balancer::Announcing>(),
    Row::of::<ingress::Ingresses>(),
    Row::of::<node_ipam::NodeIpam>(),
    Row::of::<node_lifecycle::NodeLifecycle>(),
    Row::of::<taint_eviction::TaintEviction>(),
    Row::of::<podgc::PodGarbageCollector>(),
    Row::of::<resource_quota::ResourceQuotaController>(),
    Row::of::<type_checking::TypeChecks>(),
    Row::of::<volume_binder::VolumeBinder>(),
    Row::of::<ephemeral_volume::EphemeralVolume>(),
    Row::of::<storage_protection::VolumeProtection>(),
    Row::of::<storage_protection::ClaimProtection>(),
    Row::of::<storage_protection::AttributesClassProtection>(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TABLE;

    #[test]
    fn every_controller_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }
}
