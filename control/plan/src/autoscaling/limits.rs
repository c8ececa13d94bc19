//! How far a target may go now: bounds, rates, stabilization.
//!
//! Source: `normalizeDesiredReplicas`, `normalizeDesiredReplicasWithBehaviors`.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

use super::history::History;
use crate::object::after_seconds;

/// For how long a target is not made smaller than was recommended, in seconds, if the spec does not say.
const DOWN_WINDOW: i32 = 300;
/// Without behaviours a target grows at most by this factor at once, or to this size.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;

const WITHIN: Word = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Word = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Word = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_FAST: Word = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Word =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const READY: Word = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Word = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Word = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// Reason and message of a condition.
pub(super) type Word = (&'static str, &'static str);

/// What is looked at.
pub(super) struct Range<'a> {
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    pub least: i32,
    pub most: i32,
    /// The target's size.
    pub current: i32,
    pub history: &'a History,
    pub now: Timestamp,
}

/// The size that a target gets, and what its conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    pub replicas: i32,
    /// `AbleToScale`, which is true.
    pub able: Word,
    /// `ScalingLimited`, with whether it is.
    pub limited: (bool, Word),
}

impl Range<'_> {
    /// The size for what metrics ask for.
    pub fn limit(&self, wanted: i32) -> Limited {
        let (stable, able) = match self.behavior {
            None => self.stabilize(wanted),
            Some(behavior) => self.stabilize_by(behavior, wanted),
        };
        let able = if stable == wanted { READY } else { able };
        let (replicas, why) = match self.behavior {
            None => self.bound(stable),
            Some(behavior) => self.bound_by(behavior, stable),
        };
        Limited { replicas, able, limited: (replicas != stable, why) }
    }

    fn since(&self, seconds: i32) -> Timestamp {
        after_seconds(self.now, -i64::from(seconds))
    }

    fn recommended(&self, seconds: i32) -> impl Iterator<Item = i32> {
        self.history.recommended_since(self.since(seconds), (self.current, self.now))
    }

    fn stabilize(&self, wanted: i32) -> (i32, Word) {
        (self.recommended(DOWN_WINDOW).fold(wanted, i32::max), DOWN_STABILIZED)
    }

    fn bound(&self, wanted: i32) -> (i32, Word) {
        let fast = self.current.saturating_mul(UP_FACTOR).max(UP_LEAST);
        let (most, why) = if self.most > fast { (fast, TOO_FAST) } else { (self.most, TOO_MANY) };
        match wanted {
            _ if wanted < self.least => (self.least, TOO_FEW),
            _ if wanted > most => (most, why),
            _ => (wanted, WITHIN),
        }
    }

    fn stabilize_by(&self, behavior: &HorizontalPodAutoscalerBehavior, wanted: i32) -> (i32, Word) {
        let window = |rules: &Option<HPAScalingRules>| rules.as_ref()?.stabilization_window_seconds;
        let lowest = self.recommended(window(&behavior.scale_up).unwrap_or(0)).fold(wanted, i32::min);
        let highest = self.recommended(window(&behavior.scale_down).unwrap_or(DOWN_WINDOW)).fold(wanted, i32::max);
        let word = if wanted >= self.current { UP_STABILIZED } else { DOWN_STABILIZED };
        (self.current.max(lowest).min(highest), word)
    }

    fn bound_by(&self, behavior: &HorizontalPodAutoscalerBehavior, wanted: i32) -> (i32, Word) {
        if wanted > self.current {
            let fast = self.largest(behavior.scale_up.as_ref()).max(self.current);
            let (most, why) = if self.most > fast { (fast, TOO_FAST) } else { (self.most, TOO_MANY) };
            if wanted > most {
                return (most, why);
            }
        } else if wanted < self.current {
            let fast = self.smallest(behavior.scale_down.as_ref()).min(self.current);
            let (least, why) = if self.least < fast { (fast, TOO_FAST_DOWN) } else { (self.least, TOO_FEW) };
            if wanted < least {
                return (least, why);
            }
        }
        (wanted, WITHIN)
    }

    /// The target's size at the beginning of a period that ends now.
    fn at_start(&self, period: i32) -> i32 {
        let (grown, shrunk) = self.history.changed_since(self.since(period));
        self.current.saturating_sub(grown).saturating_add(shrunk)
    }

    /// The largest size that policies allow; no rules allow any.
    fn largest(&self, rules: Option<&HPAScalingRules>) -> i32 {
        let Some(rules) = rules else { return i32::MAX };
        let sizes = rules.policies.iter().flatten().map(|policy| {
            let start = self.at_start(policy.period_seconds);
            match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
                _ => start.saturating_add(policy.value),
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => self.current,
            Some("Min") => sizes.min().unwrap_or(i32::MAX),
            _ => sizes.max().unwrap_or(i32::MIN),
        }
    }

    /// The smallest size that policies allow; no rules allow any.
    fn smallest(&self, rules: Option<&HPAScalingRules>) -> i32 {
        let Some(rules) = rules else { return i32::MIN };
        let sizes = rules.policies.iter().flatten().map(|policy| {
            let start = self.at_start(policy.period_seconds);
            match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
                _ => start.saturating_sub(policy.value),
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => self.current,
            // The least change leaves the most.
            Some("Min") => sizes.max().unwrap_or(i32::MIN),
            _ => sizes.min().unwrap_or(i32::MAX),
        }
    }
}
