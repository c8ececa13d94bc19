//! Taking pods away: those that are too many, those of other revisions, and revisions that nobody needs.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::identity;
use super::turn::{Work, ordinals};
use crate::action::Action;
use crate::object::{deleting, label, name};
use crate::workloads::history::{self, POD_LABEL};
use crate::workloads::intstr::{Round, scaled};

impl Work<'_> {
    /// Deletes pods that are too many: in an ordered set one at a time, the last first, and none while another is not
    /// available.
    pub(super) fn shrink(&mut self) -> Option<&'static str> {
        let wanted = ordinals(&self.view.set);
        let too_many = self.pods.iter().filter(|(ordinal, _)| !wanted.contains(ordinal));
        let surplus: Vec<(i64, &Pod)> = too_many.map(|(ordinal, pod)| (*ordinal, *pod)).collect();
        for (ordinal, pod) in &surplus {
            self.settle_claims(pod, *ordinal, true);
        }
        let first_unavailable = surplus.iter().find(|(_, pod)| self.unavailable(pod)).map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in surplus.into_iter().rev() {
            let going = deleting(&pod.metadata);
            if self.parallel() {
                if !going {
                    self.delete(pod);
                }
                continue;
            }
            if going {
                return Some("a pod is on its way out");
            }
            if self.unavailable(pod) && first_unavailable != Some(ordinal) {
                return Some("a pod is not available yet");
            }
            self.delete(pod);
            return Some("too many pods");
        }
        None
    }

    /// Replaces pods of other revisions, the last first.
    pub(super) fn roll(&mut self) -> &'static str {
        let limits = self.limits();
        let partition = limits.and_then(|limits| limits.partition).unwrap_or(0);
        let wanted = ordinals(&self.view.set);
        let targets = wanted.start.saturating_add(i64::from(partition))..wanted.end;
        match limits.and_then(|limits| limits.max_unavailable.clone()) {
            None => self.roll_one(targets),
            Some(limit) => self.roll_within(targets, &limit),
        }
    }

    /// The last that is old goes; but those after it are available first.
    fn roll_one(&mut self, targets: std::ops::Range<i64>) -> &'static str {
        for ordinal in targets.rev() {
            let Some(pod) = self.pods.get(&ordinal).copied() else { return "a pod is made anew" };
            if self.outdated(pod) {
                self.delete(pod);
                return "a pod of another revision is replaced";
            }
            if self.unavailable(pod) {
                return "a pod is not available yet";
            }
        }
        "every pod is as it should be"
    }

    /// As many as may be unavailable at a time. In a parallel set, those that are unavailable anyway go at once.
    fn roll_within(&mut self, targets: std::ops::Range<i64>, limit: &IntOrString) -> &'static str {
        let wanted = ordinals(&self.view.set);
        let limit = i64::from(scaled(limit, self.wanted(), Round::Down).max(1));
        let there: Vec<&Pod> = self.pods.range(wanted.clone()).map(|(_, pod)| *pod).collect();
        let available = there.iter().filter(|pod| !self.unavailable(pod)).count();
        let unavailable = wanted.end - wanted.start - i64::try_from(available).unwrap_or(i64::MAX);
        let old: Vec<&Pod> = if targets.is_empty() {
            Vec::new()
        } else {
            self.pods.range(targets).rev().map(|(_, pod)| *pod).filter(|pod| self.outdated(pod)).collect()
        };
        let (mut doomed, spare): (Vec<&Pod>, Vec<&Pod>) =
            old.into_iter().partition(|pod| self.parallel() && self.unavailable(pod));
        doomed.extend(spare.into_iter().take(usize::try_from(limit - unavailable).unwrap_or(0)));
        doomed.iter().for_each(|pod| self.delete(pod));
        match (doomed.is_empty(), unavailable == 0) {
            (false, _) => "pods of another revision are replaced",
            (true, false) => "a pod is not available yet",
            (true, true) => "every pod is as it should be",
        }
    }

    /// Drops the oldest revisions beyond the limit that no pod was made from.
    pub(super) fn trim_history(&self) -> Vec<Action> {
        let Some(limit) = self.view.set.spec.revision_history_limit else { return Vec::new() };
        let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
        let live = |revision: &str| {
            [name(&self.current.metadata), name(&self.update.metadata)].contains(&revision)
                || self.pods.values().any(|pod| label(&pod.metadata, POD_LABEL) == Some(revision))
        };
        let unused: Vec<_> = self.revisions.iter().copied().filter(|r| !live(name(&r.metadata))).collect();
        history::trim(&unused, unused.len().saturating_sub(limit))
    }

    /// Whether a pod is of another revision than it should be, and not on its way out already.
    fn outdated(&self, pod: &Pod) -> bool {
        identity::revision(pod) != name(&self.update.metadata) && !deleting(&pod.metadata)
    }
}
