//! The status: who has ended, how many, and what that comes to.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use kontiki_model::indexes::Indexes;

use super::end::{End, condition};
use super::{BURST, State, held, index, narrow, policy};
use crate::action::EventRecord;
use crate::object::{deleting, time, uid};
use crate::planted::{self, Bug};
use crate::pod;

/// What becomes of pods that have ended.
#[derive(Default)]
pub(super) struct Counted<'a> {
    /// To be written down as succeeded and failed.
    succeeded: Vec<String>,
    failed: Vec<String>,
    /// Whether there were too many for one status.
    more: bool,
    /// Written down, or not to be counted: their finalizers may go.
    pub free: Vec<&'a Pod>,
}

/// Looks at each pod that waits to be counted.
pub(super) fn counted<'a>(state: &State<'a>, end: &Option<End>) -> Counted<'a> {
    let (waiting, written) = (index::awaiting_successor(state), written_indexes(state));
    let mut out = Counted::default();
    let already = state.uncounted(true).len() + state.uncounted(false).len();
    for pod in state.owned.iter().copied().filter(|pod| held(pod)) {
        let awaited = index::of(pod).and_then(|index| waiting.get(&index));
        let kept = end.is_none() && awaited.is_some_and(|other| uid(&other.metadata) == uid(&pod.metadata));
        if kept {
            continue;
        }
        match fate(state, &written, end, pod) {
            Fate::Stays => {}
            Fate::Goes => out.free.push(pod),
            Fate::IsWritten(list) => {
                if already + out.succeeded.len() + out.failed.len() >= BURST {
                    out.more = true;
                    break;
                }
                if planted::is(Bug::UncountedPods) {
                    out.free.push(pod);
                }
                match list {
                    List::Succeeded => out.succeeded.push(uid(&pod.metadata).to_owned()),
                    List::Failed => out.failed.push(uid(&pod.metadata).to_owned()),
                }
            }
        }
    }
    out
}

enum List {
    Succeeded,
    Failed,
}

enum Fate {
    Stays,
    IsWritten(List),
    Goes,
}

fn fate(state: &State<'_>, written: &Indexes, end: &Option<End>, pod: &Pod) -> Fate {
    // What will be thrown away anyway once the Job's end is written.
    let over = end.as_ref().filter(|end| end.written);
    if state.is_uncounted(pod, true) || state.is_uncounted(pod, false) {
        return Fate::Goes;
    }
    if pod::phase(pod) == "Succeeded" {
        return match index::of(pod).filter(|_| state.indexed()) {
            _ if !state.has_place(pod) => Fate::Goes,
            None => Fate::IsWritten(List::Succeeded),
            Some(index) if written.contains(index) => Fate::Goes,
            // Too late: the index has failed.
            Some(index) if state.failed.as_ref().is_some_and(|failed| failed.contains(index)) => Fate::Goes,
            Some(_) => Fate::Stays,
        };
    }
    let met = over.is_some_and(|end| end.success);
    let failed = match over {
        // What the Job itself has ended has not failed.
        Some(end) if end.success => pod::phase(pod) == "Failed" && !deleting(&pod.metadata),
        Some(_) => true,
        None => state.has_failed(pod),
    };
    if !failed {
        return if met { Fate::Goes } else { Fate::Stays };
    }
    if state.has_place(pod) && policy::counts(state.spec, pod) { Fate::IsWritten(List::Failed) } else { Fate::Goes }
}

/// Indexes whose success the stored status has.
fn written_indexes(state: &State<'_>) -> Indexes {
    let text = state.status.completed_indexes.as_deref().unwrap_or_default();
    Indexes::read(text, state.completions().unwrap_or(0))
}

/// The status as it should be, and what to tell people once it is.
pub(super) fn status(
    state: &State<'_>,
    end: &Option<End>,
    counted: &Counted<'_>,
    now: Timestamp,
) -> (JobStatus, Vec<EventRecord>) {
    let (mut new, mut events) = (state.status.clone(), Vec::new());
    if new.start_time.is_none() && !state.suspended() {
        new.start_time = Some(time(now));
    }
    new.active = some(state.active.len());
    new.ready = Some(narrow(state.active.iter().filter(|pod| pod::ready(pod)).count()));
    new.terminating = Some(narrow(state.terminating.len()));
    let left = count(state, counted, &mut new);
    match end {
        Some(end) => finish(state, end, counted, left, &mut new, &mut events, now),
        None => suspend(state, &mut new, &mut events, now),
    }
    (new, events)
}

