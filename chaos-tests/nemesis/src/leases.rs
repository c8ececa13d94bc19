//! Leases against the clock.
//!
//! - A key does not go because its lease ended before the lease can have ended: the start of the last
//!   acknowledged grant or keep-alive, plus the time to live. Its going has no time of its own; it is
//!   known to have gone when anybody knew its revision.
//! - A key is gone within [`BOUND`] after its lease ended. Each fault begins the wait anew: a new leader
//!   gives every lease its full time again.
//! - After an acknowledged revoke no key of the lease is left, and none can be tied to it.
//! - All keys of a lease go at one revision; others' may go with them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{History, LeaseAsk, LeaseOp, LeaseOutcome, Mark, Nanos, Rev},
    order::{Cause, Journal, Row, known},
    verdict::Verdict,
};

const SECOND: Nanos = 1_000_000_000;
/// After its time, a lease's keys may stay this long: an election, a revoke through the log, a slow machine.
pub const BOUND: Nanos = 8 * SECOND;

/// A key's life under a lease.
struct Tied {
    key: String,
    put: Rev,
    /// When it went, and whether its lease was why.
    gone: Option<(Rev, bool)>,
}

/// What a lease was promised.
#[derive(Default)]
struct Lease {
    /// It lives at least until here.
    at_least: Nanos,
    /// Nothing renewed it after this.
    last: Nanos,
    ttl: Nanos,
    revoked: Option<Rev>,
    /// When a revoke was first asked for, acknowledged or not.
    revoke_asked: Option<Nanos>,
}

/// Judges every lease that ever held a key.
#[must_use]
pub fn check(history: &History, journal: &Journal) -> Verdict {
    let mut verdict = Verdict::default();
    let leases = promises(&history.leases);
    let clock = Clock::new(history);
    let tied = tied(journal);
    let (mut ended, mut keys) = (0, 0);
    for (id, held) in &tied {
        let Some(lease) = leases.get(id) else {
            verdict.fail("lease-unknown", format!("{} is tied to lease {id} that nobody made", held[0].key));
            continue;
        };
        keys += held.len();
        ended += usize::from(held.iter().any(|key| matches!(key.gone, Some((_, true)))));
        early(*id, lease, held, &clock, &mut verdict);
        late(*id, lease, held, &clock, &history.faults, &mut verdict);
        revoked(*id, lease, held, &mut verdict);
        together(*id, held, &mut verdict);
    }
    verdict.saw("keys under leases", keys);
    verdict.saw("leases ended", ended);
    let several = |row: &&Row| matches!(&row.cause, Cause::Leases(ended) if ended.len() > 1);
    verdict.saw("revisions that ended several leases", journal.rows.iter().filter(several).count());
    verdict
}

fn promises(ops: &[LeaseOp]) -> BTreeMap<i64, Lease> {
    let mut leases: BTreeMap<i64, Lease> = BTreeMap::new();
    for op in ops {
        let lease = leases.entry(op.lease).or_default();
        let asked = u64::try_from(op.ttl).unwrap_or(0) * SECOND;
        match (op.ask, &op.outcome) {
            (LeaseAsk::Grant | LeaseAsk::KeepAlive, LeaseOutcome::Ok { ttl, .. }) if *ttl > 0 => {
                lease.ttl = lease.ttl.max(u64::try_from(*ttl).unwrap_or(0) * SECOND);
                lease.at_least = lease.at_least.max(op.start + u64::try_from(*ttl).unwrap_or(0) * SECOND);
                lease.last = lease.last.max(op.end);
            }
            (LeaseAsk::Grant | LeaseAsk::KeepAlive, LeaseOutcome::Unknown(_)) => {
                lease.ttl = lease.ttl.max(asked);
                lease.last = lease.last.max(op.end);
            }
            (LeaseAsk::Revoke, outcome) if !matches!(outcome, LeaseOutcome::Failed(_)) => {
                lease.revoke_asked = Some(lease.revoke_asked.map_or(op.start, |first| first.min(op.start)));
                if let LeaseOutcome::Ok { revision, .. } = outcome {
                    lease.revoked = Some(lease.revoked.map_or(*revision, |first| first.min(*revision)));
                }
            }
            _ => {}
        }
    }
    leases
}

fn tied(journal: &Journal) -> BTreeMap<i64, Vec<Tied>> {
    let mut tied: BTreeMap<i64, Vec<Tied>> = BTreeMap::new();
    for row in &journal.rows {
        for change in &row.changes {
            if let Some(before) = change.before.as_ref().filter(|before| before.lease != 0) {
                let by_lease = matches!(&row.cause, Cause::Leases(ended) if ended.contains(&before.lease));
                let held = tied.entry(before.lease).or_default();
                let old = held.iter_mut().find(|tied| tied.key == change.key && tied.gone.is_none());
                if let Some(old) = old {
                    old.gone = Some((row.revision, by_lease));
                }
            }
            if let Some(after) = change.after.as_ref().filter(|after| after.lease != 0) {
                let new = Tied { key: change.key.clone(), put: row.revision, gone: None };
                tied.entry(after.lease).or_default().push(new);
            }
        }
    }
    tied
}

