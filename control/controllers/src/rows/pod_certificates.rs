//! PodCertificateRequests that nobody needs any more go.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kontiki_api::Api;
use kontiki_cache::Informer;
use kontiki_plan::Plan;
use kontiki_plan::certificates::clean_pods;
use kontiki_plan::key::NamespacedName;

use crate::controller::{Context, Controller, Inputs, NoFailure};

pub(crate) struct PodCertificateCleaner {
    requests: Informer<PodCertificateRequest>,
}

impl Controller for PodCertificateCleaner {
    const NAME: &'static str = "podcertificaterequest-cleaner";
    const WORKERS: usize = 2;
    type Key = NamespacedName;
    type View = Arc<PodCertificateRequest>;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { requests: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.requests);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        self.requests.get(Some(&key.namespace), &key.name)
    }

    fn plan(view: &Self::View, now: Timestamp) -> Plan {
        clean_pods::plan(view, now)
    }
}
