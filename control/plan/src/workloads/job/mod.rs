//! Job: runs pods until enough of them have succeeded, or too many have failed.
//!
//! Invariants
//! - A pod that has ended is counted once, whoever dies in between. Its finalizer holds it until the stored status names
//!   it (`uncountedTerminatedPods`, or its index); only when the finalizer is seen to be gone does the name become a
//!   number. So a finalizer goes in a later plan than the one that writes the pod down.
//! - Nothing is remembered between plans: back-off is worked out from the pods that have ended.
//! - How a Job will end is written down first (`FailureTarget`, `SuccessCriteriaMet`). It ends once no pod is left to
//!   wait for.
//! - One plan either creates pods or deletes some.
//!
//! Source: `pkg/controller/job` of upstream's, whose words and limits these are; it flushes, removes finalizers and counts
//! in one pass, which needs what it expects in memory.

mod backoff;
mod claim;
mod count;
mod end;
mod index;
mod pods;
mod policy;
mod stray;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::indexes::Indexes;
use kontiki_model::selector::Selector;

use crate::action::{Action, EventRecord, Plan, Verb, patch_to, reference};
use crate::object::{controlled_by, deleting, uid};
use crate::planted::{self, Bug};
use crate::pod;
use crate::selection::Selects;

pub use stray::{Key, Stray, by_job, by_pod, plan as plan_stray};

/// Who speaks in its events.
const COMPONENT: &str = "job-controller";
/// Value of `spec.managedBy` that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Holds a pod until it is counted.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Most pods created or deleted by one plan, and most whose end waits to be counted.
const BURST: usize = 500;

/// What a plan is made from.
pub struct View {
    /// The Job.
    pub job: Arc<Job>,
    /// The pods of its namespace that it manages, and those that nobody manages and that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

impl Selects for Job {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(self.spec.as_ref()?.selector.as_ref()?)
    }
}

/// Decides the next writes for one Job.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let job = view.job.as_ref();
    let Some(spec) = job.spec.as_ref() else { return Plan::rest("it has no spec") };
    if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
        return Plan::rest("somebody else manages it");
    }
    let claims = claim::plan(view);
    if !claims.is_empty() {
        return Plan::new("pods change their manager", claims);
    }
    let state = State::new(job, spec, &view.pods);
    if deleting(&job.metadata) || is_finished(job) {
        let free = state.owned.iter().filter(|pod| held(pod)).map(|pod| release(pod)).take(BURST).collect();
        let why = if deleting(&job.metadata) { "it is being deleted" } else { "it has ended" };
        return Plan::new(why, free);
    }
    run(view, &state, now)
}

/// The plan of a Job that has not ended.
fn run(view: &View, state: &State<'_>, now: Timestamp) -> Plan {
    let end = end::decide(state, now);
    let counted = count::counted(state, &end);
    let mut plan = Plan::rest("as many pods as it needs");
    if let Some(at) = end::deadline(state) {
        plan.wake_at(at);
    }
    let (status, events) = count::status(state, &end, &counted, now);
    plan.extend(write(state.job, status, events));
    let free: Vec<Action> = counted.free.iter().map(|pod| release(pod)).collect();
    plan.extend(Plan::new("pods have been counted", free));
    if planted::is(Bug::UncountedPods) {
        plan.actions.sort_by_key(|action| action.verb() == Verb::PatchStatus);
    }
    plan.extend(match end {
        Some(_) => pods::delete_all(state),
        None => pods::manage(view, state, now),
    });
    plan
}

fn write(job: &Job, status: JobStatus, events: Vec<EventRecord>) -> Plan {
    let changed = Job { status: Some(status), ..job.clone() };
    let mut actions: Vec<Action> = patch_to(job, &changed, Some("status")).into_iter().collect();
    if !actions.is_empty() {
        actions.extend(events.into_iter().map(Action::Event));
    }
    Plan::new("its status changed", actions)
}

/// A Job with what its pods say.
struct State<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    status: JobStatus,
    /// Its pods, ended ones too.
    owned: Vec<&'a Pod>,
    /// Those that run or will.
    active: Vec<&'a Pod>,
    /// Those on their way out that have not ended.
    terminating: Vec<&'a Pod>,
    /// Indexes that have succeeded, written down or not.
    succeeded: Indexes,
    /// Indexes that have failed, if that can be.
    failed: Option<Indexes>,
}

