//! Keeps EndpointSlices for Services.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::network::endpointslice::{self, SERVICE_NAME, View};
use kontiki_plan::network::{concerned, serving};
use kontiki_plan::object::{label, namespace};
use kontiki_plan::selection::Selects as _;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Namespaces, PodsByNode, Selectors};

/// Slices by the Service that they name.
const BY_SERVICE: &str = "service";

/// Services, the pods that they select, and whose they are.
pub(crate) struct Backends {
    pub services: Selectors<Service>,
    pub pods: PodsByNode,
    pub sets: Informer<ReplicaSet>,
}

impl Backends {
    pub fn new(api: &Api) -> Self {
        Self { services: Selectors::new(api), pods: PodsByNode::new(api), sets: api.cache().get() }
    }

    pub fn service(&self, key: &NamespacedName) -> Option<Arc<Service>> {
        self.services.all.get(Some(&key.namespace), &key.name)
    }

    /// Those that take the traffic of a Service.
    pub fn of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let Some(selector) = service.selector() else { return Vec::new() };
        let mut pods = self.pods.0.by_namespace(namespace(&service.metadata));
        pods.retain(|pod| selector.matches_with(|key| label(&pod.metadata, key)));
        serving::serving(pods, |key| self.sets.get(Some(&key.namespace), &key.name))
    }

    pub fn by_set(&self, change: &TypedChange<ReplicaSet>) -> Vec<NamespacedName> {
        let selecting = |pod: &ObjectMeta| self.services.candidates(pod);
        serving::by_set(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    pub fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        concerned::by_pod(change.old.as_deref(), change.new.as_deref(), |pod| self.selecting(pod))
    }

    fn selecting(&self, pod: &Pod) -> Vec<Arc<Service>> {
        self.services.candidates(&pod.metadata)
    }
}

/// EndpointSlices, by the Service that they name.
pub(crate) struct Slices(pub Informer<EndpointSlice>);

impl Slices {
    pub fn new(api: &Api) -> Self {
        let slices: Informer<EndpointSlice> = api.cache().get();
        slices.add_index(BY_SERVICE, |slice: &EndpointSlice| {
            Self::service(slice).map(|service| service.to_string()).into_iter().collect()
        });
        Self(slices)
    }

    fn service(slice: &EndpointSlice) -> Option<NamespacedName> {
        Some(NamespacedName::new(namespace(&slice.metadata), label(&slice.metadata, SERVICE_NAME)?))
    }

    pub fn of(&self, service: &NamespacedName) -> Vec<Arc<EndpointSlice>> {
        self.0.by_index(BY_SERVICE, &service.to_string())
    }

    /// The Services that a slice's change concerns.
    pub fn concerned(change: &TypedChange<EndpointSlice>) -> Vec<NamespacedName> {
        change.both().filter_map(|slice| Self::service(slice)).collect()
    }
}

pub(crate) struct EndpointSliceController {
    backends: Backends,
    slices: Slices,
    nodes: Informer<Node>,
    namespaces: Namespaces,
}

impl EndpointSliceController {
    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<NamespacedName> {
        self.backends.by_pod(change)
    }

    fn by_set(&self, change: &TypedChange<ReplicaSet>) -> Vec<NamespacedName> {
        self.backends.by_set(change)
    }

    fn by_slice(&self, change: &TypedChange<EndpointSlice>) -> Vec<NamespacedName> {
        Slices::concerned(change)
    }

    fn by_node(&self, change: &TypedChange<Node>) -> Vec<NamespacedName> {
        let pods = || self.backends.pods.on(&change.key.name);
        let selecting = |pod: &Pod| self.backends.selecting(pod);
        concerned::by_node(change.old.as_deref(), change.new.as_deref(), pods, selecting)
    }
}

impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice";
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let (backends, nodes, namespaces) = (Backends::new(api), api.cache().get(), Namespaces::new(api));
        Self { backends, slices: Slices::new(api), nodes, namespaces }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.backends.services.all);
        inputs.on(&self.slices.0, Self::by_slice);
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.backends.pods.0, Self::by_pod);
        inputs.on(&self.backends.sets, Self::by_set);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let service = self.backends.service(key)?;
        let pods = self.backends.of(&service);
        Some(View {
            zones: endpointslice::zones(&pods, |name| self.nodes.get(None, name)),
            service,
            pods,
            slices: self.slices.of(key),
            namespace_terminating: self.namespaces.terminating(&key.namespace),
        })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        endpointslice::plan(view)
    }
}
