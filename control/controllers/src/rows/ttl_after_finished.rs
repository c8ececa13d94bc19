//! Removes Jobs some time after they have ended.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kontiki_api::Api;
use kontiki_cache::Informer;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::lifecycle::ttl_after_finished;

use crate::controller::{Context, Controller, Inputs, NoFailure};

pub(crate) struct TtlAfterFinished {
    jobs: Informer<Job>,
}

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = Arc<Job>;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { jobs: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.jobs);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<Arc<Job>> {
        self.jobs.get(Some(&key.namespace), &key.name)
    }

    fn plan(view: &Arc<Job>, now: Timestamp) -> Plan {
        ttl_after_finished::plan(view, now)
    }
}
