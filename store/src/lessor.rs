//! When leases run out. Only the leader counts: a lease is in the log, how long it still has is not.
//!
//! Invariants
//! - A lease never ends earlier than its time to live after it was granted or last kept alive.
//! - A new leader gives every lease its whole time again: it cannot know when it was kept alive.
//! - A lease whose end has been proposed is not kept alive any more, unless that came to nothing.

use std::{collections::BTreeMap, time::Duration};

use imbl::OrdMap;
use parking_lot::Mutex;

use crate::{Lease, Term, rt::Instant};

/// The clock of the leases of one leader.
#[derive(Default)]
pub(crate) struct Lessor(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// The term in which this member leads, or last led.
    term: Term,
    ends: BTreeMap<i64, End>,
}

#[derive(Clone, Copy)]
struct End {
    at: Instant,
    /// The entry that granted the lease; a later one of the same id is another lease.
    granted: u64,
    /// Its end has been proposed.
    proposed: bool,
}

impl Lessor {
    /// The leases whose time is over; they count as ending from now on.
    pub fn due(&self, term: Term, leases: &OrdMap<i64, Lease>, now: Instant) -> Vec<i64> {
        let mut inner = self.0.lock();
        inner.enter(term);
        inner.ends.retain(|id, end| leases.get(id).is_some_and(|lease| lease.granted == end.granted));
        let mut due = Vec::new();
        for (id, lease) in leases {
            let end = inner.ends.entry(*id).or_insert_with(|| End::of(lease, now));
            if end.at <= now && !end.proposed {
                end.proposed = true;
                due.push(*id);
            }
        }
        due
    }

    /// Ending the lease came to nothing: it is due again.
    pub fn not_ended(&self, id: i64) {
        if let Some(end) = self.0.lock().ends.get_mut(&id) {
            end.proposed = false;
        }
    }

    /// Gives a lease its whole time again. False if it is ending.
    pub fn keep_alive(&self, term: Term, id: i64, lease: &Lease, now: Instant) -> bool {
        let mut inner = self.0.lock();
        inner.enter(term);
        let end = inner.ends.entry(id).or_insert_with(|| End::of(lease, now));
        if !end.proposed || end.granted != lease.granted {
            *end = End::of(lease, now);
        }
        !end.proposed
    }

    /// How long a lease still has.
    pub fn remaining(&self, term: Term, id: i64, lease: &Lease, now: Instant) -> Duration {
        let mut inner = self.0.lock();
        inner.enter(term);
        let end = inner.ends.get(&id).filter(|end| end.granted == lease.granted);
        end.map_or(ttl(lease), |end| if end.at > now { end.at - now } else { Duration::ZERO })
    }
}

impl End {
    /// A lease that has its whole time.
    fn of(lease: &Lease, now: Instant) -> Self {
        Self { at: now + ttl(lease), granted: lease.granted, proposed: false }
    }
}

impl Inner {
    fn enter(&mut self, term: Term) {
        if self.term != term {
            *self = Self { term, ends: BTreeMap::new() };
        }
    }
}

fn ttl(lease: &Lease) -> Duration {
    Duration::from_secs(lease.ttl.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_when_nobody_keeps_them_alive() {
        let lessor = Lessor::default();
        let lease = Lease { ttl: 10, ..Lease::default() };
        let leases: OrdMap<i64, Lease> = [(1, lease.clone()), (2, lease.clone())].into_iter().collect();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(lessor.due(Term(1), &leases, at(0)).is_empty());
        assert!(lessor.keep_alive(Term(1), 1, &lease, at(6)));
        assert_eq!(lessor.remaining(Term(1), 2, &lease, at(6)), Duration::from_secs(4));
        assert!(lessor.due(Term(1), &leases, at(9)).is_empty());
        assert_eq!(lessor.due(Term(1), &leases, at(10)), [2]);
        assert!(lessor.due(Term(1), &leases, at(11)).is_empty(), "proposed once");
        assert!(!lessor.keep_alive(Term(1), 2, &lease, at(11)), "too late");
        lessor.not_ended(2);
        assert!(lessor.keep_alive(Term(1), 2, &lease, at(11)), "it did not end after all");
        assert!(lessor.due(Term(2), &leases, at(50)).is_empty(), "a new leader gives all their time");
        assert_eq!(lessor.due(Term(2), &leases, at(60)), [1, 2]);
        let again = Lease { granted: 9, ..lease };
        assert_eq!(lessor.remaining(Term(2), 1, &again, at(60)), Duration::from_secs(10), "another one of that id");
        assert!(lessor.keep_alive(Term(2), 1, &again, at(60)));
    }
}
