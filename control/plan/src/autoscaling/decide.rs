//! The next size and status of one autoscaler's target.
//!
//! Source: `reconcileAutoscaler` of upstream's. Metrics move all the time, and upstream writes each move down. Here a status
//! is written when anything else in it changed; for metrics and texts alone when one moved by more than [`SHARE`], or when
//! the last write is at least [`PATIENCE`] old.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition as Condition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus as Status, MetricStatus, MetricValueStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kontiki_model::amount::Amount;
use kontiki_model::selector::Selector;

use super::calculator::{Pods, Tolerances};
use super::decision::{Asked, Decision, Tell};
use super::facts::{Facts, Numbers, Scale};
use super::history::History;
use super::limits::Range;
use super::metrics::{Found, Judge, Trouble, judge};
use crate::key::NamespacedName;
use crate::object::{after_seconds, namespace, time};

/// How far from its target a metric may be, as a share of it, if the spec does not say.
const TOLERANCE: f64 = 0.1;
/// What of its value a metric has to move to be written down at once.
const SHARE: f64 = 0.1;
/// How long smaller moves wait, in seconds.
const PATIENCE: i64 = 60;

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";
const TO_ZERO: &str = "ScaledToZero";
const BELOW: &str = "Current number of replicas below Spec.MinReplicas";
const ABOVE: &str = "Current number of replicas above Spec.MaxReplicas";

/// What is known.
pub struct Inputs<'a> {
    /// The autoscaler.
    pub autoscaler: &'a HorizontalPodAutoscaler,
    /// What was asked for.
    pub facts: &'a Facts,
    /// The pods that its target selects.
    pub pods: &'a [Arc<Pod>],
    /// All autoscalers whose targets select some of these, itself included, if there are others.
    pub rivals: &'a [NamespacedName],
    /// Why the last plan's size was refused.
    pub refused: Option<&'a str>,
}

/// Decides.
#[must_use]
pub fn decide(inputs: &Inputs<'_>, history: &History, now: Timestamp) -> Decision {
    let mut draft = Draft::of(inputs, history, now);
    let why = draft.work();
    draft.decide(why)
}

/// What becomes of an autoscaler.
struct Draft<'a> {
    inputs: &'a Inputs<'a>,
    history: &'a History,
    now: Timestamp,
    status: Status,
    decision: Decision,
}

impl<'a> Draft<'a> {
    fn of(inputs: &'a Inputs<'a>, history: &'a History, now: Timestamp) -> Self {
        let status = inputs.autoscaler.status.clone().unwrap_or_default();
        Self { inputs, history, now, status, decision: Decision::default() }
    }

