//! StatefulSet: pods with names that stay, each with its own volumes, made and replaced in order.
//!
//! Invariants
//! - There is at most one pod of a number: names are fixed, so the API itself refuses a second one, and a pod that is
//!   on its way out is waited for.
//! - `OrderedReady`: a pod is made only once all before it are available, and at most one goes at a time, the last
//!   first. `Parallel` does not wait.
//! - A pod below the partition is made from the current revision, whatever is newer.
//! - Claims come before the pods that use them; owners that let claims go are written before their pods are deleted.
//!
//! As upstream's `pkg/controller/statefulset/stateful_set_control.go`: a pod that never becomes ready holds an ordered
//! set, also when a newer template would repair it.
//!
//! `identity` says who a pod is, `claims` what volumes it has, `turn` goes over the pods, `make` and `rollout` say what
//! comes and what goes, `status` what the set says of itself.

mod claims;
mod concerned;
mod identity;
mod make;
mod rollout;
mod status;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::history::{self, Current, Wanted};
use super::managed::claim;
use crate::action::{Plan, patch_to};
use crate::object::{deleting, labels};
use crate::selection::Selects as _;
pub use concerned::by_claim;
use turn::Work;

const COMPONENT: &str = "statefulset-controller";
const REVISION_LABEL: &str = "controller.kubernetes.io/hash";

/// What a plan is made from.
pub struct View {
    /// The set.
    pub set: Arc<StatefulSet>,
    /// The pods of its namespace that it manages, and those that nobody manages.
    pub pods: Vec<Arc<Pod>>,
    /// The same for revisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The revision, whosever, that has the name that the one of its template would get ([`revision_name`]).
    pub namesake: Option<Arc<ControllerRevision>>,
    /// Those of the claims that its pods use ([`claim_names`]) that are there, by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// The name that a new revision of the set's template would get.
#[must_use]
pub fn revision_name(set: &StatefulSet) -> String {
    history::name_of(&set.metadata, &set.spec.template, collisions(set))
}

/// The names of the claims that a plan may look at: those of `pods`, and of the pods that it may make.
#[must_use]
pub fn claim_names(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
    if claims::templates(set).next().is_none() {
        return Vec::new();
    }
    let mut ordinals: Vec<i64> = pods.iter().filter_map(|pod| identity::ordinal(set, pod)).collect();
    let missing: Vec<i64> =
        turn::ordinals(set).filter(|ordinal| !ordinals.contains(ordinal)).take(turn::BURST).collect();
    ordinals.extend(missing);
    let of = |ordinal: i64| claims::templates(set).map(move |template| claims::name_of(set, template, ordinal));
    ordinals.into_iter().flat_map(of).collect()
}

fn collisions(set: &StatefulSet) -> Option<i32> {
    set.status.as_ref().and_then(|status| status.collision_count)
}

/// Decides the next writes for one set.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let set = view.set.as_ref();
    let Some(selector) = set.selector().filter(|selector| !selector.is_empty()) else {
        return Plan::rest("its selector selects nothing");
    };
    let selects = |meta: &ObjectMeta| selector.matches(&labels(meta));
    let (revisions, mut actions) = claim(set, &view.revisions, |revision| selects(&revision.metadata));
    let member = |pod: &Pod| identity::ordinal(set, pod).is_some() && selects(&pod.metadata);
    let (pods, more) = claim(set, &view.pods, member);
    actions.extend(more);
    if !actions.is_empty() {
        return Plan::new("pods or revisions change their manager", actions);
    }
    let revisions = history::sorted(revisions);
    let wanted = Wanted {
        template: &set.spec.template,
        collisions: collisions(set),
        label: REVISION_LABEL,
        namesake: view.namesake.as_deref(),
        namespace_terminating: view.namespace_terminating,
    };
    match history::current(set, &revisions, &wanted) {
        Current::Is(update) => Work::new(view, &pods, &revisions, update, now).plan(),
        _ if deleting(&set.metadata) => Plan::rest("it is being deleted"),
        Current::Needs(action) => Plan::new("its template has no revision yet", vec![action]),
        Current::Clash => count_clash(set),
        Current::Never => Plan::rest("its namespace is terminating"),
    }
}

fn count_clash(set: &StatefulSet) -> Plan {
    let old = set.status.clone().unwrap_or_default();
    let status = StatefulSetStatus { collision_count: Some(old.collision_count.unwrap_or(0).saturating_add(1)), ..old };
    let counted = StatefulSet { status: Some(status), ..set.clone() };
    Plan::new("another revision has its name", patch_to(set, &counted, Some("status")).into_iter().collect())
}
