//! One pass over the pods of a StatefulSet.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet};
use k8s_openapi::api::core::v1::Pod;

use super::{COMPONENT, View, identity};
use crate::action::{Action, Announce, DeleteHow, EventRecord, Plan, delete, reference};
use crate::object::{deleting, name};
use crate::pod;

/// Most pods created by one plan.
pub(super) const BURST: usize = 500;

/// The numbers of the pods that a set should have.
pub(super) fn ordinals(set: &StatefulSet) -> std::ops::Range<i64> {
    let start = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let start = i64::from(start);
    start..start + i64::from(set.spec.replicas.unwrap_or(1).max(0))
}

/// One plan in the making.
pub(super) struct Work<'a> {
    pub view: &'a View,
    /// Its pods, by number.
    pub pods: BTreeMap<i64, &'a Pod>,
    /// Its revisions, oldest first.
    pub revisions: &'a [&'a Arc<ControllerRevision>],
    /// The revision of its template.
    pub update: &'a ControllerRevision,
    /// The revision that a rollout began with.
    pub current: &'a ControllerRevision,
    now: Timestamp,
    /// What is to be done, in this order: who owns claims is written before their pods go, and pods whose claims are
    /// there do not wait for claims that are refused.
    pub patches: Vec<Action>,
    deletions: Vec<Action>,
    pub creations: Vec<Action>,
    pub claims: Vec<Action>,
    events: Vec<Action>,
    wake: Option<Timestamp>,
}

impl<'a> Work<'a> {
    pub fn new(
        view: &'a View,
        pods: &[&'a Arc<Pod>],
        revisions: &'a [&'a Arc<ControllerRevision>],
        update: &'a Arc<ControllerRevision>,
        now: Timestamp,
    ) -> Self {
        let by_number = |pod: &'a Pod| Some((identity::ordinal(&view.set, pod)?, pod));
        let said = view.set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = revisions.iter().find(|revision| Some(name(&revision.metadata)) == said).copied();
        Self {
            view,
            pods: pods.iter().copied().map(Arc::as_ref).filter_map(by_number).collect(),
            revisions,
            update,
            current: current.unwrap_or(update),
            now,
            patches: Vec::new(),
            deletions: Vec::new(),
            creations: Vec::new(),
            claims: Vec::new(),
            events: Vec::new(),
            wake: None,
        }
    }

    /// Everything at once: what is done, what the set says of itself, what history is dropped.
    pub fn plan(mut self) -> Plan {
        let set = self.view.set.as_ref();
        let min_ready = self.min_ready();
        let coming = self.pods.values().filter_map(|pod| pod::available_at(pod, min_ready));
        self.wake = coming.filter(|at| *at > self.now).min();
        let gone = deleting(&set.metadata);
        let why = if gone { "it is being deleted" } else { self.turn() };
        let mut actions = std::mem::take(&mut self.patches);
        actions.append(&mut self.deletions);
        actions.append(&mut self.creations);
        actions.append(&mut self.claims);
        actions.extend(self.write_status());
        if !gone {
            actions.extend(self.trim_history());
        }
        actions.append(&mut self.events);
        Plan { actions, wake: self.wake, why }
    }

    fn turn(&mut self) -> &'static str {
        if let Some(why) = if self.parallel() { self.tend_all() } else { self.tend_in_order() } {
            return why;
        }
        if let Some(why) = self.shrink() {
            return why;
        }
        if self.on_delete() { "pods are replaced when somebody deletes them" } else { self.roll() }
    }

    /// Each pod in turn; the first that is not there or not available holds the rest.
    fn tend_in_order(&mut self) -> Option<&'static str> {
        for ordinal in ordinals(&self.view.set) {
            let Some(pod) = self.pods.get(&ordinal).copied() else {
                self.make(ordinal);
                return Some("pods are made in order");
            };
            if let Some(why) = self.tend(pod, ordinal) {
                return Some(why);
            }
        }
        None
    }

    fn tend_all(&mut self) -> Option<&'static str> {
        let wanted = ordinals(&self.view.set);
        let there: Vec<(i64, &Pod)> = self.pods.range(wanted.clone()).map(|(ordinal, pod)| (*ordinal, *pod)).collect();
        for (ordinal, pod) in there {
            self.tend(pod, ordinal);
        }
        let missing: Vec<i64> = wanted.filter(|ordinal| !self.pods.contains_key(ordinal)).take(BURST).collect();
        missing.into_iter().for_each(|ordinal| self.make(ordinal));
        None
    }

    /// Keeps a pod that is there as it should be. Says why those after it have to wait, in an ordered set.
    fn tend(&mut self, pod: &Pod, ordinal: i64) -> Option<&'static str> {
        let going = deleting(&pod.metadata);
        if pod::finished(pod) {
            if !going {
                self.delete(pod);
            }
            return Some("a pod that ended is replaced");
        }
        if !going {
            self.settle_claims(pod, ordinal, false);
            self.label(pod, ordinal);
        }
        if going {
            Some("a pod is on its way out")
        } else if !self.running(pod) {
            Some("a pod is not ready yet")
        } else if !self.available(pod) {
            Some("a pod is not available yet")
        } else {
            None
        }
    }

    pub fn delete(&mut self, pod: &Pod) {
        self.deletions.push(delete(pod, DeleteHow::default(), Some(self.announce("delete"))));
    }

    pub fn announce(&self, verb: &str) -> Announce {
        let (done, failed) = match verb {
            "create" => (
                ("SuccessfulCreate", "create Pod {object} in StatefulSet {owner} successful"),
                ("FailedCreate", "create Pod {object} in StatefulSet {owner} failed error: {error}"),
            ),
            _ => (
                ("SuccessfulDelete", "delete Pod {object} in StatefulSet {owner} successful"),
                ("FailedDelete", "delete Pod {object} in StatefulSet {owner} failed error: {error}"),
            ),
        };
        Announce { regarding: reference(self.view.set.as_ref()), component: COMPONENT, done, failed }
    }

    pub fn warn(&mut self, reason: &str, message: String) {
        let regarding = reference(self.view.set.as_ref());
        self.events.push(Action::Event(EventRecord::warning(regarding, COMPONENT, reason, message)));
    }

    pub fn limits(&self) -> Option<&'a RollingUpdateStatefulSetStrategy> {
        self.view.set.spec.update_strategy.as_ref()?.rolling_update.as_ref()
    }

    fn strategy(&self) -> &str {
        let strategy = self.view.set.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate")
    }

    pub fn rolling(&self) -> bool {
        self.strategy() == "RollingUpdate"
    }

    fn on_delete(&self) -> bool {
        self.strategy() == "OnDelete"
    }

    pub fn parallel(&self) -> bool {
        self.view.set.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    pub fn wanted(&self) -> i32 {
        self.view.set.spec.replicas.unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.view.set.spec.min_ready_seconds.unwrap_or(0)
    }

    /// Whether a pod runs and serves.
    pub fn running(&self, pod: &Pod) -> bool {
        pod::phase(pod) == "Running" && pod::ready(pod)
    }

    /// Whether it has served for long enough.
    pub fn available(&self, pod: &Pod) -> bool {
        pod::available_at(pod, self.min_ready()).is_some_and(|at| at <= self.now)
    }

    pub fn unavailable(&self, pod: &Pod) -> bool {
        deleting(&pod.metadata) || !self.running(pod) || !self.available(pod)
    }
}
