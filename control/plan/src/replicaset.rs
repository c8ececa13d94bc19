//! ReplicaSet: as many pods as asked for.
//!
//! Invariants
//! - Only pods that the set manages count. Strangers that match are adopted, pods that no longer
//!   match are let go.
//! - A pod that is going away does not count, so its replacement does not wait for its end.
//! - The order in which surplus pods go is total, so two plans of one view name the same pods.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kontiki_model::selector::Selector;

use crate::action::{Action, Announce, DeleteHow, Plan, create, delete, patch_to, reference};
use crate::object::{self, adopt, annotation, controlled_by, controller, created, deleting, labels, release, uid};
use crate::pod;

/// Most pods created or deleted by one plan.
const BURST: usize = 500;
const COMPONENT: &str = "replicaset-controller";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What a plan is made from.
pub struct View<'a> {
    /// The set.
    pub set: &'a ReplicaSet,
    /// The pods of its namespace that match its selector or name it as their manager; others are
    /// ignored.
    pub pods: &'a [Arc<Pod>],
    /// Active pods of sets with the same manager, per node: where the workload crowds.
    pub crowding: HashMap<String, usize>,
    /// What went wrong when the last plan was carried out.
    pub failure: Option<Failure>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_going: bool,
}

/// A creation or deletion that the API refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What the API said.
    pub message: String,
}

/// Decides the next writes for one set.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let Some(selector) = Selector::from_spec(&view.set.spec.selector) else {
        return Plan::default();
    };
    let (pods, claims) = claim(view, &selector);
    let mut plan = Plan::now(claims);
    if !deleting(&view.set.metadata) {
        plan.actions.extend(scale(view, &pods, now));
    }
    plan.extend(status(view, &selector, &pods, now));
    plan
}

/// The active pods that belong to the set, and the patches that make or end that.
fn claim<'a>(view: &View<'a>, selector: &Selector) -> (Vec<&'a Pod>, Vec<Action>) {
    let (mut mine, mut actions) = (Vec::new(), Vec::new());
    let gone = deleting(&view.set.metadata);
    for pod in view.pods.iter().map(Arc::as_ref).filter(|pod| pod::active(pod)) {
        let matches = selector.matches(&labels(&pod.metadata));
        match controller(&pod.metadata) {
            Some(owner) if owner.uid != uid(&view.set.metadata) => {}
            Some(_) if matches => mine.push(pod),
            Some(_) if !gone => actions.push(release(pod, uid(&view.set.metadata))),
            None if matches && !gone => {
                actions.push(adopt(pod, view.set));
                mine.push(pod);
            }
            _ => {}
        }
    }
    (mine, actions)
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.replicas.unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

fn scale(view: &View<'_>, pods: &[&Pod], now: Timestamp) -> Vec<Action> {
    let want = wanted(view.set);
    if pods.len() < want {
        if view.namespace_going {
            return Vec::new();
        }
        let template = view.set.spec.template.clone().unwrap_or_default();
        let pod = create(&pod::from_template(&template, view.set), Some(announce(view.set)));
        return vec![pod; (want - pods.len()).min(BURST)];
    }
    let mut surplus = pods.to_vec();
    surplus.sort_by_cached_key(|pod| rank(pod, &view.crowding, now));
    surplus.truncate((pods.len() - want).min(BURST));
    surplus.iter().map(|pod| delete(*pod, DeleteHow::default(), Some(announce_deletion(view.set)))).collect()
}

fn announce(set: &ReplicaSet) -> Announce {
    Announce {
        regarding: reference(set),
        component: COMPONENT,
        done: ("SuccessfulCreate", "Created pod: "),
        failed: ("FailedCreate", "Error creating: "),
    }
}

fn announce_deletion(set: &ReplicaSet) -> Announce {
    Announce {
        done: ("SuccessfulDelete", "Deleted pod: "),
        failed: ("FailedDelete", "Error deleting: "),
        ..announce(set)
    }
}

/// Who goes first: the least of these. As upstream: unassigned before assigned, pending before
/// running, not ready before ready, cheap before dear, crowded before lonely, ready for a short
/// while before ready for long, often restarted before steady, young before old. Ages count in
/// powers of two, so that victims spread over pods of about the same age; the uid decides the rest.
type Rank = (bool, u8, bool, i32, Reverse<usize>, i32, Reverse<i32>, i32, String);

fn rank(pod: &Pod, crowding: &HashMap<String, usize>, now: Timestamp) -> Rank {
    let node = pod::node(pod);
    let phase = match pod::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let crowd = node.and_then(|node| crowding.get(node)).copied().unwrap_or(0);
    (
        node.is_some(),
        phase,
        pod::ready(pod),
        cost,
        Reverse(crowd),
        pod::ready_since(pod).map_or(-1, |since| age(since, now)),
        Reverse(pod::restarts(pod)),
        age(created(&pod.metadata), now),
        uid(&pod.metadata).to_owned(),
    )
}

/// The power of two that an age falls into; -1 for no age at all.
fn age(since: Timestamp, now: Timestamp) -> i32 {
    let nanoseconds = now.as_nanosecond().saturating_sub(since.as_nanosecond());
    if nanoseconds <= 0 { -1 } else { nanoseconds.ilog2().cast_signed() }
}

/// The status patch, if the status changed, and the time at which a pod will become available.
fn status(view: &View<'_>, selector: &Selector, pods: &[&Pod], now: Timestamp) -> Plan {
    let set = view.set;
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let available: Vec<Timestamp> = pods.iter().filter_map(|pod| pod::available_at(pod, min_ready)).collect();
    let old = set.status.clone().unwrap_or_default();
    let new = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: some(fully_labeled(set, pods)),
        ready_replicas: some(pods.iter().filter(|pod| pod::ready(pod)).count()),
        available_replicas: some(available.iter().filter(|at| **at <= now).count()),
        terminating_replicas: Some(count(terminating(view, selector))),
        observed_generation: set.metadata.generation,
        conditions: conditions(view, &old, pods.len(), now),
    };
    let mut plan = Plan::default();
    if let Some(next) = available.into_iter().filter(|at| *at > now).min() {
        plan.wake_at(next);
    }
    if !same(&old, &new) {
        let next = ReplicaSet { status: Some(new), ..set.clone() };
        plan.actions.extend(patch_to(set, &next, Some("status")));
    }
    plan
}

