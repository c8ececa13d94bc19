//! How big each ReplicaSet should be right now.

use super::{Work, limits, replicas, rolling};
use crate::object::controller;
use crate::pod;

impl Work<'_> {
    /// Whether the deployment's size changed since its sets were sized: scaling comes before
    /// rolling then.
    pub(super) fn rescaled(&self) -> bool {
        let want = i64::from(replicas(self.spec));
        let active = self.sets.iter().filter(|set| set.size() > 0);
        active.filter_map(|set| set.desired_replicas()).any(|desired| desired != want)
    }

    /// Sizes without a change of template: for scaling and for paused deployments.
    pub(super) fn scale(&mut self) {
        let want = replicas(self.spec);
        if let Some(at) = self.active_or_latest() {
            self.resize(at, want);
        } else if self.saturated() {
            for at in self.others().filter(|at| self.sets[*at].size() > 0).collect::<Vec<_>>() {
                self.resize(at, 0);
            }
        } else if rolling(self.spec) {
            self.scale_in_proportion();
        }
    }

    /// The only set with replicas; the newest if none has any.
    fn active_or_latest(&self) -> Option<usize> {
        let active: Vec<usize> = (0..self.sets.len()).filter(|at| self.sets[*at].size() > 0).collect();
        match active.as_slice() {
            [] => self.goal().or_else(|| self.others().last()),
            [one] => Some(*one),
            _ => None,
        }
    }

    fn saturated(&self) -> bool {
        let Some(set) = self.goal().map(|at| &self.sets[at]) else { return false };
        let want = replicas(self.spec);
        set.size() == want && set.desired_replicas() == Some(i64::from(want)) && set.available() == want
    }

    /// A rollout caught in the middle keeps its proportions when the deployment grows or shrinks.
    fn scale_in_proportion(&mut self) {
        let want = replicas(self.spec);
        let allowed = if want > 0 { want + limits(self.spec).surge } else { 0 };
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|at| self.sets[*at].size() > 0).collect();
        let mut left = allowed - active.iter().map(|at| self.sets[*at].size()).sum::<i32>();
        // Largest first; among equals the newest grows and the oldest shrinks first.
        let growing = left > 0;
        active.sort_by_key(|at| (-self.sets[*at].size(), if growing { -at.cast_signed() } else { at.cast_signed() }));
        let mut sizes = Vec::new();
        for at in &active {
            let part = self.proportion(*at, left);
            left -= part;
            sizes.push(self.sets[*at].size() + part);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + left).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    /// How much of `left` goes to the set `at`.
    fn proportion(&self, at: usize, left: i32) -> i32 {
        let set = &self.sets[at];
        if left == 0 {
            return 0;
        }
        let want = replicas(self.spec);
        if want == 0 {
            return (-set.size()).max(left);
        }
        let total = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let Some(before) = set.max_replicas().or_else(|| (total > 0).then_some(i64::from(total))) else { return 0 };
        let size = i64::from(set.size()) * i64::from(want + limits(self.spec).surge);
        let rounded = i32::try_from((2 * size + before) / (2 * before)).unwrap_or(i32::MAX);
        let part = rounded - set.size();
        if left > 0 { part.min(left) } else { part.max(left) }
    }

    /// Grows the new set as far as the surge and the gate allow. True if its size changed.
    pub(super) fn grow_new(&mut self) -> bool {
        let Some(at) = self.goal() else { return false };
        let (most, have) = (self.bound.new, self.sets[at].size());
        match have.cmp(&most) {
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => self.resize(at, most),
            std::cmp::Ordering::Less => {
                let size = self.size_of_new(at, have);
                self.resize(at, size)
            }
        }
    }

    fn sum(&self, sets: &[usize]) -> i32 {
        sets.iter().map(|at| self.sets[*at].size()).sum()
    }

    /// Shrinks old sets as far as availability and the gate allow: first what does not work anyway, then the oldest, and
    /// last what the rollout began with. True if a size changed.
    pub(super) fn shrink_old(&mut self) -> bool {
        let Some(new) = self.goal() else { return false };
        let mut old: Vec<usize> = self.others().filter(|at| self.sets[*at].size() > 0).collect();
        if old.is_empty() {
            return false;
        }
        old.sort_by_key(|at| Some(*at) == self.stable);
        let least = replicas(self.spec) - limits(self.spec).unavailable;
        let before = self.sum(&old);
        let new_unavailable = self.sets[new].size() - self.sets[new].available();
        let all = before + self.sets[new].size();
        let most = (all - least - new_unavailable).min(before - self.bound.others);
        if most <= 0 {
            return false;
        }
        self.drop_unhealthy(&old, most);
        self.drop_available(&old, least);
        before != self.sum(&old)
    }

    fn drop_unhealthy(&mut self, old: &[usize], most: i32) {
        let mut left = most;
        for at in old {
            let (size, available) = (self.sets[*at].size(), self.sets[*at].available());
            let drop = (size - available).min(left);
            if drop > 0 {
                self.resize(*at, size - drop);
                left -= drop;
            }
        }
    }

    fn drop_available(&mut self, old: &[usize], least: i32) {
        let available: i32 = self.sets.iter().map(super::Set::available).sum();
        let mut left = (available - least).min(self.sum(old) - self.bound.others);
        for at in old {
            let size = self.sets[*at].size();
            let drop = size.min(left);
            if drop > 0 {
                self.resize(*at, size - drop);
                left -= drop;
            }
        }
    }

    /// Takes old sets to nothing. True if one was not there yet.
    pub(super) fn drop_old(&mut self) -> bool {
        let old: Vec<usize> = self.old().filter(|at| self.sets[*at].size() > 0).collect();
        // Every one of them, not only the first that changes.
        let resized: Vec<bool> = old.into_iter().map(|at| self.resize(at, 0)).collect();
        resized.contains(&true)
    }

    /// Whether a pod of an earlier template may still run.
    pub(super) fn old_pods_left(&self) -> bool {
        if self.old().any(|at| self.sets[at].actual() > 0) {
            return true;
        }
        let new = self.new.map(|at| self.sets[at].uid());
        let of_old_set = |pod: &&std::sync::Arc<k8s_openapi::api::core::v1::Pod>| {
            controller(&pod.metadata).is_some_and(|owner| Some(owner.uid.as_str()) != new)
        };
        self.view.pods.iter().filter(of_old_set).any(|pod| !pod::finished(pod))
    }
}
