//! When leases end. Only the leader counts: its end of a lease goes through the log, so every member removes the
//! keys at the same place, and a lease never ends early.
//!
//! Invariants
//! - A new leader gives every lease its whole time again: it does not know when it was last kept alive.
//! - A lease whose end was proposed is not kept alive any more, unless that came to nothing.
//! - A lease that may end stands in the queue once, no later than it ends. Keeping it alive does not move it: whoever
//!   finds it there too early puts it back.
//!
//! Time is how long ago the caller's clock began; nothing here asks one.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use imbl::OrdMap;

use crate::{Lease, Term};

/// The clock of the leases of one leader.
#[derive(Default)]
pub struct Lessor {
    /// The term in which this member leads.
    term: Option<Term>,
    ends: HashMap<i64, End>,
    /// Ids by when to look at them, soonest first.
    queue: BinaryHeap<Reverse<(Duration, i64)>>,
}

struct End {
    at: Duration,
    ttl: Duration,
    /// The entry that granted the lease; a later one of the same id is another lease.
    granted: u64,
    /// Its place in the queue: others that bear its id are of leases that are gone.
    queued: Option<Duration>,
}

impl Lessor {
    /// Begins to count for a leader, unless it does already. `leases` tells all there are.
    pub fn lead(&mut self, term: Term, leases: impl FnOnce() -> OrdMap<i64, Lease>, now: Duration) {
        if self.term == Some(term) {
            return;
        }
        *self = Self { term: Some(term), ..Self::default() };
        leases().iter().for_each(|(id, lease)| self.enter(*id, lease.ttl, lease.granted, now));
    }

    /// Forgets all: this member does not lead.
    pub fn resign(&mut self) {
        *self = Self::default();
    }

    /// A lease was made by the log entry `granted`.
    pub fn granted(&mut self, id: i64, ttl: i64, granted: u64, now: Duration) {
        if self.term.is_some() && self.ends.get(&id).is_none_or(|end| end.granted != granted) {
            self.enter(id, ttl, granted, now);
        }
    }

    /// A lease has ended.
    pub fn ended(&mut self, id: i64) {
        self.ends.remove(&id);
    }

    /// The leases whose time is over; they count as ending from now on.
    pub fn due(&mut self, now: Duration) -> Vec<i64> {
        let mut due = Vec::new();
        while let Some(at) = self.soonest().filter(|at| *at <= now) {
            let Some(Reverse((_, id))) = self.queue.pop() else { break };
            if let Some(end) = self.ends.get_mut(&id).filter(|end| end.queued == Some(at)) {
                end.queued = None;
                due.push(id);
            }
        }
        due
    }

    /// When the first lease ends, as things are.
    pub fn soonest(&mut self) -> Option<Duration> {
        while let Some(mut first) = self.queue.peek_mut() {
            let Reverse((at, id)) = *first;
            match self.ends.get_mut(&id).filter(|end| end.queued == Some(at)) {
                None => drop(std::collections::binary_heap::PeekMut::pop(first)),
                Some(end) if end.at > at => {
                    end.queued = Some(end.at);
                    *first = Reverse((end.at, id));
                }
                Some(_) => return Some(at),
            }
        }
        None
    }

    /// Ending the lease came to nothing: it is due again.
    pub fn not_ended(&mut self, id: i64) {
        if let Some(end) = self.ends.get_mut(&id).filter(|end| end.queued.is_none()) {
            end.queued = Some(end.at);
            self.queue.push(Reverse((end.at, id)));
        }
    }

    /// Gives a lease its whole time again. False if it is ending.
    pub fn keep_alive(&mut self, id: i64, lease: &Lease, now: Duration) -> bool {
        // What the caller has seen applied may not have been told here yet.
        self.granted(id, lease.ttl, lease.granted, now);
        let Some(end) = self.ends.get_mut(&id).filter(|end| end.queued.is_some()) else { return false };
        end.at = now.saturating_add(end.ttl);
        true
    }

    /// How long a lease still has.
    pub fn remaining(&self, term: Term, id: i64, lease: &Lease, now: Duration) -> Duration {
        let known = self.ends.get(&id).filter(|end| self.term == Some(term) && end.granted == lease.granted);
        known.map_or(ttl(lease.ttl), |end| end.at.saturating_sub(now))
    }

