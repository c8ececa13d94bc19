//! HorizontalPodAutoscaler: how many pods their metrics ask for.
//!
//! ```text
//! facts        what was asked for: the target's scale, what metrics are
//!    │
//! ask          where a metric is asked for, and what the answer says
//! calculator   from numbers to replicas
//! metrics      each metric of a spec: replicas, status, what is wrong
//! decision     what is to be done
//!    │
//! history      what was recommended and done lately
//! limits       bounds, rates and stabilization
//!    │
//! decide       all of it: the next size and status
//!    │
//! plan         the writes
//! ```
//!
//! Invariants
//! - What cannot be measured never makes a target smaller.
//! - A target is written first. The status that tells of it is written when the target is seen to be so: in another turn,
//!   at once.
//! - At rest nothing is written. Metrics that move a little are written down once a minute at most ([`decide`]).
//!
//! Source: `pkg/controller/podautoscaler` of upstream's.

mod ask;
mod calculator;
mod decide;
mod decision;
mod facts;
mod history;
mod limits;
mod metrics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::json;

pub(crate) use self::ask::escaped;
pub use self::ask::{Question, question};
pub use self::decide::{Inputs, decide};
pub use self::decision::{Asked, Decision, Tell};
pub use self::facts::{Facts, Numbers, Sample, Samples, Scale, Target};
pub use self::history::History;
use crate::action::{Action, EventRecord, Patch, Plan, patch_to, reference};
use crate::object::after_seconds;

/// Who speaks in its events.
const COMPONENT: &str = "horizontal-pod-autoscaler";
/// How often metrics are looked at, in seconds.
pub const EVERY: i64 = 15;

/// What a plan is made from.
pub struct View {
    /// The autoscaler.
    pub autoscaler: Arc<HorizontalPodAutoscaler>,
    /// What it scales; `None` if that is not known.
    pub target: Option<Target>,
    /// What is to be done.
    pub decision: Decision,
}

/// The writes.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let (old, decision) = (view.autoscaler.as_ref(), &view.decision);
    let mut actions: Vec<Action> = decision.events.iter().map(|event| event.action(old)).collect();
    if let (Some(asked), Some(target)) = (&decision.rescale, &view.target) {
        actions.push(rescale(old, target, asked));
        let mut plan = Plan::new("its target gets another size", actions);
        plan.wake_at(now);
        return plan;
    }
    if let Some(status) = &decision.status {
        let new = HorizontalPodAutoscaler { status: Some(status.clone()), ..old.clone() };
        actions.extend(patch_to(old, &new, Some("status")));
    }
    let mut plan = Plan::new(decision.why, actions);
    plan.wake_at(after_seconds(now, EVERY));
    plan
}

fn rescale(autoscaler: &HorizontalPodAutoscaler, target: &Target, asked: &Asked) -> Action {
    let message = format!("New size: {}; reason: {}", asked.to, asked.reason);
    Action::Patch(Patch {
        key: target.key.clone(),
        subresource: Some("scale"),
        body: json!({
            "metadata": {"resourceVersion": target.scale.version, "uid": target.scale.uid},
            "spec": {"replicas": asked.to},
        }),
        announce: Some(EventRecord::normal(reference(autoscaler), COMPONENT, "SuccessfulRescale", message)),
    })
}
