//! What a deployment says about itself: counts, conditions, and the deadline for progress.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::{Work, limits, replicas};
use crate::object::{after_seconds, name, time};

const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const DONE: &str = "NewReplicaSetAvailable";

/// Whether two statuses say the same.
pub(super) fn same(old: Option<&DeploymentStatus>, new: Option<&DeploymentStatus>) -> bool {
    let plain = |status: Option<&DeploymentStatus>| normal(status.cloned().unwrap_or_default());
    plain(old) == plain(new)
}

/// Zeros and empty lists are left out on some roads and not on others; they mean the same.
fn normal(mut status: DeploymentStatus) -> DeploymentStatus {
    for number in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
    ] {
        number.take_if(|number| *number == 0);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
    status
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some(kind))
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
}

/// Adds a condition in place of its namesake. One with the same status and reason stays as it is.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let kind = new.type_.clone().unwrap_or_default();
    if let Some(old) = find(status, &kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(new);
}

fn condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

impl Work<'_> {
    fn status_now(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        self.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX).map(i64::from)
    }

    pub(super) fn progress(&mut self, reason: &str, message: String) {
        if self.deadline().is_some() {
            let new = condition(PROGRESSING, "True", reason, message, self.now);
            set(self.deployment.status.get_or_insert_default(), new);
        }
    }

    pub(super) fn progress_if_none(&mut self, reason: &str, message: String) {
        if find(&self.status_now(), PROGRESSING).is_none() {
            self.progress(reason, message);
        }
    }

    /// A pause stops the clock of the deadline, a resumption starts it anew.
    pub(super) fn note_pause(&mut self) {
        let status = self.status_now();
        let current = find(&status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
        if self.deadline().is_none() || current == Some(TIMED_OUT) {
            return;
        }
        let (reason, message) = match (self.spec.paused == Some(true), current == Some("DeploymentPaused")) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        let new = condition(PROGRESSING, "Unknown", reason, message.into(), self.now);
        set(self.deployment.status.get_or_insert_default(), new);
    }

    /// Whether the rollout had ended by the last status and nothing has changed since.
    pub(super) fn complete_now(&self) -> bool {
        self.complete(&self.view.deployment.status.clone().unwrap_or_default())
    }

    fn complete(&self, status: &DeploymentStatus) -> bool {
        let want = replicas(self.spec);
        [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or(0) == want)
            && status.observed_generation.unwrap_or(0) >= self.view.deployment.metadata.generation.unwrap_or(0)
    }

    fn counted(&self) -> DeploymentStatus {
        let sum = |of: fn(&super::Set) -> i32| self.sets.iter().map(of).sum::<i32>();
        let available = sum(super::Set::available);
        let old = self.status_now();
        let mut status = DeploymentStatus {
            observed_generation: self.view.deployment.metadata.generation,
            replicas: Some(sum(super::Set::actual)),
            updated_replicas: Some(self.new.map_or(0, |at| self.sets[at].actual())),
            ready_replicas: Some(sum(super::Set::ready)),
            available_replicas: Some(available),
            unavailable_replicas: Some((sum(super::Set::size) - available).max(0)),
            terminating_replicas: self.sets.iter().filter_map(super::Set::terminating).reduce(|a, b| a + b).or(Some(0)),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let (state, reason, message) = if available >= replicas(self.spec) - limits(self.spec).unavailable {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set(&mut status, condition("Available", state, reason, message.into(), self.now));
        normal(status)
    }

    /// Brings the status up to date; with `rollout`, the account of progress and failures too.
    pub(super) fn sync_status(&mut self, rollout: bool) {
        let mut status = self.counted();
        if let Some(why) = &self.blame {
            blame(&mut status, why, self.now);
        } else if rollout {
            self.judge_progress(&mut status);
        }
        if rollout {
            self.judge_failures(&mut status);
        }
        if status.conditions.as_ref().is_some_and(Vec::is_empty) {
            status.conditions = None;
        }
        self.deployment.status = Some(status);
    }

    fn judge_progress(&mut self, status: &mut DeploymentStatus) {
        let Some(deadline) = self.deadline() else { return remove(status, PROGRESSING) };
        let before = self.status_now();
        let current = find(&before, PROGRESSING).cloned();
        let settled = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(DONE));
        if settled && status.replicas == status.updated_replicas {
            return;
        }
        let subject = match self.new {
            Some(at) => format!("ReplicaSet \"{}\"", self.sets[at].name()),
            None => format!("Deployment \"{}\"", name(&self.view.deployment.metadata)),
        };
        if self.complete(status) {
            let message = format!("{subject} has successfully progressed.");
            set(status, condition(PROGRESSING, "True", DONE, message, self.now));
        } else if moved(&self.view.deployment.status.clone().unwrap_or_default(), status) {
            let mut new =
                condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), self.now);
            if let Some(old) = current.filter(|c| c.status.as_deref() == Some("True")) {
                new.last_transition_time = old.last_transition_time;
            }
            remove(status, PROGRESSING);
            set(status, new);
        } else if self.gated {
            // A step has a deadline of its own.
        } else if let Some(overdue) = overdue_at(current.as_ref(), deadline) {
            if overdue < self.now {
                let message = format!("{subject} has timed out progressing.");
                set(status, condition(PROGRESSING, "False", TIMED_OUT, message, self.now));
            } else {
                self.wake_at(after_seconds(overdue, 1));
            }
        }
    }

    fn judge_failures(&self, status: &mut DeploymentStatus) {
        let sets: Vec<&super::Set> = match self.new {
            Some(at) => vec![&self.sets[at]],
            None => self.sets.iter().collect(),
        };
        let conditions = sets.iter().filter_map(|set| set.old().status.as_ref()?.conditions.as_ref()).flatten();
        let failure = conditions.into_iter().find(|condition| condition.type_.as_deref() == Some(FAILURE));
        match failure {
            Some(failure) => set(
                status,
                DeploymentCondition {
                    type_: Some(FAILURE.into()),
                    status: failure.status.clone(),
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                    last_transition_time: failure.last_transition_time.clone(),
                    last_update_time: failure.last_transition_time.clone(),
                },
            ),
            None => remove(status, FAILURE),
        }
    }
}

/// A rollout that goes no further has failed. Clients know that by the reason alone, and know one such reason.
fn blame(status: &mut DeploymentStatus, why: &str, now: Timestamp) {
    let same = |condition: &DeploymentCondition| {
        condition.reason.as_deref() == Some(TIMED_OUT) && condition.message.as_deref() == Some(why)
    };
    if !find(status, PROGRESSING).is_some_and(same) {
        remove(status, PROGRESSING);
        status.conditions.get_or_insert_default().push(condition(PROGRESSING, "False", TIMED_OUT, why.to_owned(), now));
    }
}

/// Whether anything got better since the last status.
fn moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |number: Option<i32>| number.unwrap_or(0);
    let left = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || left(new) < left(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// When the current wait becomes a failure; `None` if there is no wait, or it has failed already.
fn overdue_at(current: Option<&DeploymentCondition>, deadline: i64) -> Option<Timestamp> {
    let current = current?;
    match current.reason.as_deref() {
        Some(DONE | TIMED_OUT | "DeploymentPaused") => None,
        _ => Some(after_seconds(current.last_update_time.as_ref()?.0, deadline)),
    }
}
