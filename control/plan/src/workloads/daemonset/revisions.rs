//! Which revision is the current one, and what has to be written before that can be said.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{View, collisions};
use crate::action::{Action, DeleteHow, Kind, Plan, delete, patch, patch_to};
use crate::object::{after_seconds, created, deleting, label, name};
use crate::workloads::history::{self, Current, POD_LABEL, Wanted};

/// How long two revisions of one template are left alone: whoever made the second may be about to delete the first.
const PATIENCE_SECONDS: i64 = 5;

/// What is known of the revisions of a set.
pub(super) struct Known<'a> {
    /// The label of pods that are made now.
    pub hash: &'a str,
    /// The labels of pods that hold the current template.
    pub equal: BTreeSet<&'a str>,
    /// The other revisions, oldest first.
    pub old: Vec<&'a Arc<ControllerRevision>>,
    /// When revisions of one template become one.
    pub wake: Option<Timestamp>,
}

/// What a plan goes on with.
pub(super) enum Revision<'a> {
    /// It is there.
    Is(Known<'a>),
    /// This comes first.
    First(Plan),
}

/// Looks for the current one among the `sorted` revisions.
pub(super) fn current<'a>(
    view: &'a View,
    sorted: &[&'a Arc<ControllerRevision>],
    pods: &[&Arc<Pod>],
    now: Timestamp,
) -> Revision<'a> {
    let set = view.set.as_ref();
    let nameless: Vec<Action> = sorted.iter().filter(|revision| hash(revision).is_none()).map(|r| name_it(r)).collect();
    if !nameless.is_empty() {
        return Revision::First(Plan::new("revisions get their label", nameless));
    }
    let wanted = Wanted {
        template: &set.spec.template,
        collisions: collisions(set),
        label: POD_LABEL,
        namesake: view.namesake.as_deref(),
        namespace_terminating: view.namespace_terminating,
    };
    let found = match history::current(set, sorted, &wanted) {
        Current::Is(found) => found,
        Current::Needs(action) => return Revision::First(Plan::new("its template has no revision yet", vec![action])),
        Current::Clash => return Revision::First(count_clash(set)),
        Current::Never => return Revision::First(Plan::rest("its namespace is terminating")),
    };
    let equal = history::equal(sorted, &set.spec.template);
    let doubles: Vec<&ControllerRevision> = equal
        .iter()
        .copied()
        .filter(|other| !Arc::ptr_eq(other, found) && !deleting(&other.metadata))
        .map(Arc::as_ref)
        .collect();
    let due = doubles.iter().map(|double| created(&double.metadata)).chain([created(&found.metadata)]).max();
    let due = due.filter(|_| !doubles.is_empty()).map(|last| after_seconds(last, PATIENCE_SECONDS));
    let label = hash(found).unwrap_or_default();
    if due.is_some_and(|due| due <= now) {
        return Revision::First(merge(&doubles, label, pods));
    }
    let is_equal = |other: &Arc<ControllerRevision>| equal.iter().any(|found| Arc::ptr_eq(found, other));
    Revision::Is(Known {
        hash: label,
        equal: equal.iter().copied().filter_map(|revision| hash(revision)).collect(),
        old: sorted.iter().copied().filter(|other| !is_equal(other)).collect(),
        wake: due,
    })
}

fn hash(revision: &ControllerRevision) -> Option<&str> {
    label(&revision.metadata, POD_LABEL)
}

fn name_it(revision: &ControllerRevision) -> Action {
    relabel(revision, name(&revision.metadata))
}

fn relabel<K: Kind>(object: &K, hash: &str) -> Action {
    patch(object, None, json!({"metadata": {"labels": {POD_LABEL: hash}}}))
}

/// Revisions of one template become one: the pods of the others are its own from now on.
fn merge(doubles: &[&ControllerRevision], hash: &str, pods: &[&Arc<Pod>]) -> Plan {
    let others: BTreeSet<&str> = doubles.iter().filter_map(|double| self::hash(double)).collect();
    let theirs = pods.iter().filter(|pod| label(&pod.metadata, POD_LABEL).is_some_and(|own| others.contains(own)));
    let theirs = theirs.filter(|pod| label(&pod.metadata, POD_LABEL) != Some(hash));
    let mut actions: Vec<Action> = theirs.map(|pod| relabel(pod.as_ref(), hash)).collect();
    actions.extend(doubles.iter().map(|double| delete(*double, DeleteHow::default(), None)));
    Plan::new("revisions of one template become one", actions)
}

fn count_clash(set: &DaemonSet) -> Plan {
    let old = set.status.clone().unwrap_or_default();
    let status = DaemonSetStatus { collision_count: Some(old.collision_count.unwrap_or(0).saturating_add(1)), ..old };
    let counted = DaemonSet { status: Some(status), ..set.clone() };
    Plan::new("another revision has its name", patch_to(set, &counted, Some("status")).into_iter().collect())
}
