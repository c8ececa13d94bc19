//! Keeps Endpoints for Services.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::network::endpoints::{self, View};

use super::endpointslice::Backends;
use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Namespaces;

pub(crate) struct EndpointsController {
    backends: Backends,
    endpoints: Informer<Endpoints>,
    namespaces: Namespaces,
}

impl EndpointsController {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        self.backends.by_pod(change)
    }

    fn by_set(&self, change: &TypedChange<ReplicaSet>) -> Vec<NamespacedName> {
        self.backends.by_set(change)
    }
}

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { backends: Backends::new(api), endpoints: api.cache().get(), namespaces: Namespaces::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.backends.services.all);
        inputs.on_own(&self.endpoints);
        inputs.on(&self.backends.pods.0, Self::by_pod);
        inputs.on(&self.backends.sets, Self::by_set);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let service = self.backends.service(key);
        Some(View {
            pods: service.as_deref().map(|service| self.backends.of(service)).unwrap_or_default(),
            service,
            endpoints: self.endpoints.get(Some(&key.namespace), &key.name),
            namespace_terminating: self.namespaces.terminating(&key.namespace),
        })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        endpoints::plan(view)
    }
}
