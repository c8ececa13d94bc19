//! Whether a Job ends, and how.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::policy::{self, Verdict};
use super::{State, held};
use crate::object::{after_seconds, time};
use crate::pod;

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub success: bool,
    pub reason: String,
    pub message: String,
    /// Whether the stored status says so already.
    pub written: bool,
}

impl End {
    fn new(success: bool, reason: &str, message: &str) -> Self {
        Self { success, reason: reason.to_owned(), message: message.to_owned(), written: false }
    }

    /// The condition that says how it will end.
    pub fn interim(&self, now: Timestamp) -> JobCondition {
        self.condition(if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }, now)
    }

    /// The condition that says that it has ended.
    pub fn last(&self, now: Timestamp) -> JobCondition {
        self.condition(if self.success { "Complete" } else { "Failed" }, now)
    }

    fn condition(&self, kind: &str, now: Timestamp) -> JobCondition {
        condition(kind, "True", &self.reason, &self.message, now)
    }
}

pub(super) fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: some(reason),
        message: some(message),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// How the Job ends, if it does: as it is written, else as its pods, its limits and the time say.
pub(super) fn decide(state: &State<'_>, now: Timestamp) -> Option<End> {
    written(state).or_else(|| failure(state, now)).or_else(|| success(state))
}

fn written(state: &State<'_>) -> Option<End> {
    ["SuccessCriteriaMet", "FailureTarget"].into_iter().find_map(|kind| {
        let mut all = state.status.conditions.iter().flatten();
        let found = all.find(|condition| condition.type_ == kind && condition.status == "True")?;
        let (reason, message) = (found.reason.as_deref(), found.message.as_deref());
        let end = End::new(kind == "SuccessCriteriaMet", reason.unwrap_or_default(), message.unwrap_or_default());
        Some(End { written: true, ..end })
    })
}

fn failure(state: &State<'_>, now: Timestamp) -> Option<End> {
    let by_policy = state.owned.iter().filter(|pod| held(pod) && state.has_failed(pod)).find_map(|pod| {
        match policy::judge(state.spec, pod) {
            Verdict::FailsJob(message) => Some(message),
            _ => None,
        }
    });
    if let Some(message) = by_policy {
        return Some(End::new(false, "PodFailurePolicy", &message));
    }
    let limit = state.spec.backoff_limit.unwrap_or(6);
    if state.failures() > i64::from(limit) || restarted_too_often(state, limit) {
        return Some(End::new(false, "BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline(state).is_some_and(|at| at <= now) {
        return Some(End::new(false, "DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let failed = state.failed.as_ref()?.total();
    if state.spec.max_failed_indexes.is_some_and(|most| i64::from(failed) > i64::from(most)) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(End::new(false, "MaxFailedIndexesExceeded", message));
    }
    let all = failed > 0 && failed + state.succeeded.total() >= state.completions().unwrap_or(0);
    all.then(|| End::new(false, "FailedIndexes", "Job has failed indexes"))
}

/// When its time is over. That of one that was suspended begins when it is seen to be resumed.
pub(super) fn deadline(state: &State<'_>) -> Option<Timestamp> {
    let stopped = state.suspended() || super::is_true(state.job, "Suspended");
    let seconds = state.spec.active_deadline_seconds.filter(|_| !stopped)?;
    Some(after_seconds(state.status.start_time.as_ref()?.0, seconds))
}

/// Containers that are restarted in their pods count as failures too.
fn restarted_too_often(state: &State<'_>, limit: i32) -> bool {
    let policy = state.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts = |all: &Option<Vec<ContainerStatus>>| -> i64 {
        all.iter().flatten().map(|container| i64::from(container.restart_count)).sum()
    };
    let running = state.owned.iter().filter(|pod| ["Running", "Pending"].contains(&pod::phase(pod)));
    let statuses = running.filter_map(|pod| pod.status.as_ref());
    let total: i64 =
        statuses.map(|status| restarts(&status.container_statuses) + restarts(&status.init_container_statuses)).sum();
    if limit == 0 { total > 0 } else { total >= i64::from(limit) }
}

fn success(state: &State<'_>) -> Option<End> {
    if state.indexed()
        && let Some(message) = policy::success(state)
    {
        return Some(End::new(true, "SuccessPolicy", &message));
    }
    let successes = state.successes();
    let enough = match state.spec.completions {
        None => successes > 0,
        Some(completions) => successes >= i64::from(completions),
    };
    let done = enough && state.active.is_empty();
    done.then(|| End::new(true, "CompletionsReached", "Reached expected number of succeeded pods"))
}
