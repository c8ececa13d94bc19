//! Deployment: moves pods from one template to the next through ReplicaSets, as upstream's
//! controller does, number by number.
//!
//! Invariants
//! - A ReplicaSet is the one of a template if the templates are equal; hashes only make names.
//! - Each plan writes each object at most once. What has to wait for that write follows in the
//!   plan that the write itself causes.
//! - Sizes follow from specs and statuses alone, so any leader continues any rollout.
//!
//! `set` keeps ReplicaSets and revisions, `rollout` decides sizes, `gate` how far it may go where a rollout stops at steps,
//! `sample` what a metric says of that, `status` the conditions.

mod concerned;
mod gate;
#[cfg(test)]
mod gate_tests;
mod rollout;
mod sample;
mod set;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kontiki_model::selector::Selector;

use super::intstr::{Round, scaled};
use super::managed::claim;
use crate::action::{Action, EventRecord, Patch, Plan, patch_to, reference};
use crate::object::{self, created, deleting, labels, name};
pub use concerned::{by_pod, by_set};
use gate::Bound;
use kontiki_model::rollout::Settings;
pub use sample::{Question, Sample, Verdict, is_measured, question};
use set::Set;
pub use set::name_of as set_name;

const COMPONENT: &str = "deployment-controller";

/// What a plan is made from.
pub struct View {
    /// The deployment.
    pub deployment: Arc<Deployment>,
    /// The ReplicaSets that it manages, and those of its namespace that nobody manages.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The ReplicaSet, whosever, that has the name that the one of its template would get ([`set_name`]).
    pub namesake: Option<Arc<ReplicaSet>>,
    /// The pods of the ReplicaSets that it manages; only a recreation looks at them.
    pub pods: Vec<Arc<Pod>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
    /// What the metric of its rollout was when it was asked for last.
    pub sample: Option<Sample>,
}

/// Decides the next writes for one deployment.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let spec = &view.deployment.spec;
    let Some(selector) = Selector::from_spec(&spec.selector).filter(|selector| !selector.is_empty()) else {
        return Plan::rest("its selector selects nothing");
    };
    // With patches to do, nothing else is decided: a set that is adopted only now may be the one wanted.
    let (sets, claims) = claim(view.deployment.as_ref(), &view.sets, |set| selector.matches(&labels(&set.metadata)));
    if !claims.is_empty() {
        return Plan::new("ReplicaSets change their manager", claims);
    }
    let sets = sets.into_iter().cloned().collect();
    let mut work = Work::new(view, spec, sets, now);
    let why = work.turn();
    work.finish(why)
}

/// One plan in the making: the deployment and its sets as they will be.
struct Work<'a> {
    view: &'a View,
    spec: &'a DeploymentSpec,
    now: Timestamp,
    /// As it will be.
    deployment: Deployment,
    /// Oldest first.
    sets: Vec<Set>,
    /// Index of the set of the current template.
    new: Option<usize>,
    settings: Result<Option<Settings>, String>,
    /// The set to go back to; that of the template was refused.
    back: Option<usize>,
    /// The set that the rollout began with: it shrinks last.
    stable: Option<usize>,
    /// How far the rollout may go.
    bound: Bound,
    /// It is held at a step.
    gated: bool,
    /// Why it goes no further.
    blame: Option<String>,
    actions: Vec<Action>,
    events: Vec<EventRecord>,
    wake: Option<Timestamp>,
}

impl<'a> Work<'a> {
    fn new(view: &'a View, spec: &'a DeploymentSpec, mut sets: Vec<Arc<ReplicaSet>>, now: Timestamp) -> Self {
        sets.sort_by(|a, b| {
            let key = |set: &Arc<ReplicaSet>| (created(&set.metadata), name(&set.metadata).to_owned());
            key(a).cmp(&key(b))
        });
        let new = sets.iter().position(|set| set::same_template(spec, set));
        let sets = sets.into_iter().map(Set::new).collect();
        let deployment = view.deployment.as_ref().clone();
        Self {
            view,
            spec,
            now,
            settings: gate::settings(&deployment),
            deployment,
            sets,
            new,
            back: None,
            stable: None,
            bound: Bound { new: replicas(spec), others: 0 },
            gated: false,
            blame: None,
            actions: Vec::new(),
            events: Vec::new(),
            wake: None,
        }
    }

