//! The pods that wait for a node.
//!
//! Invariants
//! - A pod is in exactly one place: active (by priority, then by age), in back-off until a time, or
//!   unschedulable until something changes that may help it, or a flush.
//! - A pod that failed is not tried before its back-off is over, whatever happens.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kontiki_plan::scheduler::{PluginSet, PodInfo};

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

/// Numbers of pods, by where they wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Waiting {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Backoff { until: Instant },
    Unschedulable { flush: Instant },
}

struct Waiter {
    candidate: Candidate,
    /// Order among equals.
    number: u64,
    failures: u32,
    last_failure: Instant,
    /// The plugins that refused it the last time.
    rejectors: PluginSet,
    place: Place,
}

/// See the module.
#[derive(Default)]
pub(crate) struct SchedulingQueue {
    waiters: HashMap<String, Waiter>,
    active: BTreeSet<(Reverse<i32>, u64, String)>,
    backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeSet<(Instant, String)>,
    next: u64,
}

fn same_wants(old: &Pod, new: &Pod) -> bool {
    old.spec == new.spec && old.metadata.labels == new.metadata.labels
}

fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LAST_BACKOFF)
}

impl SchedulingQueue {
    /// How many pods wait where.
    pub fn waiting(&self) -> Waiting {
        Waiting { active: self.active.len(), backoff: self.backoff.len(), unschedulable: self.unschedulable.len() }
    }

