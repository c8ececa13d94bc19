//! Publishes the cluster's CA in every namespace.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::lifecycle::root_ca::{self, NAME};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::Namespaces;

pub(crate) struct RootCaPublisher {
    namespaces: Namespaces,
    config_maps: Informer<ConfigMap>,
}

/// A namespace, what it has, and what it should have.
pub(crate) struct View {
    namespace: Arc<Namespace>,
    present: Option<Arc<ConfigMap>>,
    ca_pem: String,
}

impl RootCaPublisher {
    fn published(&self, change: &TypedChange<ConfigMap>) -> Option<Name> {
        change.key.namespace.as_deref().filter(|_| change.key.name == NAME).map(Name::from)
    }
}

impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-publisher";
    const WORKERS: usize = 4;
    type Key = Name;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { namespaces: Namespaces::new(api), config_maps: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.namespaces.0);
        inputs.on(&self.config_maps, Self::published);
    }

    fn view(&self, key: &Name, context: &Context<'_, NoFailure>) -> Option<View> {
        Some(View {
            namespace: self.namespaces.get(key.as_str())?,
            present: self.config_maps.get(Some(key.as_str()), NAME),
            ca_pem: context.settings.ca_pem.clone(),
        })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        root_ca::plan(&view.namespace, view.present.as_deref(), &view.ca_pem)
    }
}
