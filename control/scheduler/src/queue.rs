//! The pods that wait for a node: those to try now, and those that something has to change for.
//!
//! Invariants
//! - A pod is in exactly one place: ready (by priority, then by age), or waiting with a time.
//! - A pod that failed is not tried before its backoff is over, whatever happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kontiki_plan::scheduler::PodInfo;

/// Pause after the first failure; it doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that nothing has helped is tried again after this long all the same, as upstream.
const FLUSH: Duration = Duration::from_secs(300);

/// A pod to be placed.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub pod: Arc<Pod>,
    pub info: Arc<PodInfo>,
}

struct Waiter {
    candidate: Candidate,
    /// Order among equals.
    number: u64,
    failures: u32,
    last: Instant,
    /// `None` while it is ready.
    due: Option<Instant>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pending {
    waiters: BTreeMap<String, Waiter>,
    ready: BTreeSet<(Reverse<i32>, u64, String)>,
    due: BTreeSet<(Instant, String)>,
    next: u64,
}

fn same_wants(old: &Pod, new: &Pod) -> bool {
    old.spec == new.spec && old.metadata.labels == new.metadata.labels
}

fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_BACKOFF)
}

impl Pending {
    /// Pods that wait, ready or not.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// A pod came or changed. A change of what it wants makes it ready, but not before its backoff
    /// is over; any other (such as our own account of a failure) leaves it where it is.
    pub fn put(&mut self, candidate: Candidate, now: Instant) {
        let uid = candidate.info.uid.clone();
        if let Some(old) = self.waiters.get_mut(&uid).filter(|old| same_wants(&old.candidate.pod, &candidate.pod)) {
            old.candidate = candidate;
            return;
        }
        let old = self.remove(&uid);
        let number = old.as_ref().map_or(self.next, |old| old.number);
        self.next += 1;
        let (failures, last) = old.map_or((0, now), |old| (old.failures, old.last));
        self.waiters.insert(uid.clone(), Waiter { candidate, number, failures, last, due: None });
        self.wake(&uid, now);
    }

    /// A pod does not wait any more.
    pub fn forget(&mut self, uid: &str) {
        self.remove(uid);
    }

    fn remove(&mut self, uid: &str) -> Option<Waiter> {
        let waiter = self.waiters.remove(uid)?;
        self.unfile(uid, &waiter);
        Some(waiter)
    }

    fn unfile(&mut self, uid: &str, waiter: &Waiter) {
        match waiter.due {
            Some(due) => drop(self.due.remove(&(due, uid.to_owned()))),
            None => drop(self.ready.remove(&(Reverse(waiter.candidate.info.priority), waiter.number, uid.to_owned()))),
        }
    }

    fn file(&mut self, uid: &str, due: Option<Instant>) {
        let Some(mut waiter) = self.waiters.remove(uid) else { return };
        self.unfile(uid, &waiter);
        waiter.due = due;
        match due {
            Some(due) => drop(self.due.insert((due, uid.to_owned()))),
            None => drop(self.ready.insert((Reverse(waiter.candidate.info.priority), waiter.number, uid.to_owned()))),
        }
        self.waiters.insert(uid.to_owned(), waiter);
    }

    /// Ready as soon as the backoff allows.
    fn wake(&mut self, uid: &str, now: Instant) {
        let Some(waiter) = self.waiters.get(uid) else { return };
        let earliest = if waiter.failures == 0 { now } else { waiter.last + backoff(waiter.failures) };
        self.file(uid, (earliest > now).then_some(earliest));
    }

    /// Something changed that may help any pod.
    pub fn wake_all(&mut self, now: Instant) {
        for uid in self.waiters.iter().filter(|(_, w)| w.due.is_some()).map(|(uid, _)| uid.clone()).collect::<Vec<_>>()
        {
            self.wake(&uid, now);
        }
    }

    /// The next pod to try. It stays here until it is forgotten or has failed.
    pub fn next(&mut self, now: Instant) -> Option<Candidate> {
        while let Some((_, uid)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.file(&uid, None);
        }
        let (_, _, uid) = self.ready.first()?;
        self.waiters.get(uid).map(|waiter| waiter.candidate.clone())
    }

    /// The pod fits nowhere.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        if let Some(waiter) = self.waiters.get_mut(uid) {
            waiter.failures = waiter.failures.saturating_add(1);
            waiter.last = now;
            self.file(uid, Some(now + FLUSH));
        }
    }

    /// Its binding failed: once more, after the backoff.
    pub fn retry(&mut self, candidate: Candidate, now: Instant) {
        let uid = candidate.info.uid.clone();
        self.put(candidate, now);
        if let Some(waiter) = self.waiters.get_mut(&uid) {
            waiter.failures = waiter.failures.saturating_add(1);
            waiter.last = now;
            self.wake(&uid, now);
        }
    }

    /// When a pod becomes ready by time alone; now, if one is.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.due.first().map(|(at, _)| *at) } else { Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32) -> Candidate {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(name.into());
        pod.spec.get_or_insert_default().priority = Some(priority);
        Candidate { info: Arc::new(PodInfo::new(&pod, &[])), pod: Arc::new(pod) }
    }

    fn next(pending: &mut Pending, now: Instant) -> String {
        pending.next(now).map(|c| c.info.uid.clone()).unwrap_or_default()
    }

    #[test]
    fn priority_then_age() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            pending.put(candidate(name, priority), now);
        }
        for expect in ["b", "a", "c", ""] {
            let got = next(&mut pending, now);
            assert_eq!(got, expect);
            pending.forget(&got);
        }
    }

    #[test]
    fn a_failure_waits_for_help_and_for_its_backoff() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.put(candidate("a", 0), now);
        pending.failed("a", now);
        assert_eq!(next(&mut pending, now + LAST_BACKOFF), "", "nothing changed");
        pending.wake_all(now);
        assert_eq!(next(&mut pending, now), "", "help does not shorten the backoff");
        assert_eq!(next(&mut pending, now + FIRST_BACKOFF), "a");
        pending.failed("a", now);
        assert_eq!(next(&mut pending, now + FLUSH), "a", "once in five minutes anyway");
    }

    #[test]
    fn a_change_of_the_pod_itself_keeps_its_place() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.put(candidate("a", 0), now);
        pending.put(candidate("b", 0), now);
        pending.put(candidate("a", 0), now);
        assert_eq!(next(&mut pending, now), "a");
        assert_eq!(pending.len(), 2);
        pending.failed("a", now);
        pending.put(candidate("a", 0), now);
        assert_eq!(next(&mut pending, now + FIRST_BACKOFF), "b", "nothing that matters changed");
    }
}
