//! How often the same event is written. Pure: time is an argument.
//!
//! Invariants
//! - What happens for the first time is told at once. What happens on and on is told at growing distances, so
//!   that a trouble that lasts for days costs a few dozen writes; every telling has the whole count.
//! - One subject is told of at most [`BURST`] times in a row, then once per [`REFILL`], however the words vary
//!   (the limits of upstream's `EventSourceObjectSpamFilter`).
//! - Memory is bounded: of [`REMEMBERED`] things said, those that nobody said again for long are forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Tellings of one thing that do not wait: a person who looks sees that it repeats.
const AT_ONCE: u32 = 3;
/// Between the tellings after those; it doubles with each.
const GAP: Duration = Duration::from_secs(300);
/// The widest gap, half the life of an Event, so that one of a trouble that lasts does not expire.
const WIDEST_GAP: Duration = Duration::from_secs(1800);
/// A thing that was not said for so long is new when it is said again: its Event has expired.
const FORGOTTEN: Duration = Duration::from_secs(3600);
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Things remembered by one memory, at most.
pub const REMEMBERED: usize = 4096;

/// What is to be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// How often it happened, so far.
    pub count: u32,
    /// How often of that since it was last told.
    pub untold: u32,
}

struct Series {
    count: u32,
    untold: u32,
    tellings: u32,
    due: Instant,
    gap: Duration,
    last: Instant,
}

impl Series {
    fn new(now: Instant) -> Self {
        Self { count: 0, untold: 0, tellings: 0, due: now, gap: GAP, last: now }
    }

    fn told(&mut self, now: Instant) -> Telling {
        self.tellings = self.tellings.saturating_add(1);
        if self.tellings >= AT_ONCE {
            self.due = now + self.gap;
            self.gap = (self.gap * 2).min(WIDEST_GAP);
        }
        Telling { count: self.count, untold: std::mem::take(&mut self.untold) }
    }
}

/// Tokens of one subject.
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let earned = u32::try_from(now.saturating_duration_since(self.filled).as_secs() / REFILL.as_secs());
        let earned = earned.unwrap_or(u32::MAX);
        if self.tokens.saturating_add(earned) >= BURST {
            (self.tokens, self.filled) = (BURST, now);
        } else {
            self.tokens += earned;
            self.filled += REFILL * earned;
        }
        let some = self.tokens > 0;
        self.tokens -= u32::from(some);
        some
    }
}

/// Decides what is told: `S` is whom an event is about, `K` all that makes two events the same one.
pub struct Pace<S, K> {
    series: HashMap<K, Series>,
    subjects: HashMap<S, Bucket>,
}

impl<S, K> Default for Pace<S, K> {
    fn default() -> Self {
        Self { series: HashMap::new(), subjects: HashMap::new() }
    }
}

impl<S: Hash + Eq, K: Hash + Eq> Pace<S, K> {
    /// `what` happened to `subject`, `times` times. `None`: it is counted, and told with a later one.
    pub fn happened(&mut self, subject: S, what: K, times: u32, now: Instant) -> Option<Telling> {
        // Without their memory counts start anew; nothing else is lost.
        make_room(&mut self.series, |series| now.saturating_duration_since(series.last) < GAP);
        make_room(&mut self.subjects, |bucket| now.saturating_duration_since(bucket.filled) < REFILL);
        let series = self.series.entry(what).or_insert_with(|| Series::new(now));
        if now.saturating_duration_since(series.last) >= FORGOTTEN {
            *series = Series::new(now);
        }
        series.last = now;
        series.count = series.count.saturating_add(times);
        series.untold = series.untold.saturating_add(times);
        if series.due > now {
            return None;
        }
        let bucket = self.subjects.entry(subject).or_insert_with(|| Bucket { tokens: BURST, filled: now });
        bucket.take(now).then(|| series.told(now))
    }
}

/// Keeps `known` below [`REMEMBERED`] before something is added: what `matters` no longer goes first, then all.
pub fn make_room<K: Hash + Eq, V>(known: &mut HashMap<K, V>, matters: impl Fn(&V) -> bool) {
    if known.len() >= REMEMBERED {
        known.retain(|_, value| matters(value));
    }
    if known.len() >= REMEMBERED {
        known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `what(second)` every `every` seconds for `seconds`; the seconds and counts of the tellings.
    fn told(every: u64, seconds: u64, what: impl Fn(u64) -> u64) -> Vec<(u64, u32)> {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let tell = |second: u64| {
            let now = start + Duration::from_secs(second);
            pace.happened("pod", what(second), 1, now).map(|telling| (second, telling.count))
        };
        (0..=seconds).step_by(usize::try_from(every).unwrap()).filter_map(tell).collect()
    }

    #[test]
    fn what_goes_on_is_told_less_and_less() {
        let all = [(0, 1), (10, 2), (20, 3), (320, 33), (920, 93), (2120, 213), (3920, 393), (5720, 573)];
        assert_eq!(told(10, 6000, |_| 7), all);
    }

    #[test]
    fn one_subject_is_told_of_in_a_burst_and_then_rarely() {
        let all = told(1, 900, |second| second);
        assert_eq!(all.len(), 25 + 3, "a burst, and one in five minutes");
        assert_eq!(all.iter().map(|(second, _)| *second).skip(25).collect::<Vec<_>>(), [300, 600, 900]);
    }

    #[test]
    fn what_was_long_ago_is_new() {
        assert_eq!(told(3600, 10_800, |_| 7), [(0, 1), (3600, 1), (7200, 1), (10_800, 1)]);
    }

    #[test]
    fn a_telling_says_what_was_not_told() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for (after, times, expect) in [
            (0, 2, Some((2, 2))),
            (0, 1, Some((3, 1))),
            (0, 1, Some((4, 1))),
            (1, 5, None),
            (299, 1, None),
            (300, 1, Some((11, 7))),
        ] {
            let telling = pace.happened("pod", "back-off", times, now + Duration::from_secs(after));
            assert_eq!(telling.map(|t| (t.count, t.untold)), expect, "{after}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for n in 0..3 * REMEMBERED {
            pace.happened(n, n, 1, now);
        }
        assert!(pace.series.len() <= REMEMBERED && pace.subjects.len() <= REMEMBERED);
    }
}
