//! Which pods are made, and which go.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::{BURST, COMPONENT, FINALIZER, State, View, backoff, held, index, release, wide};
use crate::action::{Action, Announce, DeleteHow, Plan, create, delete, reference};
use crate::object::{created, name, uid};
use crate::pod;

/// Longest prefix of a generated name.
const MAX_PREFIX: usize = 58;
const ENV: &str = "JOB_COMPLETION_INDEX";

/// The Job ends: nothing of it runs on.
pub(super) fn delete_all(state: &State<'_>) -> Plan {
    let going = state.active.iter().take(BURST).map(|pod| delete(*pod, DeleteHow::default(), Some(deletion(state))));
    Plan::new("it ends", going.collect())
}

/// As many pods as the Job may have now.
pub(super) fn manage(view: &View, state: &State<'_>, now: Timestamp) -> Plan {
    let active = wide(state.active.len());
    if state.suspended() {
        return remove(state, for_removal(state, state.active.len()), "it is suspended");
    }
    let parallelism = i64::from(state.spec.parallelism.unwrap_or(1));
    let successes = state.successes();
    let wanted = match state.spec.completions {
        None if successes > 0 => active,
        None => parallelism,
        Some(completions) => (i64::from(completions) - successes).min(parallelism).max(0),
    };
    let surplus = usize::try_from(active - wanted).unwrap_or(0);
    let going = for_removal(state, surplus);
    if !going.is_empty() {
        return remove(state, going, "too many pods");
    }
    let leaving = if state.replaces_failed_only() { wide(state.terminating.len()) } else { 0 };
    let missing = usize::try_from(wanted - leaving - active).unwrap_or(0).min(BURST);
    if missing == 0 || view.namespace_terminating {
        return Plan::rest("as many pods as it needs");
    }
    make(state, missing, now)
}

fn make(state: &State<'_>, missing: usize, now: Timestamp) -> Plan {
    if state.failed.is_none()
        && let Some(until) = backoff::until(state).filter(|until| *until > now)
    {
        let mut plan = Plan::rest("it waits after failures");
        plan.wake_at(until);
        return plan;
    }
    if !state.indexed() {
        let pod = create(&new_pod(state, None, (0, 0)), Some(creation(state)));
        return Plan::new("too few pods", vec![pod; missing]);
    }
    let mut plan = Plan::rest("its indexes wait after failures");
    let before = index::awaiting_successor(state);
    let mut actions = Vec::new();
    for index in index::pending(state, missing) {
        let failed = before.get(&index).copied();
        match failed.map(backoff::until_index).filter(|until| *until > now) {
            Some(until) => plan.wake_at(until),
            None => {
                let pod = new_pod(state, Some(index), index::counts_after(state, failed));
                actions.push(create(&pod, Some(creation(state))));
            }
        }
    }
    plan.extend(Plan::new("too few pods", actions));
    plan
}

/// A pod of the Job, for an index if it is for one.
fn new_pod(state: &State<'_>, index: Option<u32>, (failures, ignored): (i32, i32)) -> Pod {
    let mut pod = pod::from_template(&state.spec.template, state.job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(number) = index else { return pod };
    let job = name(&state.job.metadata);
    pod.metadata.generate_name = Some(prefix(job, number));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(index::INDEX.to_owned(), number.to_string());
    if state.failed.is_some() {
        annotations.insert(index::FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(index::IGNORED.to_owned(), ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(index::INDEX.to_owned(), number.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{number}"));
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(tell_index);
    pod
}

fn prefix(job: &str, index: u32) -> String {
    let end = format!("-{index}-");
    let most = MAX_PREFIX.saturating_sub(end.len()).min(job.len());
    format!("{}{end}", &job[..most])
}

/// The index as the container's variable, unless it has one of that name.
fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == ENV) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{}']", index::INDEX) };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: ENV.to_owned(), value: None, value_from: Some(source) });
}

/// Active pods to remove, at least so many: first those that have no place or share one, then those that lose least.
fn for_removal<'a>(state: &State<'a>, at_least: usize) -> Vec<&'a Pod> {
    let (mut going, mut left) = (Vec::new(), Vec::new());
    if state.indexed() {
        let mut places: BTreeMap<u32, Vec<&Pod>> = BTreeMap::new();
        for pod in &state.active {
            match index::of(pod).filter(|_| state.has_place(pod)) {
                Some(index) => places.entry(index).or_default().push(pod),
                None => going.push(*pod),
            }
        }
        for mut twins in places.into_values() {
            twins.sort_by_key(|pod| rank(pod));
            left.extend(twins.pop());
            going.extend(twins);
        }
    } else {
        left.clone_from(&state.active);
    }
    left.sort_by_key(|pod| rank(pod));
    let more = at_least.saturating_sub(going.len()).min(left.len());
    going.extend(left.drain(..more));
    going.truncate(BURST);
    going
}

/// Who goes first: unassigned, pending, not ready, young.
fn rank(pod: &Pod) -> (bool, bool, bool, std::cmp::Reverse<Timestamp>, String) {
    let running = pod::phase(pod) == "Running";
    let young = std::cmp::Reverse(created(&pod.metadata));
    (pod::node(pod).is_some(), running, pod::ready(pod), young, uid(&pod.metadata).to_owned())
}

/// Takes pods away without counting them: first the finalizer, then the pod.
fn remove(state: &State<'_>, pods: Vec<&Pod>, why: &'static str) -> Plan {
    let freed = pods.iter().filter(|pod| held(pod)).map(|pod| release(pod));
    let gone = pods.iter().map(|pod| delete(*pod, DeleteHow::default(), Some(deletion(state))));
    let actions: Vec<Action> = freed.chain(gone).collect();
    Plan::new(why, actions)
}

fn creation(state: &State<'_>) -> Announce {
    Announce {
        regarding: reference(state.job),
        component: COMPONENT,
        done: ("SuccessfulCreate", "Created pod: "),
        failed: ("FailedCreate", "Error creating: "),
    }
}

fn deletion(state: &State<'_>) -> Announce {
    Announce {
        done: ("SuccessfulDelete", "Deleted pod: "),
        failed: ("FailedDelete", "Error deleting: "),
        ..creation(state)
    }
}
