//! What a PodDisruptionBudget allows now.
//!
//! Invariants
//! - A pod that was let go by an eviction does not count as healthy, until it is seen to go or has not gone for
//!   [`PATIENCE`].
//! - If it cannot be worked out, nothing is allowed.
//!
//! Source: `pkg/controller/disruption/disruption.go` of upstream's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kontiki_model::selector::Selector;
use serde_json::json;

use crate::action::{Action, EventRecord, Plan, patch, patch_to, reference, to_value};
use crate::key::NamespacedName;
use crate::object::{after_seconds, controller, deleting, name, time};
use crate::pod;
use crate::selection::Selects;
use crate::workloads::intstr::{Round, scaled};

/// Who speaks in its events.
const COMPONENT: &str = "controllermanager";
/// How long an evicted pod has to begin to go, in seconds.
const PATIENCE: i64 = 120;
/// How long a pod may say that it is disrupted without going, in seconds.
const STALE: i64 = 120;
const ALLOWED: &str = "DisruptionAllowed";

/// What a plan is made from.
pub struct View {
    /// The budget.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// How many pods the managers of these pods want, by the uid of the manager that a pod names.
    pub scales: BTreeMap<String, Scale>,
}

/// How many pods somebody wants who manages pods, directly or through others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Who; several managers may have one behind them.
    pub uid: String,
    /// How many.
    pub replicas: i32,
}

impl Selects for PodDisruptionBudget {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(self.spec.as_ref()?.selector.as_ref()?)
    }
}

/// The budgets that a change of a pod concerns: those that select it, before or after.
pub fn concerned(
    old: Option<&Pod>,
    new: Option<&Pod>,
    selecting: impl Fn(&Pod) -> Vec<Arc<PodDisruptionBudget>>,
) -> BTreeSet<NamespacedName> {
    let mut keys = BTreeSet::new();
    for pod in old.into_iter().chain(new) {
        let budgets = selecting(pod).into_iter().filter(|budget| budget.selects(&pod.metadata));
        keys.extend(budgets.map(|budget| NamespacedName::of(&budget.metadata)));
    }
    keys
}

/// Works the budget out.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let budget = view.budget.as_ref();
    if deleting(&budget.metadata) {
        return Plan::rest("it is being deleted");
    }
    let old = budget.status.clone().unwrap_or_default();
    let (expected, desired) = match expected(view) {
        Ok(counts) => counts,
        Err(why) => return write(budget, failed(budget, &old, &why, now), "it cannot be worked out"),
    };
    let (disrupted, late, next) = disrupted(view, &old, now);
    let healthy = view.pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let mut new = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions.clone(),
    };
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut new, (status, reason, ""), budget.metadata.generation, now);
    let mut plan = write(budget, new, "what it allows has changed");
    plan.actions.extend(late.into_iter().map(Action::Event));
    if let Some(at) = next {
        plan.wake_at(at);
    }
    plan
}

fn write(budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus, why: &'static str) -> Plan {
    let changed = PodDisruptionBudget { status: Some(status), ..budget.clone() };
    let actions: Vec<Action> = patch_to(budget, &changed, Some("status")).into_iter().collect();
    Plan::new(if actions.is_empty() { "it is as it says" } else { why }, actions)
}

/// How many pods there should be, and how many of them healthy.
fn expected(view: &View) -> Result<(i32, i32), String> {
    let Some(spec) = view.budget.spec.as_ref() else { return Ok((0, 0)) };
    if let Some(most) = &spec.max_unavailable {
        let expected = wanted(view)?;
        return Ok((expected, (expected - scaled(most, expected, Round::Up)).max(0)));
    }
    match &spec.min_available {
        None => Ok((0, 0)),
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(least)) => {
            Ok((i32::try_from(view.pods.len()).unwrap_or(i32::MAX), *least))
        }
        share => {
            let expected = wanted(view)?;
            Ok((expected, share.as_ref().map_or(expected, |share| scaled(share, expected, Round::Up))))
        }
    }
}

/// How many pods all their managers want. Pods that nobody manages do not count.
fn wanted(view: &View) -> Result<i32, String> {
    let mut scales: BTreeMap<&str, i32> = BTreeMap::new();
    for pod in &view.pods {
        let Some(owner) = controller(&pod.metadata) else { continue };
        let Some(scale) = view.scales.get(&owner.uid) else { return Err(no_scale(pod, owner)) };
        scales.insert(&scale.uid, scale.replicas);
    }
    Ok(scales.values().fold(0, |sum, replicas| sum.saturating_add(*replicas)))
}

