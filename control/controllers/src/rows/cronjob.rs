//! Makes Jobs when their time has come.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::uid;
use kontiki_plan::workloads::cronjob::{self, View};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces};

pub(crate) struct CronJobController {
    crons: Informer<CronJob>,
    jobs: Managed<Job>,
    namespaces: Namespaces,
}

impl CronJobController {
    fn by_job(&self, change: &TypedChange<Job>) -> BTreeSet<NamespacedName> {
        cronjob::concerned(change.old.as_deref(), change.new.as_deref())
    }
}

impl Controller for CronJobController {
    const NAME: &'static str = "cronjob";
    const WORKERS: usize = 8;
    type Key = NamespacedName;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { crons: api.cache().get(), jobs: Managed::new(api), namespaces: Namespaces::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.crons);
        inputs.on(&self.jobs.all, Self::by_job);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<View> {
        let cron = self.crons.get(Some(&key.namespace), &key.name)?;
        let jobs = self.jobs.of(uid(&cron.metadata));
        Some(View { cron, jobs, namespace_terminating: self.namespaces.terminating(&key.namespace) })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        cronjob::plan(view, now)
    }
}
