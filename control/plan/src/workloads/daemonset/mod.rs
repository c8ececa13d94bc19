//! DaemonSet: a pod on each node that fits.
//!
//! Invariants
//! - A node has one pod of the set, and while the set surges two: one of an earlier revision and one of its own.
//! - A pod is bound by the scheduler, to the node that its affinity names.
//! - A pod of the current revision is never replaced for being old: a rollback leaves those alone that it meets.
//! - No more pods are taken down for an update than may be unavailable.
//!
//! As upstream's `pkg/controller/daemon`. `nodes` says which nodes fit, `manage` what each node needs, `rollout` what an
//! update replaces, `status` what the set says of itself, `failed` how soon failed pods are replaced.

mod concerned;
mod failed;
mod manage;
mod nodes;
mod revisions;
mod rollout;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::history;
use super::managed::claim;
use crate::action::{Action, DeleteHow, EventRecord, Plan, create, delete, reference};
use crate::object::{annotation, deleting, label, labels, name};
use crate::pod::{self, announce_creation, announce_deletion};
use crate::selection::Selects as _;
pub use concerned::by_node;
pub use failed::FailedPods;
use nodes::{Eligible, Verdict};
use revisions::{Known, Revision};

const COMPONENT: &str = "daemonset-controller";
const GENERATION_LABEL: &str = "pod-template-generation";
/// Most pods created, and most deleted, by one plan.
const BURST: usize = 250;

/// What a plan is made from.
pub struct View {
    /// The set.
    pub set: Arc<DaemonSet>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The pods of its namespace that it manages, and those that nobody manages.
    pub pods: Vec<Arc<Pod>>,
    /// The same for revisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The revision, whosever, that has the name that the one of its template would get ([`revision_name`]).
    pub namesake: Option<Arc<ControllerRevision>>,
    /// When failed pods may be replaced, by uid ([`FailedPods`]); one that is not there may be now.
    pub retry_at: HashMap<String, Timestamp>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// The name that a new revision of the set's template would get.
#[must_use]
pub fn revision_name(set: &DaemonSet) -> String {
    history::name_of(&set.metadata, &set.spec.template, collisions(set))
}

fn collisions(set: &DaemonSet) -> Option<i32> {
    set.status.as_ref().and_then(|status| status.collision_count)
}

/// How many templates the set has had, if that can be known.
fn template_generation(set: &DaemonSet) -> Option<String> {
    let count: i64 = annotation(&set.metadata, "deprecated.daemonset.template.generation")?.parse().ok()?;
    Some(count.to_string())
}

/// Decides the next writes for one set.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let set = view.set.as_ref();
    let Some(selector) = set.selector().filter(|selector| !selector.is_empty()) else {
        return Plan::rest("its selector selects nothing");
    };
    if deleting(&set.metadata) {
        // Its revisions may be gone before its pods: nothing can be said of them.
        return Plan::rest("it is being deleted");
    }
    let selects = |meta: &ObjectMeta| selector.matches(&labels(meta));
    let (revisions, mut actions) = claim(set, &view.revisions, |revision| selects(&revision.metadata));
    let (pods, more) = claim(set, &view.pods, |pod| selects(&pod.metadata));
    actions.extend(more);
    if !actions.is_empty() {
        return Plan::new("pods or revisions change their manager", actions);
    }
    let revisions = history::sorted(revisions);
    match revisions::current(view, &revisions, &pods, now) {
        Revision::Is(known) => Work::new(view, &pods, &known, now).plan(),
        Revision::First(plan) => plan,
    }
}

/// A node, what it means to the set, and the pods of the set that it has.
struct Place<'a> {
    node: &'a str,
    verdict: Verdict,
    pods: Vec<&'a Pod>,
}

/// One plan in the making.
struct Work<'a> {
    view: &'a View,
    set: &'a DaemonSet,
    revisions: &'a Known<'a>,
    now: Timestamp,
    /// By name of the node.
    places: Vec<Place<'a>>,
    /// Pods of nodes that are not there.
    elsewhere: Vec<&'a Pod>,
    doomed: Vec<&'a Pod>,
    wanting: Vec<&'a str>,
    events: Vec<Action>,
    wake: Option<Timestamp>,
}

