//! Keeps what ResourceQuotas say of themselves right.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kontiki_api::Api;
use kontiki_cache::{Informer, Part, PartialObjectMetadata, TypedChange};
use kontiki_model::GroupResource;
use kontiki_model::quota::{self, CLAIMS, SERVICES};
use kontiki_model::resource::PODS;
use kontiki_model::typed;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::lifecycle::resource_quota::{self, View, WEIGHED};
use serde::Deserialize;
use serde_json::Value;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Objects;

/// All of an object of one kind, without a type.
macro_rules! whole {
    ($name:ident, $resource:ident) => {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct $name(Value);

        impl typed::Part for $name {
            const RESOURCE: GroupResource<'static> = $resource;
        }
    };
}

whole!(AnyPod, PODS);
whole!(AnyService, SERVICES);
whole!(AnyClaim, CLAIMS);

pub(crate) struct ResourceQuotaController {
    quotas: Informer<ResourceQuota>,
    pods: Informer<Part<AnyPod>>,
    services: Informer<Part<AnyService>>,
    claims: Informer<Part<AnyClaim>>,
    objects: Objects,
}

impl ResourceQuotaController {
    fn by_object(&self, change: &TypedChange<PartialObjectMetadata>) -> Vec<NamespacedName> {
        let Some(namespace) = &change.key.namespace else { return Vec::new() };
        let resource = change.key.group_resource();
        let comes_or_goes = change.old.is_none() || change.new.is_none();
        if !comes_or_goes && !WEIGHED.contains(&resource) {
            return Vec::new();
        }
        let quotas = self.quotas.by_namespace(namespace);
        let concerned = quotas.iter().filter(|quota| resource_quota::concerns(quota, resource, comes_or_goes));
        concerned.map(|quota| NamespacedName::of(&quota.metadata)).collect()
    }

    fn weighed(&self, namespace: &str, resource: GroupResource<'static>) -> Vec<(GroupResource<'static>, Value)> {
        let objects: Vec<Value> = match resource {
            PODS => self.pods.by_namespace(namespace).iter().map(|pod| pod.0.0.clone()).collect(),
            SERVICES => self.services.by_namespace(namespace).iter().map(|service| service.0.0.clone()).collect(),
            _ => self.claims.by_namespace(namespace).iter().map(|claim| claim.0.0.clone()).collect(),
        };
        objects.into_iter().map(|object| (resource, object)).collect()
    }
}

impl Controller for ResourceQuotaController {
    const NAME: &'static str = "resourcequota";
    const WORKERS: usize = 5;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self {
            quotas: api.cache().get(),
            pods: api.cache().get(),
            services: api.cache().get(),
            claims: api.cache().get(),
            objects: Objects::new(api),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.quotas);
        inputs.on(&self.objects.0, Self::by_object);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        // The quota first: what was charged to it is then seen below, or the view says that it is not.
        let quota = self.quotas.get(Some(&key.namespace), &key.name)?;
        let version = quota.metadata.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
        let complete = version.is_some_and(|version| self.quotas.revision().0 >= version);
        let names = resource_quota::named(&quota);
        let wanted = |resource: GroupResource<'_>| names.iter().any(|name| quota::counts(resource, name));
        let weighed = WEIGHED.into_iter().filter(|resource| wanted(*resource));
        let weighed = weighed.flat_map(|resource| self.weighed(&key.namespace, resource)).collect();
        let mut numbers = std::collections::BTreeMap::new();
        if names.iter().any(|name| !WEIGHED.iter().any(|resource| quota::counts(*resource, name))) {
            for object in self.objects.within(&key.namespace) {
                let resource = object.key.group_resource();
                if !WEIGHED.contains(&resource) {
                    *numbers.entry(quota::count_name(resource)).or_default() += 1;
                }
            }
        }
        Some(View { quota: (*quota).clone(), weighed, numbers, complete })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        resource_quota::plan(view, now)
    }
}