fn some(number: usize) -> Option<i32> {
    (number > 0).then(|| narrow(number))
}

/// Turns names of pods without finalizer into numbers, and writes down new names. How many names are left.
fn count(state: &State<'_>, counted: &Counted<'_>, new: &mut JobStatus) -> usize {
    let waiting: HashSet<&str> = state.owned.iter().filter(|pod| held(pod)).map(|pod| uid(&pod.metadata)).collect();
    let still_held = |name: &&String| waiting.contains(name.as_str());
    let mut lists = Vec::new();
    for (succeeded, more) in [(true, &counted.succeeded), (false, &counted.failed)] {
        let (kept, gone): (Vec<&String>, Vec<&String>) = state.uncounted(succeeded).iter().partition(still_held);
        let number = if succeeded { &mut new.succeeded } else { &mut new.failed };
        let total = number.unwrap_or(0).saturating_add(narrow(gone.len()));
        *number = Some(total).filter(|total| *total != 0);
        lists.push(kept.into_iter().chain(more).cloned().collect::<Vec<String>>());
    }
    let left = lists.iter().map(Vec::len).sum();
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    // A Job has the lists from its beginning on, be they empty.
    let begins = state.status.start_time.is_none() && new.start_time.is_some();
    let known = state.status.uncounted_terminated_pods.is_some() || begins || left > 0;
    new.uncounted_terminated_pods =
        known.then(|| UncountedTerminatedPods { succeeded: list(&lists[0]), failed: list(&lists[1]) });
    if state.indexed() {
        new.succeeded = some(usize::try_from(state.succeeded.total()).unwrap_or(usize::MAX));
        new.completed_indexes = Some(state.succeeded.to_string()).filter(|text| !text.is_empty());
        new.failed_indexes = state.failed.as_ref().map(ToString::to_string);
    }
    left
}

/// Says how the Job will end; once no pod is left to wait for, that it has.
fn finish(
    state: &State<'_>,
    end: &End,
    counted: &Counted<'_>,
    left: usize,
    new: &mut JobStatus,
    events: &mut Vec<EventRecord>,
    now: Timestamp,
) {
    let conditions = new.conditions.get_or_insert_default();
    if !end.written {
        conditions.push(end.interim(now));
        return;
    }
    let waits = !state.active.is_empty() || !state.terminating.is_empty() || left > 0 || counted.more;
    let unwritten = state.owned.iter().any(|pod| held(pod));
    if waits || unwritten {
        return;
    }
    let last = end.last(now);
    conditions.push(last.clone());
    if end.success {
        new.completion_time = last.last_transition_time;
        if state.spec.completions.is_some_and(|wanted| state.successes() > i64::from(wanted)) {
            let text = "Too many succeeded pods running after completion count reached";
            events.push(state.event(true, "TooManySucceededPods", text));
        }
        events.push(state.event(false, "Completed", "Job completed"));
    } else {
        events.push(state.event(true, &end.reason, &end.message));
    }
}

/// Says whether the Job is suspended. Its time begins anew when it is resumed.
fn suspend(state: &State<'_>, new: &mut JobStatus, events: &mut Vec<EventRecord>, now: Timestamp) {
    let conditions = new.conditions.clone().unwrap_or_default();
    let old = conditions.iter().position(|condition| condition.type_ == "Suspended");
    let (status, reason, message) = if state.suspended() {
        ("True", "JobSuspended", "Job suspended")
    } else {
        ("False", "JobResumed", "Job resumed")
    };
    let same = |condition: &JobCondition| condition.status == status && condition.reason.as_deref() == Some(reason);
    match old {
        Some(at) if same(&conditions[at]) => return,
        None if !state.suspended() => return,
        Some(at) => {
            let mut changed = conditions;
            changed[at] = condition("Suspended", status, reason, message, now);
            new.conditions = Some(changed);
        }
        None => {
            new.conditions.get_or_insert_default().push(condition("Suspended", status, reason, message, now));
        }
    }
    if state.suspended() {
        events.push(state.event(false, "Suspended", message));
    } else {
        events.push(state.event(false, "Resumed", message));
        new.start_time = Some(time(now));
    }
}