impl<'a> Work<'a> {
    fn new(view: &'a View, pods: &[&'a Arc<Pod>], revisions: &'a Known<'a>, now: Timestamp) -> Self {
        let set = view.set.as_ref();
        // What has ended and is on its way out is nobody's pod any more.
        let over = |pod: &Pod| deleting(&pod.metadata) && pod::finished(pod);
        let mut by_node = nodes::by_node(pods.iter().copied().map(Arc::as_ref).filter(|pod| !over(pod)));
        let eligible = Eligible::new(set);
        let nodes: BTreeMap<&str, &Arc<Node>> = view.nodes.iter().map(|node| (name(&node.metadata), node)).collect();
        let places = nodes.into_iter().map(|(node, object)| {
            let pods = by_node.remove(node).unwrap_or_default();
            Place { node, verdict: eligible.verdict(object), pods }
        });
        let places = places.collect();
        let elsewhere = by_node.into_values().flatten().collect();
        let (doomed, wanting, events) = (Vec::new(), Vec::new(), Vec::new());
        Self { view, set, revisions, now, places, elsewhere, doomed, wanting, events, wake: revisions.wake }
    }

    /// Everything at once: what each node needs, and if that is nothing, what an update replaces.
    fn plan(mut self) -> Plan {
        self.manage();
        let mut why = "each node has what it needs";
        if !self.doomed.is_empty() || !self.wanting.is_empty() {
            why = "nodes need pods, or need them no longer";
        } else if self.rolling() {
            self.roll();
            if !self.doomed.is_empty() || !self.wanting.is_empty() {
                why = "pods of another revision are replaced";
            }
        }
        self.wake_for_availability();
        let set = self.set;
        let delete = |pod: &&Pod| delete(*pod, DeleteHow::default(), Some(announce_deletion(set, COMPONENT)));
        let mut actions: Vec<Action> = self.doomed.iter().take(BURST).map(delete).collect();
        if !self.view.namespace_terminating {
            let make = |node: &&str| {
                create(&nodes::make(set, self.revisions.hash, node), Some(announce_creation(set, COMPONENT)))
            };
            actions.extend(self.wanting.iter().take(BURST).map(make));
        }
        actions.extend(self.write_status());
        actions.extend(self.trim_history());
        actions.append(&mut self.events);
        Plan { actions, wake: self.wake, why }
    }

    fn wake_for_availability(&mut self) {
        let min_ready = self.min_ready();
        let pods = self.places.iter().flat_map(|place| &place.pods);
        let next = pods.filter_map(|pod| pod::available_at(pod, min_ready)).filter(|at| *at > self.now).min();
        if let Some(at) = next {
            self.wake_at(at);
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }

    fn tell(&mut self, warning: bool, reason: &str, message: String) {
        let event = EventRecord::normal(reference(self.set), COMPONENT, reason, message);
        self.events.push(Action::Event(EventRecord { warning, ..event }));
    }

    fn rolling(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy.is_none_or(|strategy| strategy == "RollingUpdate")
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn available(&self, pod: &Pod) -> bool {
        pod::available_at(pod, self.min_ready()).is_some_and(|at| at <= self.now)
    }

    /// Whether a pod was made from the current template.
    fn updated(&self, pod: &Pod) -> bool {
        let said = |key| label(&pod.metadata, key);
        let generation = template_generation(self.set);
        said(history::POD_LABEL).is_some_and(|hash| self.revisions.equal.contains(hash))
            || generation.is_some_and(|generation| said(GENERATION_LABEL) == Some(&generation))
    }

    /// Drops the oldest revisions beyond the limit that no pod was made from.
    fn trim_history(&self) -> Vec<Action> {
        let old = &self.revisions.old;
        let limit = self.set.spec.revision_history_limit.and_then(|limit| usize::try_from(limit).ok());
        let Some(surplus) = limit.map(|limit| old.len().saturating_sub(limit)).filter(|surplus| *surplus > 0) else {
            return Vec::new();
        };
        let pods = self.view.pods.iter();
        let live: Vec<&str> = pods.filter_map(|pod| label(&pod.metadata, history::POD_LABEL)).collect();
        let used = |revision: &ControllerRevision| {
            label(&revision.metadata, history::POD_LABEL).is_some_and(|hash| live.contains(&hash))
        };
        let unused: Vec<_> = old.iter().copied().filter(|revision| !used(revision)).collect();
        history::trim(&unused, surplus)
    }
}