/// The API leaves zeros out in some places and not in others; they mean the same.
fn same(old: &ReplicaSetStatus, new: &ReplicaSetStatus) -> bool {
    let zero = |number: Option<i32>| number.unwrap_or(0);
    old.replicas == new.replicas
        && zero(old.fully_labeled_replicas) == zero(new.fully_labeled_replicas)
        && zero(old.ready_replicas) == zero(new.ready_replicas)
        && zero(old.available_replicas) == zero(new.available_replicas)
        && old.terminating_replicas == new.terminating_replicas
        && old.observed_generation == new.observed_generation
        && old.conditions.as_deref().unwrap_or_default() == new.conditions.as_deref().unwrap_or_default()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Zero is left out, as upstream leaves it out.
fn some(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

fn fully_labeled(set: &ReplicaSet, pods: &[&Pod]) -> usize {
    let template = set.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let wanted = Selector::from_map(&template.map(labels).unwrap_or_default());
    pods.iter().filter(|pod| wanted.matches(&labels(&pod.metadata))).count()
}

fn terminating(view: &View<'_>, selector: &Selector) -> usize {
    let leaving = |pod: &&Arc<Pod>| {
        deleting(&pod.metadata)
            && !pod::finished(pod)
            && controlled_by(&pod.metadata, uid(&view.set.metadata))
            && selector.matches(&labels(&pod.metadata))
    };
    view.pods.iter().filter(leaving).count()
}

fn is_failure(condition: &ReplicaSetCondition) -> bool {
    condition.type_.as_deref() == Some("ReplicaFailure")
}

/// `ReplicaFailure` stands while the last creation or deletion failed and is still needed.
fn conditions(
    view: &View<'_>,
    old: &ReplicaSetStatus,
    have: usize,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let failure = view.failure.as_ref().filter(|_| have != wanted(view.set));
    let current = conditions.iter().find(|c| is_failure(c));
    match (failure, current) {
        (Some(failure), Some(current)) if current.reason.as_deref() == Some(failure.reason) => {}
        (Some(failure), _) => {
            conditions.retain(|c| !is_failure(c));
            conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".into()),
                status: Some("True".into()),
                reason: Some(failure.reason.into()),
                message: Some(failure.message.clone()),
                last_transition_time: Some(object::time(now)),
            });
        }
        (None, _) => conditions.retain(|c| !is_failure(c)),
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, World, pods, replica_set, show};

    fn view<'a>(set: &'a ReplicaSet, pods: &'a [Arc<Pod>]) -> View<'a> {
        View { set, pods, crowding: HashMap::new(), failure: None, namespace_going: false }
    }

    /// `a` ready, `a!` not ready, `a~` going away, `a.` ended, `a?` nobody's, `a^` somebody else's,
    /// `a-` no longer matching.
    #[test]
    fn keeps_the_number() {
        for (name, want, have, expect) in [
            ("starts from nothing", 2, "", "+web- +web-"),
            ("leaves a full set alone", 2, "a b", ""),
            ("does not count a pod that is going away", 2, "a b~", "+web-"),
            ("does not count a pod that has ended", 2, "a b.", "+web-"),
            ("drops the pod that is not ready first", 1, "a b!", "-b"),
            ("adopts strangers that match", 2, "a b?", "patch b"),
            ("leaves pods of others alone", 1, "a b^", ""),
            ("lets go what no longer matches, and replaces it", 2, "a b-", "patch b +web-"),
            ("scales to nothing", 0, "a b!", "-b -a"),
        ] {
            let (set, pods) = (replica_set("web", want), pods("web", have));
            let plan = plan(&view(&set, &pods), NOW);
            let writes: Vec<Action> = plan.actions.into_iter().filter(|action| !is_status(action)).collect();
            assert_eq!(show(&writes), expect, "{name}");
        }
    }

    fn is_status(action: &Action) -> bool {
        matches!(action, Action::Patch(patch) if patch.subresource == Some("status"))
    }

    #[test]
    fn a_set_on_its_way_out_creates_nothing() {
        let mut set = replica_set("web", 3);
        set.metadata.deletion_timestamp = Some(object::time(NOW));
        let plan = plan(&view(&set, &pods("web", "a b?")), NOW);
        assert!(plan.actions.iter().all(is_status), "{}", show(&plan.actions));
    }

    #[test]
    fn a_namespace_on_its_way_out_gets_no_new_pods() {
        for (want, have, expect) in [(3, "a", ""), (1, "a b!", "-b")] {
            let (set, pods) = (replica_set("web", want), pods("web", have));
            let plan = plan(&View { namespace_going: true, ..view(&set, &pods) }, NOW);
            let writes: Vec<Action> = plan.actions.into_iter().filter(|action| !is_status(action)).collect();
            assert_eq!(show(&writes), expect, "{want} of {have}");
        }
    }

    #[test]
    fn a_refused_creation_shows_in_the_status_until_it_is_over() {
        let set = replica_set("web", 1);
        let failure = Some(Failure { reason: "FailedCreate", message: "no".into() });
        let failing = View { failure: failure.clone(), ..view(&set, &[]) };
        let shown = plan(&failing, NOW).actions.into_iter().find(is_status).map(|action| format!("{action:?}"));
        assert!(shown.is_some_and(|text| text.contains("ReplicaFailure")));
        let pods = pods("web", "a");
        let over = View { failure, ..view(&set, &pods) };
        assert!(!format!("{:?}", plan(&over, NOW).actions).contains("ReplicaFailure"));
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let mut set = replica_set("web", 1);
        set.spec.min_ready_seconds = Some(3600);
        let pods = pods("web", "a");
        let ready = pod::ready_since(&pods[0]).unwrap();
        assert_eq!(plan(&view(&set, &pods), NOW).wake, Some(after_seconds(ready, 3600)));
    }

    use crate::object::after_seconds;

    proptest! {
        #[test]
        fn reaches_its_number_and_rests(want in 0i32..12, have in 0usize..12, odd in "[ !~.?^-]{0,12}") {
            let names: String = (0..have).map(|n| {
                let mark = odd.chars().nth(n).filter(|c| *c != ' ').map(String::from).unwrap_or_default();
                format!("p{n}{mark} ")
            }).collect();
            let mut world = World::default();
            world.add(&replica_set("web", want));
            pods("web", &names).iter().for_each(|pod| world.add(pod.as_ref()));
            let rested = world.settle(8, |world| {
                let set: ReplicaSet = world.only();
                let pods = world.list::<Pod>();
                plan(&view(&set, &pods), NOW).actions
            });
            prop_assert!(rested, "{}", world.trace());
            let set: ReplicaSet = world.only();
            prop_assert_eq!(set.status.unwrap_or_default().replicas, want);
        }
    }
}