fn no_scale(pod: &Pod, owner: &OwnerReference) -> String {
    let known = ["ReplicaSet", "Deployment", "StatefulSet", "ReplicationController"];
    if known.contains(&owner.kind.as_str()) {
        return format!("found no controllers for pod \"{}\"", name(&pod.metadata));
    }
    let group = owner.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    format!("{}s{group} does not implement the scale subresource", owner.kind.to_lowercase())
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    !deleting(&pod.metadata) && !disrupted.contains_key(name(&pod.metadata)) && pod::ready(pod)
}

/// Evicted pods that are still to go, complaints about those that do not, and when to look again.
fn disrupted(
    view: &View,
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
) -> (BTreeMap<String, Time>, Vec<EventRecord>, Option<Timestamp>) {
    let known = old.disrupted_pods.as_ref();
    let (mut kept, mut late, mut next) = (BTreeMap::new(), Vec::new(), None::<Timestamp>);
    for pod in view.pods.iter().filter(|pod| !deleting(&pod.metadata)) {
        let Some(since) = known.and_then(|known| known.get(name(&pod.metadata))) else { continue };
        let until = after_seconds(since.0, PATIENCE);
        if until <= now {
            let space = view.budget.metadata.namespace.as_deref().unwrap_or_default();
            let message = format!("Pod was expected by PDB {space}/{space} to be deleted but it wasn't");
            late.push(EventRecord::warning(reference(pod.as_ref()), COMPONENT, "NotDeleted", message));
            continue;
        }
        kept.insert(name(&pod.metadata).to_owned(), since.clone());
        next = Some(next.map_or(until, |at| at.min(until)));
    }
    (kept, late, next)
}

