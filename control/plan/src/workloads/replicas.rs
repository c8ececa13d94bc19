//! As many pods as asked for, for every kind that asks for a number of them ([`Replicas`]).
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
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kontiki_model::selector::Selector;
use serde::Serialize;

use super::managed::claim;
use crate::action::{DeleteHow, Plan, Refusal, Verb, create, delete, patch_to};
use crate::object::{self, annotation, controlled_by, created, deleting, labels, uid};
use crate::pod::{self, announce_creation, announce_deletion};
use crate::selection::Selects;

/// Most pods created or deleted by one plan.
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A kind whose objects keep a number of pods. What they say of themselves is put as a ReplicaSet puts it.
pub trait Replicas: Selects + Clone + Serialize {
    /// Who speaks in its events.
    const COMPONENT: &'static str;

    /// How many pods it asks for.
    fn replicas(&self) -> i32;
    /// What its pods are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How long a pod has to be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// What it says of itself.
    fn status(&self) -> ReplicaSetStatus;
    /// Itself, saying `status`.
    #[must_use]
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

/// What a plan is made from.
pub struct View<S> {
    /// The set.
    pub set: Arc<S>,
    /// The pods of its namespace that match its selector or name it as their manager; others are
    /// ignored.
    pub pods: Vec<Arc<Pod>>,
    /// Active pods of related sets, per node; empty unless [`surplus`] says that it matters.
    pub related_per_node: HashMap<String, usize>,
    /// What went wrong when the last plan was carried out.
    pub failure: Option<ReplicaFailure>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// A creation or deletion that the API refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFailure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What the API said.
    pub message: String,
}

/// What a refused action means for the set's status.
#[must_use]
pub fn refused(refusal: &Refusal) -> Option<ReplicaFailure> {
    let reason = match refusal.verb {
        Verb::Create => "FailedCreate",
        Verb::Delete => "FailedDelete",
        Verb::Patch | Verb::PatchStatus | Verb::Finalize | Verb::Tell => return None,
    };
    Some(ReplicaFailure { reason, message: refusal.message.clone() })
}

/// Whether `pods` may be more than asked for, so that it matters which of them go.
#[must_use]
pub fn surplus<S: Replicas>(set: &S, pods: usize) -> bool {
    pods > wanted(set)
}

/// How many of the pods are active on each node.
#[must_use]
pub fn per_node(pods: &[Arc<Pod>]) -> HashMap<String, usize> {
    let mut out = HashMap::new();
    for node in pods.iter().filter(|pod| pod::active(pod)).filter_map(|pod| pod::node(pod)) {
        *out.entry(node.to_owned()).or_default() += 1;
    }
    out
}

/// Decides the next writes for one set.
#[must_use]
pub fn plan<S: Replicas>(view: &View<S>, now: Timestamp) -> Plan {
    let Some(selector) = view.set.selector() else {
        return Plan::rest("its selector selects nothing");
    };
    let active = view.pods.iter().filter(|pod| pod::active(pod));
    let (pods, claims) = claim(view.set.as_ref(), active, |pod| selector.matches(&labels(&pod.metadata)));
    let pods: Vec<&Pod> = pods.into_iter().map(Arc::as_ref).collect();
    let scaling = scale(view, &pods, now);
    let mut plan = Plan::rest(scaling.why);
    plan.extend(Plan::new("pods change their manager", claims));
    plan.extend(scaling);
    plan.extend(status(view, &selector, &pods, now));
    plan
}

fn wanted<S: Replicas>(set: &S) -> usize {
    usize::try_from(set.replicas()).unwrap_or(0)
}

fn scale<S: Replicas>(view: &View<S>, pods: &[&Pod], now: Timestamp) -> Plan {
    let (set, want) = (view.set.as_ref(), wanted(view.set.as_ref()));
    if deleting(set.metadata()) {
        return Plan::rest("it is being deleted");
    }
    match pods.len().cmp(&want) {
        std::cmp::Ordering::Equal => Plan::rest("as many pods as asked for"),
        std::cmp::Ordering::Less if view.namespace_terminating => Plan::rest("its namespace is terminating"),
        std::cmp::Ordering::Less => {
            let template = set.template().cloned().unwrap_or_default();
            let pod = create(&pod::from_template(&template, set), Some(announce_creation(set, S::COMPONENT)));
            Plan::new("too few pods", vec![pod; (want - pods.len()).min(BURST)])
        }
        std::cmp::Ordering::Greater => {
            let mut surplus = pods.to_vec();
            surplus.sort_by_cached_key(|pod| rank(pod, &view.related_per_node, now));
            surplus.truncate((pods.len() - want).min(BURST));
            let delete = |pod: &&Pod| delete(*pod, DeleteHow::default(), Some(announce_deletion(set, S::COMPONENT)));
            Plan::new("too many pods", surplus.iter().map(delete).collect())
        }
    }
}

/// Who goes first: the least of these. As upstream: unassigned before assigned, pending before
/// running, not ready before ready, cheap before dear, those with many related pods on their node before those with
/// few, ready for a short while before ready for long, often restarted before steady, young before old. Ages count in
/// powers of two, so that victims spread over pods of about the same age; the uid decides the rest.
type Rank = (bool, u8, bool, i32, Reverse<usize>, i32, Reverse<i32>, i32, String);

fn rank(pod: &Pod, related_per_node: &HashMap<String, usize>, now: Timestamp) -> Rank {
    let node = pod::node(pod);
    let phase = match pod::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let related = node.and_then(|node| related_per_node.get(node)).copied().unwrap_or(0);
    (
        node.is_some(),
        phase,
        pod::ready(pod),
        cost,
        Reverse(related),
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
fn status<S: Replicas>(view: &View<S>, selector: &Selector, pods: &[&Pod], now: Timestamp) -> Plan {
    let set = view.set.as_ref();
    let min_ready = set.min_ready_seconds();
    let available: Vec<Timestamp> = pods.iter().filter_map(|pod| pod::available_at(pod, min_ready)).collect();
    let old = set.status();
    let new = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: some(fully_labeled(set, pods)),
        ready_replicas: some(pods.iter().filter(|pod| pod::ready(pod)).count()),
        available_replicas: some(available.iter().filter(|at| **at <= now).count()),
        terminating_replicas: Some(count(terminating(view, selector))),
        observed_generation: set.metadata().generation,
        conditions: conditions(view, &old, pods.len(), now),
    };
    let mut plan = Plan::rest("its status is right");
    if !same(&old, &new) {
        let patch = patch_to(set, &set.with_status(new), Some("status"));
        plan = Plan::new("its status changed", patch.into_iter().collect());
    }
    if let Some(next) = available.into_iter().filter(|at| *at > now).min() {
        plan.wake_at(next);
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

fn fully_labeled<S: Replicas>(set: &S, pods: &[&Pod]) -> usize {
    let template = set.template().and_then(|template| template.metadata.as_ref());
    let wanted = Selector::from_map(&template.map(labels).unwrap_or_default());
    pods.iter().filter(|pod| wanted.matches(&labels(&pod.metadata))).count()
}

fn terminating<S: Replicas>(view: &View<S>, selector: &Selector) -> usize {
    let leaving = |pod: &&Arc<Pod>| {
        deleting(&pod.metadata)
            && !pod::finished(pod)
            && controlled_by(&pod.metadata, uid(view.set.metadata()))
            && selector.matches(&labels(&pod.metadata))
    };
    view.pods.iter().filter(leaving).count()
}

fn is_failure(condition: &ReplicaSetCondition) -> bool {
    condition.type_.as_deref() == Some("ReplicaFailure")
}

/// `ReplicaFailure` stands while the last creation or deletion failed and is still needed.
fn conditions<S: Replicas>(
    view: &View<S>,
    old: &ReplicaSetStatus,
    have: usize,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let failure = view.failure.as_ref().filter(|_| have != wanted(view.set.as_ref()));
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
    use crate::action::Action;
    use crate::object::after_seconds;
    use crate::testing::{Cluster, NOW, pods, replica_set, replication_controller, show};

    fn view<S>(set: S, pods: Vec<Arc<Pod>>) -> View<S> {
        View { set: Arc::new(set), pods, related_per_node: HashMap::new(), failure: None, namespace_terminating: false }
    }

    fn is_status(action: &Action) -> bool {
        matches!(action, Action::Patch(patch) if patch.subresource == Some("status"))
    }

    /// What is done besides the status, and why.
    fn writes(plan: Plan) -> String {
        let writes: Vec<Action> = plan.actions.into_iter().filter(|action| !is_status(action)).collect();
        show(&writes)
    }

    /// `a` ready, `a!` not ready, `a~` going away, `a.` ended, `a?` nobody's, `a^` somebody else's,
    /// `a-` no longer matching.
    #[test]
    fn keeps_the_number() {
        for (name, want, have, expect, why) in [
            ("starts from nothing", 2, "", "+web- +web-", "too few pods"),
            ("leaves a full set alone", 2, "a b", "", "its status changed"),
            ("does not count a pod that is going away", 2, "a b~", "+web-", "too few pods"),
            ("does not count a pod that has ended", 2, "a b.", "+web-", "too few pods"),
            ("drops the pod that is not ready first", 1, "a b!", "-b", "too many pods"),
            ("adopts strangers that match", 2, "a b?", "patch b", "pods change their manager"),
            ("leaves pods of others alone", 1, "a b^", "", "its status changed"),
            (
                "lets go what no longer matches, and replaces it",
                2,
                "a b-",
                "patch b +web-",
                "pods change their manager",
            ),
            ("scales to nothing", 0, "a b!", "-b -a", "too many pods"),
        ] {
            let plan = plan(&view(replica_set("web", want), pods("web", have)), NOW);
            assert_eq!(plan.why, why, "{name}");
            assert_eq!(writes(plan), expect, "{name}");
            let controller = replication_controller("web", want);
            let plan = super::plan(&view(controller, pods("web", have)), NOW);
            assert_eq!(plan.why, why, "{name}, as a ReplicationController");
            assert_eq!(writes(plan), expect, "{name}, as a ReplicationController");
        }
    }

    #[test]
    fn rests_for_a_reason() {
        let mut gone = replica_set("web", 3);
        gone.metadata.deletion_timestamp = Some(object::time(NOW));
        let mut full = replica_set("web", 1);
        full.status = Some(ReplicaSetStatus {
            replicas: 1,
            fully_labeled_replicas: Some(1),
            ready_replicas: Some(1),
            available_replicas: Some(1),
            terminating_replicas: Some(0),
            observed_generation: Some(1),
            conditions: None,
        });
        let mut unreadable = replica_set("web", 1);
        unreadable.spec.selector.match_expressions = Some(vec![Default::default()]);
        let mut empty = full.clone();
        empty.status = Some(ReplicaSetStatus {
            terminating_replicas: Some(0),
            observed_generation: Some(1),
            ..ReplicaSetStatus::default()
        });
        let mut gone_at_rest = empty.clone();
        gone_at_rest.metadata.deletion_timestamp = Some(object::time(NOW));
        for (set, have, terminating, expect) in [
            (full, "a", false, "as many pods as asked for"),
            (unreadable, "", false, "its selector selects nothing"),
            (empty, "", true, "its namespace is terminating"),
            (gone_at_rest, "", false, "it is being deleted"),
        ] {
            let plan = plan(&View { namespace_terminating: terminating, ..view(set, pods("web", have)) }, NOW);
            assert_eq!((plan.why, show(&plan.actions).as_str()), (expect, ""));
        }
        let plan = plan(&view(gone, pods("web", "a b?")), NOW);
        assert!(plan.actions.iter().all(is_status), "{}", show(&plan.actions));
    }

    #[test]
    fn a_namespace_on_its_way_out_gets_no_new_pods() {
        for (want, have, expect) in [(3, "a", ""), (1, "a b!", "-b")] {
            let view = View { namespace_terminating: true, ..view(replica_set("web", want), pods("web", have)) };
            assert_eq!(writes(plan(&view, NOW)), expect, "{want} of {have}");
        }
    }

    #[test]
    fn a_refused_creation_shows_in_the_status_until_it_is_over() {
        let refusal = |verb| Refusal { verb, message: "no".into() };
        for verb in [Verb::Patch, Verb::PatchStatus, Verb::Tell, Verb::Finalize] {
            assert_eq!(refused(&refusal(verb)), None, "{verb}");
        }
        for (verb, want, have, reason) in
            [(Verb::Create, 1, "", "FailedCreate"), (Verb::Delete, 0, "a", "FailedDelete")]
        {
            let failure = refused(&refusal(verb));
            let failing = View { failure: failure.clone(), ..view(replica_set("web", want), pods("web", have)) };
            let shown = plan(&failing, NOW).actions.into_iter().find(is_status).map(|action| format!("{action:?}"));
            assert!(shown.is_some_and(|text| text.contains("ReplicaFailure") && text.contains(reason)), "{verb}");
            let over = View { failure, ..view(replica_set("web", 1), pods("web", "a")) };
            assert!(!format!("{:?}", plan(&over, NOW).actions).contains("ReplicaFailure"));
        }
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let mut set = replica_set("web", 1);
        set.spec.min_ready_seconds = Some(3600);
        let pods = pods("web", "a");
        let ready = pod::ready_since(&pods[0]).unwrap();
        assert_eq!(plan(&view(set, pods), NOW).wake, Some(after_seconds(ready, 3600)));
    }

    #[test]
    fn of_equals_the_one_with_most_related_pods_on_its_node_goes() {
        let pods: Vec<Arc<Pod>> = [("a", "n1"), ("b", "n2"), ("c", "n1~")]
            .into_iter()
            .map(|(name, node)| {
                let mut pod = pods("web", name)[0].as_ref().clone();
                pod.spec.as_mut().unwrap().node_name = Some(node.trim_end_matches('~').into());
                pod.metadata.deletion_timestamp = node.ends_with('~').then(|| object::time(NOW));
                Arc::new(pod)
            })
            .collect();
        let counts = per_node(&pods);
        assert_eq!((counts["n1"], counts["n2"]), (1, 1), "only active pods count");
        for (crowded, expect) in [("n1", "-a"), ("n2", "-b")] {
            let related_per_node = HashMap::from([(crowded.to_owned(), 2)]);
            assert!(surplus(&replica_set("web", 1), pods.len()));
            let view = View { related_per_node, ..view(replica_set("web", 1), pods.clone()) };
            assert_eq!(writes(plan(&view, NOW)), expect);
        }
    }

    fn settles<S: Replicas + serde::de::DeserializeOwned>(set: &S, have: &str) -> (bool, S, String) {
        let mut cluster = Cluster::default();
        cluster.add(set);
        pods("web", have).iter().for_each(|pod| cluster.add(pod.as_ref()));
        let rested = cluster.settle(8, |cluster| {
            let plan = plan(&view(cluster.only::<S>(), cluster.list::<Pod>()), NOW);
            let creates = plan.actions.iter().filter(|action| action.verb() == Verb::Create).count();
            assert!(creates == 0 || plan.actions.iter().all(|action| action.verb() != Verb::Delete), "{plan:?}");
            plan.actions
        });
        (rested, cluster.only(), cluster.trace().to_owned())
    }

    proptest! {
        #[test]
        fn reaches_its_number_and_rests(want in 0i32..12, have in 0usize..12, odd in "[ !~.?^-]{0,12}") {
            let names: String = (0..have).map(|n| {
                let mark = odd.chars().nth(n).filter(|c| *c != ' ').map(String::from).unwrap_or_default();
                format!("p{n}{mark} ")
            }).collect();
            let (rested, set, trace) = settles(&replica_set("web", want), &names);
            prop_assert!(rested, "{}", trace);
            prop_assert_eq!(set.status().replicas, want);
            let (rested, set, trace) = settles(&replication_controller("web", want), &names);
            prop_assert!(rested, "{}", trace);
            prop_assert_eq!(set.status().replicas, want);
        }
    }
}