    fn enter(&mut self, id: i64, seconds: i64, granted: u64, now: Duration) {
        let ttl = ttl(seconds);
        let at = now.saturating_add(ttl);
        self.ends.insert(id, End { at, ttl, granted, queued: Some(at) });
        self.queue.push(Reverse((at, id)));
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn leases_end_when_nobody_keeps_them_alive() {
        let mut lessor = Lessor::default();
        let lease = Lease { ttl: 10, ..Lease::default() };
        let leases: OrdMap<i64, Lease> = [(1, lease.clone()), (2, lease.clone())].into_iter().collect();
        lessor.lead(Term(1), || leases.clone(), at(0));
        assert_eq!(lessor.soonest(), Some(at(10)));
        assert!(lessor.keep_alive(1, &lease, at(6)));
        assert_eq!(lessor.remaining(Term(1), 2, &lease, at(6)), at(4));
        assert!(lessor.due(at(9)).is_empty());
        assert_eq!(lessor.due(at(10)), [2]);
        assert!(lessor.due(at(11)).is_empty(), "proposed once");
        assert_eq!(lessor.soonest(), Some(at(16)), "as long as the other was kept alive");
        assert!(!lessor.keep_alive(2, &lease, at(11)), "too late");
        lessor.not_ended(2);
        assert!(lessor.keep_alive(2, &lease, at(11)), "it did not end after all");
        lessor.lead(Term(2), || leases.clone(), at(50));
        assert!(lessor.due(at(50)).is_empty(), "a new leader gives all their time");
        assert_eq!(lessor.due(at(60)), [1, 2]);
        lessor.ended(1);
        let again = Lease { granted: 9, ..lease };
        assert_eq!(lessor.remaining(Term(2), 1, &again, at(60)), at(10), "another one of that id");
        assert!(lessor.keep_alive(1, &again, at(60)), "not told of it yet");
        lessor.granted(1, 10, 9, at(65));
        assert_eq!(lessor.due(at(70)), [1], "told twice, and counted from the first");
        lessor.resign();
        assert_eq!((lessor.soonest(), lessor.due(at(99))), (None, vec![]));
    }

    proptest! {
        /// Beside a lessor that looks at all leases every time.
        #[test]
        fn the_queue_finds_what_a_walk_finds(steps in proptest::collection::vec((0..4u8, 0..6i64, 0..5u64), 1..200)) {
            let mut lessor = Lessor::default();
            lessor.lead(Term(1), OrdMap::new, at(0));
            let mut walked: std::collections::BTreeMap<i64, (u64, i64, bool)> = Default::default();
            let mut now = 0;
            for (index, (what, id, wait)) in steps.into_iter().enumerate() {
                now += wait;
                let (granted, ttl) = (index as u64, id + 2);
                match what {
                    0 if !walked.contains_key(&id) => {
                        lessor.granted(id, ttl, granted, at(now));
                        walked.insert(id, (now + ttl.unsigned_abs(), granted.cast_signed(), false));
                    }
                    1 => if let Some((end, granted, proposed)) = walked.get_mut(&id) {
                        let lease = Lease { ttl, granted: granted.cast_unsigned(), ..Lease::default() };
                        prop_assert_eq!(lessor.keep_alive(id, &lease, at(now)), !*proposed);
                        if !*proposed { *end = now + ttl.unsigned_abs(); }
                    }
                    2 => {
                        lessor.ended(id);
                        walked.remove(&id);
                    }
                    3 => if let Some((_, _, proposed)) = walked.get_mut(&id) {
                        lessor.not_ended(id);
                        *proposed = false;
                    }
                    _ => {}
                }
                let mut due = lessor.due(at(now));
                due.sort_unstable();
                let over = walked.iter_mut().filter(|(_, (end, _, proposed))| *end <= now && !*proposed);
                let over: Vec<i64> = over.map(|(id, (_, _, proposed))| { *proposed = true; *id }).collect();
                prop_assert_eq!(due, over);
            }
        }
    }
}
