//! What the controller keeps of an autoscaler between plans: what was recommended, and what was done, lately.
//!
//! Invariants
//! - It is bounded by the longest windows that a spec may name.
//! - It may be lost with the term: the target's size counts as recommended when nothing else is known.

use jiff::Timestamp;

use super::decision::{Asked, Decision};
use super::facts::Target;
use crate::object::after_seconds;

/// The longest stabilization window in seconds; validation refuses longer ones.
const LONGEST_WINDOW: i64 = 3600;
/// The longest period of a policy in seconds; validation refuses longer ones.
const LONGEST_PERIOD: i64 = 1800;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    recommended: Vec<(Timestamp, i32)>,
    /// By how much the target became larger, and smaller.
    grown: Vec<(Timestamp, i32)>,
    shrunk: Vec<(Timestamp, i32)>,
    /// The size that the last plan asked for.
    pub(super) asked: Option<Asked>,
    /// When a status was written last.
    pub(super) written: Option<Timestamp>,
}

impl History {
    /// What was recommended since a time. `current`: the target's size now.
    pub(super) fn recommended_since(
        &self,
        since: Timestamp,
        (current, now): (i32, Timestamp),
    ) -> impl Iterator<Item = i32> {
        let first = self.recommended.is_empty().then_some((now, current));
        let known = self.recommended.iter().copied().chain(first);
        known.filter(move |(at, _)| *at > since).map(|(_, replicas)| replicas)
    }

    /// By how much the target has become larger since a time, and by how much smaller.
    pub(super) fn changed_since(&self, since: Timestamp) -> (i32, i32) {
        let sum = |events: &[(Timestamp, i32)]| {
            events.iter().filter(|(at, _)| *at > since).fold(0, |sum: i32, (_, by)| sum.saturating_add(*by))
        };
        (sum(&self.grown), sum(&self.shrunk))
    }

    /// Takes note of a decision about the target as it was then.
    pub fn note(&mut self, decision: &Decision, target: Option<&Target>, now: Timestamp) {
        if let Some(target) = target.filter(|_| self.recommended.is_empty()) {
            self.recommended.push((now, target.scale.wanted));
        }
        self.recommended.extend(decision.recommended.map(|replicas| (now, replicas)));
        if let Some((from, to)) = decision.done {
            let by = to.abs_diff(from).try_into().unwrap_or(i32::MAX);
            let events = if to > from { &mut self.grown } else { &mut self.shrunk };
            events.push((now, by));
        }
        if decision.status.is_some() {
            self.written = Some(now);
        }
        self.asked.clone_from(&decision.rescale);
        let window = after_seconds(now, -LONGEST_WINDOW);
        self.recommended.retain(|(at, _)| *at > window);
        let period = after_seconds(now, -LONGEST_PERIOD);
        for events in [&mut self.grown, &mut self.shrunk] {
            events.retain(|(at, _)| *at > period);
        }
    }
}
