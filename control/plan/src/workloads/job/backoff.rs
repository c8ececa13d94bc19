//! How long a Job waits after failures: 10 s, doubled with each, at most 10 minutes. A success ends that.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::State;
use crate::object::created;
use crate::pod;

const FIRST: i64 = 10;
const LAST: i64 = 600;

/// When a pod ended, as well as that is known.
pub(super) fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ended = |container: &ContainerStatus| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    let ends: Option<Vec<Timestamp>> = statuses.map(|all| all.iter().map(ended).collect()).unwrap_or_default();
    let unready = || {
        let condition = pod::condition(pod, "Ready").filter(|condition| condition.status == "False")?;
        condition.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        at.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    let latest = ends.and_then(|ends| ends.into_iter().max());
    latest.or_else(unready).or_else(deleted).unwrap_or_else(|| created(&pod.metadata))
}

fn after(last: Timestamp, failures: u32) -> Timestamp {
    let wait = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LAST);
    last.checked_add(SignedDuration::from_secs(wait)).unwrap_or(Timestamp::MAX)
}

/// Until when the Job makes no new pods.
pub(super) fn until(state: &State<'_>) -> Option<Timestamp> {
    let ended = |pod: &&Pod| pod::phase(pod) == "Succeeded" || state.has_failed(pod);
    let mut ends: Vec<(Timestamp, bool)> =
        state.owned.iter().copied().filter(ended).map(|pod| (ended_at(pod), state.has_failed(pod))).collect();
    ends.sort_unstable();
    let failures = ends.iter().rev().take_while(|(_, failed)| *failed).count();
    let (last, _) = ends.last().filter(|(_, failed)| *failed)?;
    Some(after(*last, u32::try_from(failures).unwrap_or(u32::MAX)))
}

/// Until when an index gets no new pod, after `failed` was its last.
pub(super) fn until_index(failed: &Pod) -> Timestamp {
    let failures = super::index::failures_before(failed).saturating_add(1);
    after(ended_at(failed), u32::try_from(failures).unwrap_or(1))
}
