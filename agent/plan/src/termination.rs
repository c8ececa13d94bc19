//! Whether and until when a pod has to end, and what its containers get of that time.
//!
//! Invariants
//! - A deadline only ever comes nearer: seeing the same deletion again gives no more time.
//! - A deletion that was asked for long ago is due when the API said so, but a container always gets a moment to close
//!   its files.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::{rules, step::Ending};

/// A pod that is gone from the API gets no longer than this to end.
const ORPHAN_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// A deletion learned of so soon after a reconnect may have been asked for much earlier.
const CATCHING_UP: Duration = Duration::from_secs(5);
/// What a pod gets at least whose time was over when its deletion was learned of.
const OVERDUE_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// Left for the container itself after its preStop hook took all the time.
const LEAST_GRACE: SignedDuration = SignedDuration::from_secs(2);

/// The pod's end, as it has to be from now on. `None`: it goes on.
///
/// `present`: the API has the pod. `snapshot_age`: how long ago the session began to tell all objects anew.
#[must_use]
pub fn ending(
    pod: &Pod,
    present: bool,
    known: Option<Ending>,
    snapshot_age: Option<Duration>,
    now: Timestamp,
) -> Option<Ending> {
    let deadline = if !present {
        now + rules::grace(pod).min(ORPHAN_GRACE)
    } else if let Some(due) = &pod.metadata.deletion_timestamp {
        let seconds = pod.metadata.deletion_grace_period_seconds;
        let full = seconds.map_or_else(|| rules::grace(pod), SignedDuration::from_secs);
        let left = due.0.duration_since(now).max(OVERDUE_GRACE);
        let catching_up = snapshot_age.is_some_and(|age| age < CATCHING_UP);
        now + if catching_up { full.min(left) } else { full }
    } else {
        return known;
    };
    match known {
        Some(known) if known.deadline <= deadline => Some(Ending { remove: true, ..known }),
        _ => Some(Ending { deadline, remove: true }),
    }
}

/// What a container that must be dead by `deadline` is given by the runtime, in whole seconds: 0 kills at once.
#[must_use]
pub fn stop_timeout(deadline: Timestamp, after_hook: bool, now: Timestamp) -> Duration {
    let left = deadline.duration_since(now).max(SignedDuration::ZERO);
    let left = if after_hook { left.max(LEAST_GRACE) } else { left };
    Duration::from_secs(left.unsigned_abs().as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000 + second).expect("in range")
    }

    #[test]
    fn deadlines_only_come_nearer() {
        let fresh = Some(Duration::from_secs(1));
        let old = Some(Duration::from_secs(60));
        // (deletionTimestamp, deletionGracePeriodSeconds) of the pod, whose own grace is 30 s; now is 10.
        for (name, deletion, present, known, age, expect) in [
            ("goes on", None, true, None, old, None),
            ("gone from the API", None, false, None, old, Some(20)),
            ("gone from the API while it ends", Some((40, Some(30))), false, Some(15), old, Some(15)),
            ("deleted", Some((40, Some(30))), true, None, old, Some(40)),
            ("deleted without a period", Some((40, None)), true, None, old, Some(40)),
            ("deleted, learned of late", Some((12, Some(30))), true, None, old, Some(40)),
            ("deleted before the reconnect", Some((15, Some(30))), true, None, fresh, Some(15)),
            ("overdue at the reconnect", Some((3, Some(30))), true, None, fresh, Some(12)),
            ("killed at the reconnect", Some((3, Some(0))), true, None, fresh, Some(10)),
            ("seen again", Some((40, Some(30))), true, Some(38), old, Some(38)),
            ("deleted again, sooner", Some((11, Some(1))), true, Some(38), old, Some(11)),
            ("no session yet", Some((15, Some(30))), true, None, None, Some(40)),
        ] {
            let mut pod = pod("containers: [{name: a}]");
            if let Some((due, grace)) = deletion {
                pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(due)));
                pod.metadata.deletion_grace_period_seconds = grace;
            }
            let known = known.map(|second| Ending { deadline: at(second), remove: true });
            let got = ending(&pod, present, known, age, at(10)).map(|ending| ending.deadline.as_second() - 1_000);
            assert_eq!(got, expect, "{name}");
        }
    }

    #[test]
    fn the_runtime_counts_whole_seconds() {
        for (name, left_millis, hooked, expect) in [
            ("all of it", 5_000, false, 5),
            ("rounded up", 4_001, false, 5),
            ("a bit", 1, false, 1),
            ("none", 0, false, 0),
            ("overdue", -7_000, false, 0),
            ("the hook took all", -1, true, 2),
            ("the hook left some", 9_000, true, 9),
        ] {
            let deadline = at(10) + SignedDuration::from_millis(left_millis);
            assert_eq!(stop_timeout(deadline, hooked, at(10)).as_secs(), expect, "{name}");
        }
    }
}
