//! Runs Jobs, and frees pods that no Job will count.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kontiki_api::Api;
use kontiki_cache::TypedChange;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::object::{controller, uid};
use kontiki_plan::selection::Selects as _;
use kontiki_plan::workloads::job::{self, Key, Stray};

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::index::{Managed, Namespaces, Selectors};

pub(crate) struct JobController {
    jobs: Selectors<Job>,
    pods: Managed<Pod>,
    namespaces: Namespaces,
}

/// What a plan is about.
pub(crate) enum View {
    Job(job::View),
    Stray(Stray),
}

impl JobController {
    fn by_job(&self, change: &TypedChange<Job>) -> Vec<Key> {
        let pods = || change.old.as_ref().map(|job| self.pods.of(uid(&job.metadata))).unwrap_or_default();
        job::by_job(NamespacedName::from(&change.key), change.new.is_none(), pods)
    }

    fn by_pod(&self, change: &TypedChange<Pod>) -> Vec<Key> {
        let selecting = |pod: &Pod| self.jobs.candidates(&pod.metadata);
        job::by_pod(change.old.as_deref(), change.new.as_deref(), selecting)
    }

    fn job(&self, key: &NamespacedName) -> Option<job::View> {
        let job = self.jobs.all.get(Some(&key.namespace), &key.name)?;
        let mut pods = self.pods.of(uid(&job.metadata));
        pods.extend(self.pods.unmanaged(&key.namespace).into_iter().filter(|pod| job.selects(&pod.metadata)));
        Some(job::View { job, pods, namespace_terminating: self.namespaces.terminating(&key.namespace) })
    }

    fn stray(&self, key: &NamespacedName) -> Option<Stray> {
        let pod = self.pods.all.get(Some(&key.namespace), &key.name)?;
        let owner = controller(&pod.metadata);
        let job = owner.and_then(|owner| self.jobs.all.get(Some(&key.namespace), &owner.name));
        Some(Stray { pod, job })
    }
}

impl Controller for JobController {
    const NAME: &'static str = "job";
    const WORKERS: usize = 8;
    type Key = Key;
    type View = View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { jobs: Selectors::new(api), pods: Managed::new(api), namespaces: Namespaces::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.jobs.all, Self::by_job);
        inputs.on(&self.pods.all, Self::by_pod);
    }

    fn view(&self, key: &Key, _: &Context<'_, NoFailure>) -> Option<View> {
        match key {
            Key::Job(name) => self.job(name).map(View::Job),
            Key::Stray(name) => self.stray(name).map(View::Stray),
        }
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        match view {
            View::Job(view) => job::plan(view, now),
            View::Stray(stray) => job::plan_stray(stray),
        }
    }
}