/// The status of a budget that cannot be worked out.
fn failed(
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut new = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
    set_condition(&mut new, ("False", "SyncFailed", why), old.observed_generation.or(budget.metadata.generation), now);
    new
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    (value, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = old.map(|at| &conditions[at]).filter(|condition| condition.status == value);
    let new = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.map_or_else(|| time(now), |condition| condition.last_transition_time.clone()),
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}

/// Takes the mark of a disruption off a pod that was not disrupted after all.
#[must_use]
pub fn unmark(pod: &Pod, now: Timestamp) -> Plan {
    let mark = pod::condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let Some(mark) = mark else { return Plan::rest("it is not marked") };
    let by_node = mark.reason.as_deref() == Some("TerminationByKubelet");
    if deleting(&pod.metadata) || pod::finished(pod) || by_node {
        return Plan::rest("it goes");
    }
    let since = mark.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let until = after_seconds(since, STALE);
    if until > now {
        return Plan { wake: Some(until), ..Plan::rest("it may still go") };
    }
    let cleared = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "False".into(),
        last_transition_time: Some(time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let conditions = to_value(&pod::with_condition(pod, cleared));
    let clear = patch(pod, Some("status"), json!({"status": {"conditions": conditions}}));
    Plan::new("it was not disrupted", vec![clear])
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Cluster, NOW, meta, pod_condition, pods, selector, show};

    fn budget(min: &str, max: &str) -> PodDisruptionBudget {
        let amount = |text: &str| match text.parse() {
            Ok(number) => Some(IntOrString::Int(number)),
            Err(_) => Some(IntOrString::String(text.into())).filter(|_| !text.is_empty()),
        };
        let spec = PodDisruptionBudgetSpec {
            min_available: amount(min),
            max_unavailable: amount(max),
            selector: Some(selector("web")),
            unhealthy_pod_eviction_policy: None,
        };
        PodDisruptionBudget { metadata: meta("budget"), spec: Some(spec), status: None }
    }

    fn view(budget: PodDisruptionBudget, have: &str, replicas: Option<i32>) -> View {
        let scale = replicas.map(|replicas| ("uid-web".to_owned(), Scale { uid: "uid-d".into(), replicas }));
        View { budget: Arc::new(budget), pods: pods("web", have), scales: scale.into_iter().collect() }
    }

    fn status(plan: &Plan) -> String {
        let Some(Action::Patch(patch)) = plan.actions.first() else { return String::new() };
        let status = &patch.body["status"];
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        let conditions = status["conditions"][0]["reason"].as_str().unwrap_or_default();
        format!(
            "{} of {} healthy, {} wanted: {} {conditions}",
            number("currentHealthy"),
            number("expectedPods"),
            number("desiredHealthy"),
            number("disruptionsAllowed")
        )
    }

    /// `a` ready, `a!` not ready, `a~` going away.
    #[test]
    fn counts_what_may_go() {
        for (name, (min, max), have, replicas, expect) in [
            ("a number", ("1", ""), "a b c", None, "3 of 3 healthy, 1 wanted: 2 SufficientPods"),
            ("just enough", ("3", ""), "a b c", None, "3 of 3 healthy, 3 wanted: 0 InsufficientPods"),
            ("unready ones do not count", ("1", ""), "a b! c~", None, "1 of 3 healthy, 1 wanted: 0 InsufficientPods"),
            (
                "a share of what is wanted",
                ("50%", ""),
                "a b c",
                Some(5),
                "3 of 5 healthy, 3 wanted: 0 InsufficientPods",
            ),
            ("most that may be missing", ("", "1"), "a b c", Some(3), "3 of 3 healthy, 2 wanted: 1 SufficientPods"),
            (
                "a share that may be missing",
                ("", "30%"),
                "a b c d",
                Some(4),
                "4 of 4 healthy, 2 wanted: 2 SufficientPods",
            ),
            ("more than all", ("", "9"), "a", Some(1), "1 of 1 healthy, 0 wanted: 1 SufficientPods"),
            ("nothing there", ("1", ""), "", None, "0 of 0 healthy, 1 wanted: 0 InsufficientPods"),
            ("a manager that is not there", ("", "1"), "a", None, "0 of 0 healthy, 0 wanted: 0 SyncFailed"),
            ("nothing asked for", ("", ""), "a", None, "1 of 0 healthy, 0 wanted: 0 InsufficientPods"),
        ] {
            assert_eq!(status(&plan(&view(budget(min, max), have, replicas), NOW)), expect, "{name}");
        }
    }

    #[test]
    fn an_evicted_pod_counts_again_if_it_does_not_go() {
        let evicted = |ago: i64, have: &str| {
            let mut one = budget("1", "");
            let since = time(after_seconds(NOW, -ago));
            one.status = Some(PodDisruptionBudgetStatus {
                disrupted_pods: Some([("a".to_owned(), since)].into()),
                ..PodDisruptionBudgetStatus::default()
            });
            plan(&view(one, have, None), NOW)
        };
        for (name, ago, have, expect, event, wakes) in [
            ("it is to go", 10, "a b", "1 of 2 healthy, 1 wanted: 0 InsufficientPods", false, true),
            ("it goes", 10, "a~ b", "1 of 2 healthy, 1 wanted: 0 InsufficientPods", false, false),
            ("it is gone", 10, "b", "1 of 1 healthy, 1 wanted: 0 InsufficientPods", false, false),
            ("it does not go", 120, "a b", "2 of 2 healthy, 1 wanted: 1 SufficientPods", true, false),
        ] {
            let plan = evicted(ago, have);
            assert_eq!(status(&plan), expect, "{name}");
            assert_eq!(show(&plan.actions).contains("!NotDeleted"), event, "{name}");
            assert_eq!(plan.wake.is_some(), wakes, "{name}");
        }
    }

    #[test]
    fn a_mark_goes_when_the_pod_does_not() {
        let marked = |reason: &str, ago: i64, have: &str| {
            let mut pod = pods("web", have)[0].as_ref().clone();
            let mut mark = pod_condition("DisruptionTarget", "True");
            mark.reason = Some(reason.into());
            mark.last_transition_time = Some(time(after_seconds(NOW, -ago)));
            pod.status.get_or_insert_default().conditions.get_or_insert_default().push(mark);
            unmark(&pod, NOW)
        };
        for (reason, ago, have, expect) in [
            ("EvictionByEvictionAPI", 119, "a", ""),
            ("EvictionByEvictionAPI", 120, "a", "status a"),
            ("EvictionByEvictionAPI", 120, "a~", ""),
            ("EvictionByEvictionAPI", 120, "a.", ""),
            ("TerminationByKubelet", 120, "a", ""),
        ] {
            assert_eq!(show(&marked(reason, ago, have).actions), expect, "{reason} {ago} {have}");
        }
    }

    proptest! {
        /// Never more may go than are healthy beyond what is asked for; and then it rests.
        #[test]
        fn allows_no_more_than_there_is(min in 0i32..6, have in 0usize..6, odd in "[ !~]{0,6}") {
            let names: String = (0..have).map(|n| {
                let mark = odd.chars().nth(n).filter(|c| *c != ' ').map(String::from).unwrap_or_default();
                format!("p{n}{mark} ")
            }).collect();
            let mut cluster = Cluster::default();
            cluster.add(&budget(&min.to_string(), ""));
            let turn = |cluster: &Cluster| plan(&view(cluster.only(), &names, None), NOW).actions;
            prop_assert!(cluster.settle(2, turn), "{}", cluster.trace());
            let status = cluster.only::<PodDisruptionBudget>().status.unwrap_or_default();
            let ready = pods("web", &names).iter().filter(|pod| pod::ready(pod) && !deleting(&pod.metadata)).count();
            prop_assert!(status.disruptions_allowed.unwrap_or(0) <= (i32::try_from(ready).unwrap_or(0) - min).max(0));
        }
    }
}