    fn spec(&self) -> &'a HorizontalPodAutoscalerSpec {
        &self.inputs.autoscaler.spec
    }

    fn least(&self) -> i32 {
        self.spec().min_replicas.unwrap_or(1)
    }

    fn tell(&mut self, reason: &'static str, message: String) {
        self.decision.events.push(Tell { reason, message });
    }

    fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        set(&mut self.status, (kind, holds, reason), message.into(), self.now);
    }

    /// Fills in everything but what is written; says what decided.
    fn work(&mut self) -> &'static str {
        let (inputs, history) = (self.inputs, self.history);
        let scale = match &inputs.facts.target {
            Ok(target) => &target.scale,
            Err(why) => {
                self.tell("FailedGetScale", why.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {why}");
                self.set(ABLE, false, "FailedGetScale", message);
                return "its target has no scale";
            }
        };
        if let Some(asked) = &history.asked {
            if let Some(why) = inputs.refused {
                return self.was_refused(asked, why);
            }
            if asked.to == scale.wanted {
                return self.was_done(asked);
            }
        }
        self.set(ABLE, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let (current, least) = (scale.wanted, self.least());
        if current == 0 && !self.may_start() {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.set(ACTIVE, false, "ScalingDisabled", message);
            self.shown(0, 0, None);
            return "its target was stopped";
        }
        if current > self.spec().max_replicas {
            return self.rescale(current, self.spec().max_replicas, ABOVE.to_owned(), None);
        }
        if current != 0 && current < least {
            return self.rescale(current, least, BELOW.to_owned(), None);
        }
        self.by_metrics(scale)
    }

    fn was_refused(&mut self, asked: &Asked, why: &str) -> &'static str {
        let message = format!("New size: {}; reason: {}; error: {why}", asked.to, asked.reason);
        self.tell("FailedRescale", message);
        let message = format!("the HPA controller was unable to update the target scale: {why}");
        let metrics = asked.status.current_metrics.clone();
        self.set(ABLE, false, "FailedUpdateScale", message);
        self.shown(asked.from, self.status.desired_replicas, metrics);
        "its target could not be changed"
    }

    fn was_done(&mut self, asked: &Asked) -> &'static str {
        self.status = asked.status.clone();
        self.status.last_scale_time = Some(time(self.now));
        self.decision.done = Some((asked.from, asked.to));
        "its target has another size"
    }

    /// Whether a target without pods may get some: it was this autoscaler who took them.
    fn may_start(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        let stopped = conditions.filter(|one| one.type_ == TO_ZERO).any(|one| one.status == "True");
        stopped && (self.least() != 0 || has_outer_metrics(self.spec()))
    }

    fn by_metrics(&mut self, scale: &Scale) -> &'static str {
        let current = scale.wanted;
        let metrics = match self.metrics(scale) {
            Ok(metrics) => metrics,
            Err(metrics) => {
                self.shown(current, self.status.desired_replicas, metrics);
                return "its metrics say nothing";
            }
        };
        let wanted = metrics.replicas;
        self.decision.recommended = Some(wanted);
        let mut reason = match wanted.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{} above target", metrics.name),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let (least, most) = (self.least(), self.spec().max_replicas);
        let (behavior, history, now) = (self.spec().behavior.as_ref(), self.history, self.now);
        let limited = Range { behavior, least, most, current, history, now }.limit(wanted);
        self.set(ABLE, true, limited.able.0, limited.able.1);
        let (is_limited, (word, text)) = limited.limited;
        self.set(LIMITED, is_limited, word, text);
        let mut replicas = limited.replicas;
        if current == 0 && wanted < least {
            replicas = replicas.max(least);
            if reason.is_empty() {
                BELOW.clone_into(&mut reason);
            }
        }
        if replicas != current {
            return self.rescale(current, replicas, reason, Some(metrics.statuses));
        }
        self.shown(current, current, Some(metrics.statuses));
        "its target has the right size"
    }

    fn rescale(&mut self, from: i32, to: i32, reason: String, metrics: Option<Vec<MetricStatus>>) -> &'static str {
        let message = format!("the HPA controller was able to update the target scale to {to}");
        self.set(ABLE, true, "SucceededRescale", message);
        if from > 0 && to == 0 && self.least() == 0 && has_outer_metrics(self.spec()) {
            self.set(TO_ZERO, true, "ScaledToZero", "the HPA controller scaled the workload to zero");
        } else {
            self.set(TO_ZERO, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero");
        }
        self.shown(to, to, metrics);
        self.decision.rescale = Some(Asked { from, to, reason, status: self.status.clone() });
        "its target is to have another size"
    }

    /// What the status shows besides conditions.
    fn shown(&mut self, current: i32, desired: i32, metrics: Option<Vec<MetricStatus>>) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = metrics.filter(|metrics| !metrics.is_empty());
        self.status.observed_generation = self.inputs.autoscaler.metadata.generation;
    }

    fn decide(mut self, why: &'static str) -> Decision {
        self.decision.why = why;
        let old = self.inputs.autoscaler.status.clone().unwrap_or_default();
        let written = self.decision.rescale.is_none() && is_worth_writing(&old, &self.status, self.history, self.now);
        self.decision.status = written.then_some(self.status);
        self.decision
    }
}

/// What all metrics together say.
struct Together {
    replicas: i32,
    /// Of the metric that asks for the most.
    name: String,
    statuses: Vec<MetricStatus>,
}

