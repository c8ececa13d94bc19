//! What is left on this node of pods that nobody wants.
//!
//! Invariants
//! - Before the first snapshot is complete nobody knows which pods belong here: nothing is ended or removed.
//! - A pod that the runtime still has is ended by a worker before its directory goes.

use std::{collections::BTreeSet, time::Duration};

/// How soon the masters are told again that a pod is gone while the API still has it. The pause doubles each time: what
/// holds the pod then are finalizers, more likely than a lost message.
const REPEAT: Duration = Duration::from_secs(5);
const LONGEST_REPEAT: Duration = Duration::from_secs(300);

/// What is found on the node, by pod uid.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// How many snapshots were complete.
    pub snapshots: u64,
    /// Pods that have a worker.
    pub workers: BTreeSet<&'a str>,
    /// Pods with a sandbox in the runtime.
    pub sandboxes: BTreeSet<&'a str>,
    /// Pods with a directory.
    pub directories: BTreeSet<&'a str>,
}

/// What to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans<'a> {
    /// Pods to end: a worker of their own does it.
    pub end: Vec<&'a str>,
    /// Pods whose directories and cgroups go.
    pub remove: Vec<&'a str>,
}

/// The pods on this node that no master knows.
#[must_use]
pub fn orphans<'a>(found: &Found<'a>) -> Orphans<'a> {
    if found.snapshots == 0 {
        return Orphans::default();
    }
    let end = found.sandboxes.difference(&found.workers).copied().collect();
    let directories = found.directories.difference(&found.workers);
    Orphans { end, remove: directories.filter(|uid| !found.sandboxes.contains(*uid)).copied().collect() }
}

/// When the masters are told again of a pod of which nothing is left here. Times are counted from any fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneNotice {
    due: Duration,
    pause: Duration,
}

impl GoneNotice {
    /// How often notices are looked through.
    pub const PERIOD: Duration = REPEAT;

    /// The masters were told at `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { due: now + REPEAT, pause: REPEAT }
    }

    /// Whether they are told again now.
    pub fn repeat(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.pause = (self.pause * 2).min(LONGEST_REPEAT);
        self.due = now + self.pause;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_wants_goes() {
        for (name, snapshots, workers, sandboxes, directories, end, remove) in [
            ("nothing is known yet", 0, "", "a", "a b", "", ""),
            ("all is wanted", 1, "a b", "a", "a b", "", ""),
            ("a pod in the runtime is ended", 1, "b", "a b", "b", "a", ""),
            ("its directory stays until then", 1, "b", "a b", "a b", "a", ""),
            ("a directory alone goes", 1, "b", "b", "a b", "", "a"),
            ("a worker ends its own pod", 2, "a", "a", "a", "", ""),
        ] {
            let set = |text: &'static str| text.split_whitespace().collect::<BTreeSet<_>>();
            let (workers, sandboxes, directories) = (set(workers), set(sandboxes), set(directories));
            let found = Found { snapshots, workers, sandboxes, directories };
            let got = orphans(&found);
            assert_eq!((got.end.join(" ").as_str(), got.remove.join(" ").as_str()), (end, remove), "{name}");
        }
    }

    #[test]
    fn a_pod_that_finalizers_hold_is_reported_less_and_less() {
        let mut notice = GoneNotice::new(Duration::ZERO);
        let told = (0..1800).filter(|second| notice.repeat(Duration::from_secs(*second)));
        assert_eq!(told.collect::<Vec<_>>(), [5, 15, 35, 75, 155, 315, 615, 915, 1215, 1515]);
    }
}
