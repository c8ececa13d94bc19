//! How soon failed pods of a DaemonSet are replaced: a node that refuses its pod gets the next one later each time.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kontiki_model::pace::make_room;

use super::nodes::target;
use crate::object::{controlled_by, deleting, uid};
use crate::pod;

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_secs(15 * 60);

/// A set (its uid), what it wanted (its observed generation), and a node.
type Place = (String, i64, String);

struct Failing {
    /// The last pod that failed.
    pod: String,
    /// When it may be replaced.
    at: Timestamp,
    /// How long after that the next one may be.
    pause: SignedDuration,
}

/// Failures that were seen. To lose them costs a pod at each place one early start.
#[derive(Default)]
pub struct FailedPods {
    known: HashMap<Place, Failing>,
}

impl FailedPods {
    /// When each failed pod of `set` may be replaced, by uid.
    pub fn see(&mut self, set: &DaemonSet, pods: &[Arc<Pod>], now: Timestamp) -> HashMap<String, Timestamp> {
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let owner = uid(&set.metadata);
        let failed = pods.iter().filter(|pod| is_failed(pod) && controlled_by(&pod.metadata, owner));
        let mut out = HashMap::new();
        for pod in failed {
            let Some(node) = target(pod) else { continue };
            let place = (owner.to_owned(), generation, node.to_owned());
            out.insert(uid(&pod.metadata).to_owned(), self.see_one(place, uid(&pod.metadata), now));
        }
        out
    }

    fn see_one(&mut self, place: Place, pod: &str, now: Timestamp) -> Timestamp {
        let over = |failing: &Failing| now.duration_since(failing.at) > LONGEST * 2;
        make_room(&mut self.known, |failing| !over(failing));
        let before = self.known.get(&place).filter(|failing| failing.pod == pod || !over(failing));
        let (at, pause) = match before {
            Some(failing) if failing.pod == pod => return failing.at,
            Some(failing) => {
                let due = failing.at.checked_add(failing.pause).unwrap_or(Timestamp::MAX);
                (due.max(now), (failing.pause * 2).min(LONGEST))
            }
            None => (now, FIRST),
        };
        self.known.insert(place, Failing { pod: pod.to_owned(), at, pause });
        at
    }
}

/// Whether a pod has failed and nobody has deleted it yet.
pub(super) fn is_failed(pod: &Pod) -> bool {
    pod::phase(pod) == "Failed" && !deleting(&pod.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::after_seconds;
    use crate::testing::NOW;

    #[test]
    fn each_failure_waits_twice_as_long_as_the_last() {
        let mut failed = FailedPods::default();
        let mut see = |node: &str, pod: &str, seconds: i64| {
            let place = ("set".to_owned(), 1, node.to_owned());
            let at = failed.see_one(place, pod, after_seconds(NOW, seconds));
            at.duration_since(NOW).as_secs()
        };
        for (name, node, pod, seconds, expect) in [
            ("the first goes at once", "n1", "a", 0, 0),
            ("the same, seen again", "n1", "a", 5, 0),
            ("the second waits a second after the first", "n1", "b", 0, 1),
            ("the third two after that", "n1", "c", 1, 3),
            ("what comes late does not wait", "n1", "d", 100, 100),
            ("another node", "n2", "e", 100, 100),
            ("after a long time all is forgotten", "n1", "f", 9000, 9000),
            ("and begins anew", "n1", "g", 9000, 9001),
        ] {
            assert_eq!(see(node, pod, seconds), expect, "{name}");
        }
    }
}