impl Draft<'_> {
    /// What all metrics say; `Err` if that cannot be relied on, with the statuses of those that say something.
    fn metrics(&mut self, scale: &Scale) -> Result<Together, Option<Vec<MetricStatus>>> {
        if let Err((reason, event, message)) = self.check_selector(&scale.selector) {
            self.set(ACTIVE, false, reason, message);
            self.tell(reason_of_event(reason, &event), event.clone());
            self.tell("FailedComputeMetricsReplicas", event);
            return Err(None);
        }
        let judged = self.judge_all(scale);
        let all = judged.len();
        let (mut together, mut troubles) =
            (Together { replicas: 0, name: String::new(), statuses: Vec::new() }, Vec::new());
        for outcome in judged {
            match outcome {
                Ok(Found { replicas, name, status }) => {
                    if together.replicas == 0 || replicas > together.replicas {
                        (together.replicas, together.name) = (replicas, name);
                    }
                    together.statuses.push(status);
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        for trouble in &troubles {
            self.tell(trouble.reason, trouble.message.clone());
        }
        if let Some(Trouble { reason, message, within }) = troubles.first()
            && (troubles.len() >= all || together.replicas < scale.wanted)
        {
            self.set(ACTIVE, false, reason, format!("the HPA was unable to compute the replica count: {message}"));
            let count = troubles.len();
            let text = format!("invalid metrics ({count} invalid out of {all}), first error is: {within}");
            self.tell("FailedComputeMetricsReplicas", text);
            return Err(Some(together.statuses));
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", together.name);
        self.set(ACTIVE, true, "ValidMetricFound", message);
        Ok(together)
    }

    fn judge_all(&self, scale: &Scale) -> Vec<Result<Found, Trouble>> {
        let with = Judge {
            namespace: namespace(&self.inputs.autoscaler.metadata),
            scale,
            pods: Pods { current: scale.wanted, all: self.inputs.pods },
            tolerances: tolerances(self.spec()),
            now: self.now,
        };
        let mut answers = self.inputs.facts.metrics.iter();
        let mut answer = |spec| {
            let answer: Option<&Result<Numbers, String>> = answers.next();
            let answer = answer.map_or(Err("nobody was asked"), |answer| answer.as_ref().map_err(String::as_str));
            judge(&with, spec, answer)
        };
        self.spec().metrics.iter().flatten().map(&mut answer).collect()
    }

    /// Reason of the condition, text of the event, text of the condition.
    fn check_selector(&self, selector: &str) -> Result<(), (&'static str, String, String)> {
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err(("InvalidSelector", "selector is required".to_owned(), message));
        }
        if let Err(why) = Selector::parse(selector) {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {why}");
            return Err(("InvalidSelector", text.clone(), text));
        }
        if self.inputs.rivals.len() > 1 {
            let show = |rival: &NamespacedName| format!("{{{} {}}}", rival.name, rival.namespace);
            let rivals = self.inputs.rivals.iter().take(2).map(show).collect::<Vec<_>>().join(" ");
            let text = format!("pods by selector {selector} are controlled by more than one HPA (e.g. [{rivals}])");
            return Err(("AmbiguousSelector", text.clone(), text));
        }
        Ok(())
    }
}

/// Upstream's events about selectors are called as their conditions, but for one.
fn reason_of_event(reason: &'static str, event: &str) -> &'static str {
    if event == "selector is required" { "SelectorRequired" } else { reason }
}

/// Whether something is measured that is there without pods.
fn has_outer_metrics(spec: &HorizontalPodAutoscalerSpec) -> bool {
    spec.metrics.iter().flatten().any(|metric| metric.object.is_some() || metric.external.is_some())
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let said = rules.and_then(|rules| rules.tolerance.as_ref()).and_then(|tolerance| Amount::parse(&tolerance.0));
        said.map_or(TOLERANCE, Amount::as_f64)
    };
    let behavior = spec.behavior.as_ref();
    let (down, up) = (behavior.and_then(|it| it.scale_down.as_ref()), behavior.and_then(|it| it.scale_up.as_ref()));
    Tolerances { down: of(down), up: of(up) }
}

fn set(status: &mut Status, (kind, holds, reason): (&str, bool, &str), message: String, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let at = conditions.iter().position(|one| one.type_ == kind).unwrap_or_else(|| {
        conditions.push(Condition { type_: kind.to_owned(), ..Condition::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[at];
    let word = if holds { "True" } else { "False" };
    if condition.status != word {
        condition.last_transition_time = Some(time(now));
    }
    word.clone_into(&mut condition.status);
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
}

/// See the module.
fn is_worth_writing(old: &Status, new: &Status, history: &History, now: Timestamp) -> bool {
    if old == new {
        return false;
    }
    let late = history.written.is_none_or(|at| after_seconds(at, PATIENCE) <= now);
    late || frame(old) != frame(new) || moved(old, new)
}

/// A status without what moves all the time.
fn frame(status: &Status) -> Status {
    let mut frame = Status { current_metrics: None, ..status.clone() };
    frame.conditions.iter_mut().flatten().for_each(|condition| condition.message = None);
    frame
}

/// Whether a metric came, went or moved by more than a share of itself.
fn moved(old: &Status, new: &Status) -> bool {
    let (old, new) = (old.current_metrics.as_deref().unwrap_or(&[]), new.current_metrics.as_deref().unwrap_or(&[]));
    old.len() != new.len() || old.iter().zip(new).any(|(old, new)| has_moved(old, new))
}

fn has_moved(old: &MetricStatus, new: &MetricStatus) -> bool {
    let (Some(before), Some(after)) = (current(old), current(new)) else { return true };
    let amounts = |value: &MetricValueStatus| {
        let amount = value.average_value.as_ref().or(value.value.as_ref()).and_then(|it| Amount::parse(&it.0));
        [value.average_utilization.map(f64::from), amount.map(Amount::as_f64)]
    };
    amounts(before).iter().zip(amounts(after)).any(|(before, after)| match (before, after) {
        (None, None) => false,
        (Some(before), Some(after)) => (after - before).abs() > before.abs() * SHARE,
        _ => true,
    })
}

fn current(status: &MetricStatus) -> Option<&MetricValueStatus> {
    let resource = status.resource.as_ref().map(|it| &it.current);
    let container = status.container_resource.as_ref().map(|it| &it.current);
    let inner = resource.or(container).or(status.pods.as_ref().map(|it| &it.current));
    inner.or(status.object.as_ref().map(|it| &it.current)).or(status.external.as_ref().map(|it| &it.current))
}
