//! Indexes of an Indexed Job.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kontiki_model::indexes::Indexes;

use super::policy::{self, Verdict};
use super::{State, held};
use crate::object::annotation;
use crate::pod;

/// Annotation and label with a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations with how many pods of the index have failed before.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The index of a pod.
pub(super) fn of(pod: &Pod) -> Option<u32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

fn number(pod: &Pod, key: &str) -> i32 {
    annotation(&pod.metadata, key).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// How many pods of its index had failed before this one, those whose failure is ignored too.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    number(pod, FAILURES).saturating_add(number(pod, IGNORED))
}

/// The counts that the successor of a failed pod has.
pub(super) fn counts_after(state: &State<'_>, failed: Option<&Pod>) -> (i32, i32) {
    let Some(pod) = failed else { return (0, 0) };
    let (failures, ignored) = (number(pod, FAILURES), number(pod, IGNORED));
    if policy::counts(state.spec, pod) {
        (failures.saturating_add(1), ignored)
    } else {
        (failures, ignored.saturating_add(1))
    }
}

/// Those in the status, and those of pods that have succeeded since. One that has failed stays so.
pub(super) fn succeeded(state: &State<'_>) -> Indexes {
    let read =
        |text: &Option<String>| Indexes::read(text.as_deref().unwrap_or_default(), state.completions().unwrap_or(0));
    let (mut all, lost) = (read(&state.status.completed_indexes), read(&state.status.failed_indexes));
    let new = state.owned.iter().filter(|pod| held(pod) && pod::phase(pod) == "Succeeded" && state.has_place(pod));
    all.extend(new.filter_map(|pod| of(pod)).filter(|index| !lost.contains(*index)));
    all
}

/// Those in the status, and those of pods that were the last that their index could afford. One that has succeeded has
/// not failed.
pub(super) fn failed(state: &State<'_>, limit: i32) -> Indexes {
    let text = state.status.failed_indexes.as_deref().unwrap_or_default();
    let mut all = Indexes::read(text, state.completions().unwrap_or(0));
    let last = |pod: &&&Pod| match policy::judge(state.spec, pod) {
        Verdict::FailsIndex => true,
        Verdict::Ignored => false,
        Verdict::Counts | Verdict::FailsJob(_) => number(pod, FAILURES) >= limit,
    };
    let new = state.owned.iter().filter(|pod| held(pod) && state.has_failed(pod) && state.has_place(pod));
    all.extend(new.filter(last).filter_map(|pod| of(pod)).filter(|index| !state.succeeded.contains(*index)));
    all
}

/// Failed pods that stay until their index has a new one, which takes over their counts.
pub(super) fn awaiting_successor<'a>(state: &State<'a>) -> BTreeMap<u32, &'a Pod> {
    let mut out: BTreeMap<u32, &'a Pod> = BTreeMap::new();
    let Some(failed) = &state.failed else { return out };
    let busy: BTreeSet<u32> = state.active.iter().filter_map(|pod| of(pod)).collect();
    for pod in state.owned.iter().copied().filter(|pod| held(pod) && state.has_failed(pod) && state.has_place(pod)) {
        let Some(index) = of(pod) else { continue };
        if state.succeeded.contains(index) || failed.contains(index) || busy.contains(&index) {
            continue;
        }
        let later = |other: &&Pod| {
            (failures_before(other), super::backoff::ended_at(other))
                <= (failures_before(pod), super::backoff::ended_at(pod))
        };
        if out.get(&index).is_none_or(later) {
            out.insert(index, pod);
        }
    }
    out
}

/// The lowest indexes that need a pod.
pub(super) fn pending(state: &State<'_>, count: usize) -> Vec<u32> {
    let mut busy: BTreeSet<u32> = state.active.iter().filter_map(|pod| of(pod)).collect();
    if state.replaces_failed_only() {
        busy.extend(state.terminating.iter().filter_map(|pod| of(pod)));
    }
    let over = |index: &u32| {
        busy.contains(index)
            || state.succeeded.contains(*index)
            || state.failed.as_ref().is_some_and(|failed| failed.contains(*index))
    };
    (0..state.completions().unwrap_or(0)).filter(|index| !over(index)).take(count).collect()
}
