//! Which time is due, and when to look again.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kontiki_model::cron::Schedule;

use crate::object::after_seconds;

/// More missed times than these are told of.
const MANY: i64 = 100;

/// A time that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub at: Timestamp,
    /// Whether very many times have passed since the last one.
    pub many: bool,
}

/// The schedule never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSchedule;

/// The last time that has come since `last`, and not longer ago than `deadline` seconds.
pub(super) fn most_recent(
    schedule: &Schedule,
    zone: &TimeZone,
    last: Timestamp,
    deadline: Option<i64>,
    now: Timestamp,
) -> Result<Option<Due>, NoSchedule> {
    let earliest = deadline.map_or(last, |seconds| last.max(after_seconds(now, seconds.saturating_neg())));
    let next = |after: Timestamp| schedule.next(after, zone).ok_or(NoSchedule);
    let first = next(earliest)?;
    if now < first {
        return Ok(None);
    }
    let second = next(first)?;
    if now < second {
        return Ok(Some(Due { at: first, many: false }));
    }
    let between = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / between + 1;
    let near = first.checked_add(SignedDuration::from_secs((missed - 2).saturating_mul(between))).unwrap_or(first);
    let at = latest(schedule, zone, near.min(now), now).unwrap_or_else(|| search(schedule, zone, first, between, now));
    Ok(Some(Due { at, many: missed > MANY }))
}

/// The last time that has come where the first two did not tell how far apart they are: looked for further and further
/// back, so that few times are passed in vain.
fn search(schedule: &Schedule, zone: &TimeZone, first: Timestamp, between: i64, now: Timestamp) -> Timestamp {
    let mut back = between;
    loop {
        back = back.saturating_mul(2);
        let from = after_seconds(now, back.saturating_neg());
        if from <= first {
            return latest(schedule, zone, first, now).unwrap_or(first);
        }
        if let Some(at) = latest(schedule, zone, from, now) {
            return at;
        }
    }
}

/// The last time after `from` and not after `now`.
fn latest(schedule: &Schedule, zone: &TimeZone, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut found = None;
    let mut at = schedule.next(from, zone);
    while let Some(time) = at.filter(|time| *time <= now) {
        found = Some(time);
        at = schedule.next(time, zone);
    }
    found
}

/// The next time after now: of a schedule of intervals it depends on the last one.
pub(super) fn wake(schedule: &Schedule, zone: &TimeZone, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let base = match most_recent(schedule, zone, last, None, now) {
        Ok(Some(due)) => due.at,
        Ok(None) => last,
        Err(NoSchedule) => now,
    };
    let next = schedule.next(base, zone)?;
    if next > now { Some(next) } else { schedule.next(now, zone) }
}