/// Between which times a revision came to be, as far as anybody could tell.
struct Clock {
    /// By revision: the first moment at which it or a later one was known.
    known: Vec<(Rev, Nanos)>,
    /// By revision: the last moment at which the store was asked and still answered with it or an earlier one.
    current: Vec<(Rev, Nanos)>,
}

impl Clock {
    fn new(history: &History) -> Self {
        let mut first: Vec<(Rev, Nanos)> = known(history).iter().map(|known| (known.revision, known.at)).collect();
        first.sort_unstable();
        for index in (1..first.len()).rev() {
            first[index - 1].1 = first[index - 1].1.min(first[index].1);
        }
        let linear = history.ops.iter().filter(|op| !op.ask.serializable);
        let mut last: Vec<(Rev, Nanos)> = linear.filter_map(|op| Some((op.answer()?.revision, op.start))).collect();
        last.sort_unstable();
        for index in 1..last.len() {
            last[index].1 = last[index].1.max(last[index - 1].1);
        }
        Self { known: first, current: last }
    }

    /// `revision` had been made by then.
    fn made_by(&self, revision: Rev) -> Option<Nanos> {
        let index = self.known.partition_point(|(other, _)| *other < revision);
        self.known.get(index).map(|(_, at)| *at)
    }

    /// `revision` had not been made at that time.
    fn not_yet(&self, revision: Rev) -> Option<Nanos> {
        let index = self.current.partition_point(|(other, _)| *other < revision);
        index.checked_sub(1).map(|index| self.current[index].1)
    }
}

fn seconds(at: Nanos) -> f64 {
    at as f64 / 1e9
}

fn early(id: i64, lease: &Lease, held: &[Tied], clock: &Clock, verdict: &mut Verdict) {
    for key in held {
        let Some((revision, true)) = key.gone else { continue };
        let Some(at) = clock.made_by(revision) else { continue };
        let revoked = lease.revoke_asked.is_some_and(|asked| asked <= at);
        if at < lease.at_least && !revoked {
            let (at, until) = (seconds(at), seconds(lease.at_least));
            let text = format!(
                "{} of lease {id} was gone at {at:.3} s (revision {revision}), promised until {until:.3} s",
                key.key
            );
            verdict.fail("lease-ended-early", text);
        }
    }
}

fn late(id: i64, lease: &Lease, held: &[Tied], clock: &Clock, faults: &[Mark], verdict: &mut Verdict) {
    let Some(limit) = deadline(lease.last + lease.ttl, lease.ttl, faults) else { return };
    for key in held {
        let alive = match key.gone {
            Some((_, false)) => continue,
            Some((revision, true)) => clock.not_yet(revision),
            None => clock.not_yet(Rev::MAX),
        };
        if let Some(alive) = alive.filter(|alive| *alive > limit) {
            let (alive, limit, put) = (seconds(alive), seconds(limit), key.put);
            let text = format!(
                "{} of lease {id} (put at {put}) was there at {alive:.3} s, should have gone by {limit:.3} s",
                key.key
            );
            verdict.fail("lease-ended-late", text);
        }
    }
}

/// When the keys must be gone: faults that come before that begin the wait anew. `None` if one never ended.
fn deadline(end: Nanos, ttl: Nanos, faults: &[Mark]) -> Option<Nanos> {
    let mut limit = end + BOUND;
    for fault in faults {
        if fault.start <= limit {
            limit = limit.max(fault.recovered? + ttl + BOUND);
        }
    }
    Some(limit)
}

fn revoked(id: i64, lease: &Lease, held: &[Tied], verdict: &mut Verdict) {
    let Some(revoked) = lease.revoked else { return };
    for key in held {
        if key.put > revoked || key.gone.is_none_or(|(gone, _)| gone > revoked) {
            let text = format!(
                "{} (put at {}, gone at {:?}) outlived the revoke of lease {id} at {revoked}",
                key.key, key.put, key.gone
            );
            verdict.fail("lease-revoked-alive", text);
        }
    }
}

fn together(id: i64, held: &[Tied], verdict: &mut Verdict) {
    let ends: BTreeSet<Rev> = held.iter().filter_map(|key| key.gone.filter(|(_, by)| *by)).map(|(at, _)| at).collect();
    if ends.len() > 1 {
        verdict.fail("lease-torn", format!("keys of lease {id} went at revisions {ends:?}"));
    }
}