    /// A pod came or changed. A change of what it wants makes it active, but not before its back-off
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
        let (failures, last_failure) = old.map_or((0, now), |old| (old.failures, old.last_failure));
        let (rejectors, place) = (PluginSet::default(), Place::Active);
        self.insert(uid.clone(), Waiter { candidate, number, failures, last_failure, rejectors, place });
        self.activate(&uid, now);
    }

    /// A pod does not wait any more.
    pub fn forget(&mut self, uid: &str) {
        self.remove(uid);
    }

    fn insert(&mut self, uid: String, waiter: Waiter) {
        match waiter.place {
            Place::Active => self.active.insert((Reverse(waiter.candidate.info.priority), waiter.number, uid.clone())),
            Place::Backoff { until } => self.backoff.insert((until, uid.clone())),
            Place::Unschedulable { flush } => self.unschedulable.insert((flush, uid.clone())),
        };
        self.waiters.insert(uid, waiter);
    }

    fn remove(&mut self, uid: &str) -> Option<Waiter> {
        let waiter = self.waiters.remove(uid)?;
        let key = uid.to_owned();
        match waiter.place {
            Place::Active => self.active.remove(&(Reverse(waiter.candidate.info.priority), waiter.number, key)),
            Place::Backoff { until } => self.backoff.remove(&(until, key)),
            Place::Unschedulable { flush } => self.unschedulable.remove(&(flush, key)),
        };
        Some(waiter)
    }

    fn move_to(&mut self, uid: &str, place: Place) {
        if let Some(waiter) = self.remove(uid) {
            self.insert(uid.to_owned(), Waiter { place, ..waiter });
        }
    }

    /// Active as soon as the back-off allows.
    fn activate(&mut self, uid: &str, now: Instant) {
        let Some(waiter) = self.waiters.get(uid) else { return };
        let until = waiter.last_failure + backoff(waiter.failures);
        let waits = waiter.failures > 0 && until > now;
        self.move_to(uid, if waits { Place::Backoff { until } } else { Place::Active });
    }

    /// Something changed. Whether that helps is asked once for all pods of one spec that the same
    /// plugins refused.
    pub fn wake(&mut self, now: Instant, mut helps: impl FnMut(&PodInfo, PluginSet) -> bool) {
        let mut answers = HashMap::new();
        let mut woken = Vec::new();
        for (_, uid) in &self.unschedulable {
            let Some(waiter) = self.waiters.get(uid) else { continue };
            let (info, rejectors) = (&waiter.candidate.info, waiter.rejectors);
            if *answers.entry((info.spec.fingerprint(), rejectors)).or_insert_with(|| helps(info, rejectors)) {
                woken.push(uid.clone());
            }
        }
        woken.iter().for_each(|uid| self.activate(uid, now));
    }

    /// The next pod to try. It stays here until it is forgotten or has failed.
    pub fn next(&mut self, now: Instant) -> Option<Candidate> {
        for delayed in
            [|queue: &Self| queue.backoff.first().cloned(), |queue: &Self| queue.unschedulable.first().cloned()]
        {
            while let Some((_, uid)) = delayed(self).filter(|(at, _)| *at <= now) {
                self.move_to(&uid, Place::Active);
            }
        }
        let (_, _, uid) = self.active.first()?;
        self.waiters.get(uid).map(|waiter| waiter.candidate.clone())
    }

    fn note_failure(&mut self, uid: &str, rejectors: PluginSet, now: Instant) {
        if let Some(waiter) = self.waiters.get_mut(uid) {
            waiter.failures = waiter.failures.saturating_add(1);
            waiter.last_failure = now;
            waiter.rejectors = rejectors;
        }
    }

    /// The pod fits nowhere, because of `rejectors`.
    pub fn unschedulable(&mut self, uid: &str, rejectors: PluginSet, now: Instant) {
        self.note_failure(uid, rejectors, now);
        self.move_to(uid, Place::Unschedulable { flush: now + FLUSH });
    }

    /// Its binding failed: once more, after the back-off.
    pub fn retry(&mut self, candidate: Candidate, now: Instant) {
        let uid = candidate.info.uid.clone();
        self.put(candidate, now);
        self.note_failure(&uid, PluginSet::default(), now);
        self.activate(&uid, now);
    }

    /// When a pod becomes active by time alone; now, if one is.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.active.is_empty() {
            return Some(now);
        }
        let firsts = [self.backoff.first(), self.unschedulable.first()];
        firsts.into_iter().flatten().map(|(at, _)| *at).min()
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

    fn next(queue: &mut SchedulingQueue, now: Instant) -> String {
        queue.next(now).map(|c| c.info.uid.clone()).unwrap_or_default()
    }

    fn refused(queue: &mut SchedulingQueue, uid: &str, now: Instant) {
        queue.unschedulable(uid, PluginSet::default(), now);
    }

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = (SchedulingQueue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.put(candidate(name, priority), now);
        }
        for expect in ["b", "a", "c", ""] {
            let got = next(&mut queue, now);
            assert_eq!(got, expect);
            queue.forget(&got);
        }
    }

    #[test]
    fn a_failure_waits_for_help_and_for_its_backoff() {
        let (mut queue, now) = (SchedulingQueue::default(), Instant::now());
        queue.put(candidate("a", 0), now);
        refused(&mut queue, "a", now);
        queue.wake(now, |_, _| false);
        assert_eq!(next(&mut queue, now + LAST_BACKOFF), "", "nothing helped");
        assert_eq!(queue.next_due(now), Some(now + FLUSH));
        queue.wake(now, |_, _| true);
        assert_eq!(next(&mut queue, now), "", "help does not shorten the back-off");
        assert_eq!(queue.next_due(now), Some(now + FIRST_BACKOFF));
        assert_eq!(next(&mut queue, now + FIRST_BACKOFF), "a");
        refused(&mut queue, "a", now);
        assert_eq!(next(&mut queue, now + FLUSH), "a", "once in five minutes anyway");
    }

    #[test]
    fn help_that_comes_after_the_backoff_counts_at_once() {
        let (mut queue, now) = (SchedulingQueue::default(), Instant::now());
        queue.put(candidate("a", 0), now);
        for failures in 1..=6 {
            refused(&mut queue, "a", now);
            let expect = [1, 2, 4, 8, 10, 10][failures - 1];
            queue.wake(now, |_, _| true);
            assert_eq!(queue.next_due(now), Some(now + Duration::from_secs(expect)), "after {failures} failures");
        }
        refused(&mut queue, "a", now);
        queue.wake(now + LAST_BACKOFF, |_, _| true);
        assert_eq!(next(&mut queue, now + LAST_BACKOFF), "a");
    }

    #[test]
    fn pods_of_one_spec_ask_once_for_help() {
        let (mut queue, now) = (SchedulingQueue::default(), Instant::now());
        for name in ["a", "b", "c"] {
            queue.put(candidate(name, 0), now);
            refused(&mut queue, name, now);
        }
        let mut asked = 0;
        queue.wake(now + FIRST_BACKOFF, |_, _| {
            asked += 1;
            true
        });
        assert_eq!((asked, queue.active.len()), (1, 3));
        queue.wake(now, |_, _| unreachable!("nobody is unschedulable any more"));
    }

    #[test]
    fn a_change_of_the_pod_itself_keeps_its_place() {
        let (mut queue, now) = (SchedulingQueue::default(), Instant::now());
        queue.put(candidate("a", 0), now);
        queue.put(candidate("b", 0), now);
        queue.put(candidate("a", 0), now);
        assert_eq!(next(&mut queue, now), "a");
        assert_eq!(queue.waiting(), Waiting { active: 2, backoff: 0, unschedulable: 0 });
        refused(&mut queue, "a", now);
        assert_eq!(queue.waiting(), Waiting { active: 1, backoff: 0, unschedulable: 1 });
        queue.put(candidate("a", 0), now);
        assert_eq!(next(&mut queue, now + FIRST_BACKOFF), "b", "nothing that matters changed");
        queue.put(candidate("a", 7), now);
        assert_eq!(next(&mut queue, now), "b", "a new wish does not shorten the back-off");
        assert_eq!(next(&mut queue, now + FIRST_BACKOFF), "a");
    }
}
