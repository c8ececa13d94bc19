//! The table of controllers, each in a file of its own.

mod bootstrap_token;
mod deployment;
mod endpoints;
mod endpointslice;
mod gc;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod podgc;
mod replicas;
mod root_ca;
mod service_account;
mod taint_eviction;

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
    Row::of::<service_account::ServiceAccountController>(),
    Row::of::<root_ca::RootCaPublisher>(),
    Row::of::<bootstrap_token::TokenCleaner>(),
    Row::of::<deployment::DeploymentController>(),
    Row::of::<replicas::ReplicaSetController>(),
    Row::of::<replicas::ReplicationControllerManager>(),
    Row::of::<endpointslice::EndpointSliceController>(),
    Row::of::<endpoints::EndpointsController>(),
    Row::of::<node_ipam::NodeIpam>(),
    Row::of::<node_lifecycle::NodeLifecycle>(),
    Row::of::<taint_eviction::TaintEviction>(),
    Row::of::<podgc::PodGarbageCollector>(),
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
