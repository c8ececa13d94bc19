//! Mirrors Endpoints that people keep in EndpointSlices.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::network::mirroring::{self, View};

use super::endpointslice::Slices;
use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Namespaces;

pub(crate) struct MirroringController {
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Slices,
    namespaces: Namespaces,
}

impl MirroringController {
    fn by_slice(&self, change: &TypedChange<EndpointSlice>) -> Vec<NamespacedName> {
        Slices::concerned(change)
    }
}

impl Controller for MirroringController {
    const NAME: &'static str = "endpointslicemirroring";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let (endpoints, services) = (api.cache().get(), api.cache().get());
        Self { endpoints, services, slices: Slices::new(api), namespaces: Namespaces::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.endpoints);
        inputs.on_own(&self.services);
        inputs.on(&self.slices.0, Self::by_slice);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        Some(View {
            endpoints: self.endpoints.get(Some(&key.namespace), &key.name),
            service: self.services.get(Some(&key.namespace), &key.name),
            slices: self.slices.of(key),
            namespace_terminating: self.namespaces.terminating(&key.namespace),
        })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        mirroring::plan(view)
    }
}