impl<'a> State<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>]) -> Self {
        let mut owned: Vec<&Pod> =
            pods.iter().map(Arc::as_ref).filter(|pod| controlled_by(&pod.metadata, uid(&job.metadata))).collect();
        owned.sort_by_key(|pod| (index::of(pod), uid(&pod.metadata)));
        let active = owned.iter().copied().filter(|pod| pod::active(pod)).collect();
        let leaving = |pod: &&Pod| deleting(&pod.metadata) && !pod::finished(pod);
        let terminating = owned.iter().copied().filter(leaving).collect();
        let status = job.status.clone().unwrap_or_default();
        let mut state =
            Self { job, spec, status, owned, active, terminating, succeeded: Indexes::default(), failed: None };
        if state.indexed() {
            state.succeeded = index::succeeded(&state);
            state.failed = spec.backoff_limit_per_index.map(|limit| index::failed(&state, limit));
        }
        state
    }

    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> Option<u32> {
        self.spec.completions.map(|completions| u32::try_from(completions).unwrap_or(0))
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether a pod is replaced only when it has ended, not when it is told to.
    fn replaces_failed_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }

    /// Whether a pod counts as failed.
    fn has_failed(&self, pod: &Pod) -> bool {
        match pod::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => deleting(&pod.metadata) && !self.replaces_failed_only(),
        }
    }

    /// Whether a pod has an index that it may have, where it needs one.
    fn has_place(&self, pod: &Pod) -> bool {
        !self.indexed() || index::of(pod).is_some_and(|index| Some(index) < self.completions())
    }

    fn uncounted(&self, succeeded: bool) -> &[String] {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let list = uncounted.and_then(|u| if succeeded { u.succeeded.as_ref() } else { u.failed.as_ref() });
        list.map_or(&[], Vec::as_slice)
    }

    fn is_uncounted(&self, pod: &Pod, succeeded: bool) -> bool {
        self.uncounted(succeeded).iter().any(|known| known == uid(&pod.metadata))
    }

    /// Pods that have ended so since the status was written.
    fn new_ends(&self, succeeded: bool) -> impl Iterator<Item = &'a Pod> {
        let ended = move |pod: &Pod| if succeeded { pod::phase(pod) == "Succeeded" } else { self.has_failed(pod) };
        let new =
            move |pod: &&Pod| held(pod) && self.has_place(pod) && !self.is_uncounted(pod, succeeded) && ended(pod);
        self.owned.iter().copied().filter(new)
    }

    /// All that have succeeded.
    fn successes(&self) -> i64 {
        if self.indexed() {
            return i64::from(self.succeeded.total());
        }
        let new = self.new_ends(true).count() + self.uncounted(true).len();
        i64::from(self.status.succeeded.unwrap_or(0)) + wide(new)
    }

    /// All whose failure counts.
    fn failures(&self) -> i64 {
        let new = self.new_ends(false).filter(|pod| policy::counts(self.spec, pod)).count();
        i64::from(self.status.failed.unwrap_or(0)) + wide(new + self.uncounted(false).len())
    }

    fn event(&self, warning: bool, reason: &str, message: &str) -> EventRecord {
        let record = EventRecord::normal(reference(self.job), COMPONENT, reason, message.to_owned());
        EventRecord { warning, ..record }
    }
}

fn wide(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn narrow(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Whether a Job's condition is true.
#[must_use]
pub fn is_true(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether a Job has ended.
#[must_use]
pub fn is_finished(job: &Job) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// Whether a pod waits to be counted.
fn held(pod: &Pod) -> bool {
    finalizers(&pod.metadata).iter().any(|finalizer| finalizer == FINALIZER)
}

fn finalizers(meta: &ObjectMeta) -> &[String] {
    meta.finalizers.as_deref().unwrap_or_default()
}

/// Takes the finalizer off a pod.
fn release(pod: &Pod) -> Action {
    let left: Vec<&String> = finalizers(&pod.metadata).iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let left = if left.is_empty() { serde_json::Value::Null } else { crate::action::to_value(&left) };
    crate::action::patch(pod, None, serde_json::json!({"metadata": {"finalizers": left}}))
}