    /// One pass. Says what decided.
    fn turn(&mut self) -> &'static str {
        if deleting(&self.view.deployment.metadata) {
            self.sync_status(false);
            return "it is being deleted";
        }
        self.note_pause();
        self.remember();
        self.complain();
        let (paused, odd) = (self.spec.paused == Some(true), self.settings.is_err());
        if paused || odd || self.rescaled() {
            return self.stand_still(paused, odd);
        }
        let why = if rolling(self.spec) { self.roll() } else { self.recreate() };
        self.sync_status(true);
        why
    }

    /// One pass without a rollout: sizes only.
    fn stand_still(&mut self, paused: bool, odd: bool) -> &'static str {
        self.sync_revisions(false);
        self.scale();
        if paused {
            self.stop_clock();
            self.clean_up();
        }
        self.sync_status(false);
        match (paused, odd) {
            (true, _) => "it is paused",
            (_, true) => "the settings of its rollout cannot be meant",
            _ => "its size changed",
        }
    }

    /// One pass of a rolling update. A pass that grew the new set does not shrink the others.
    fn roll(&mut self) -> &'static str {
        if !self.sync_revisions(true) {
            return self.without_set();
        }
        if self.gate() {
            return "its rollout is refused";
        }
        if self.grow_new() {
            return "the new ReplicaSet is resized";
        }
        if self.shrink_old() {
            return "old ReplicaSets shrink";
        }
        match (self.blame.is_some(), self.gated) {
            (true, _) => "its rollout was refused",
            (_, true) => "its rollout is held at a step",
            _ => self.complete_or_wait(),
        }
    }

    /// One pass of a recreation: nothing new before everything old is gone.
    fn recreate(&mut self) -> &'static str {
        self.sync_revisions(false);
        if self.drop_old() || self.old_pods_left() {
            return "old pods end first";
        }
        if !self.sync_revisions(true) {
            return self.without_set();
        }
        if let Some(new) = self.new {
            self.resize(new, replicas(self.spec));
        }
        self.complete_or_wait()
    }

    fn complete_or_wait(&mut self) -> &'static str {
        if !self.complete_now() {
            return "its rollout waits for pods";
        }
        self.clean_up();
        "its rollout is complete"
    }

    fn without_set(&self) -> &'static str {
        if self.view.namespace_terminating {
            "its namespace is terminating"
        } else {
            "its template has no ReplicaSet yet"
        }
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    fn note(&mut self, reason: &str, message: String) {
        self.events.push(EventRecord::normal(reference(self.view.deployment.as_ref()), COMPONENT, reason, message));
    }

    fn finish(mut self, why: &'static str) -> Plan {
        let mut actions: Vec<Action> = self.sets.iter().filter_map(Set::patch).collect();
        actions.append(&mut self.actions);
        actions.extend(self.write_deployment());
        actions.extend(self.events.into_iter().map(Action::Event));
        Plan { actions, wake: self.wake, why }
    }

    /// Status and revision annotation go through one write of the status: it does not count as a
    /// change of what people asked for, so the generation stays.
    fn write_deployment(&self) -> Option<Action> {
        let old = self.view.deployment.as_ref();
        let same_status = status::same(old.status.as_ref(), self.deployment.status.as_ref());
        if same_status && old.metadata == self.deployment.metadata {
            return None;
        }
        patch_to(old, &self.deployment, Some("status"))
    }
}

/// Whether all its old pods end before the first new one begins.
#[must_use]
pub fn recreates(deployment: &Deployment) -> bool {
    !rolling(&deployment.spec)
}

fn rolling(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

/// How far a rollout may go above and below the wanted number.
struct RollingLimits {
    surge: i32,
    unavailable: i32,
}

fn limits(spec: &DeploymentSpec) -> RollingLimits {
    if !rolling(spec) {
        return RollingLimits { surge: 0, unavailable: 0 };
    }
    let want = replicas(spec);
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter), want, Round::Up);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
    let unavailable = scaled(unavailable, want, Round::Down);
    if surge == 0 && unavailable == 0 {
        // Nothing could ever move; that happens when percentages round to zero.
        return RollingLimits { surge: 0, unavailable: 1.min(want) };
    }
    RollingLimits { surge, unavailable: unavailable.min(want) }
}

/// Attaches an event to a patch, recorded once the patch is done.
fn announced(action: Action, event: Option<EventRecord>) -> Action {
    match action {
        Action::Patch(patch) => Action::Patch(Patch { announce: event, ..patch }),
        other => other,
    }
}

fn annotation_number(set: &ReplicaSet, key: &str) -> Option<i64> {
    object::annotation(&set.metadata, key)?.parse().ok()
}
