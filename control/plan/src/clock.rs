//! What passes while nobody looks: when something was first noticed, and whether this process stood still.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// When each of the things that are so now was first noticed.
#[derive(Debug)]
pub struct FirstSeen<T> {
    times: HashMap<T, Timestamp>,
}

impl<T> Default for FirstSeen<T> {
    fn default() -> Self {
        Self { times: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> FirstSeen<T> {
    /// Since when `what` is so; now, if it was not so before.
    pub fn since(&mut self, what: &T, now: Timestamp) -> Timestamp {
        *self.times.entry(what.clone()).or_insert(now)
    }

    /// It is not so any more.
    pub fn forget(&mut self, what: &T) {
        self.times.remove(what);
    }
}

/// Notices that this process did not run for a while, so that nobody else is blamed for it.
#[derive(Debug)]
pub struct Pulse {
    last: Instant,
}

impl Pulse {
    /// How often it has to beat.
    pub const EVERY: Duration = Duration::from_millis(500);
    /// A longer gap between two beats means that the process stood still.
    const STALL: Duration = Duration::from_secs(3);

    /// Begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { last: now }
    }

    /// One beat. How long the process stood still, if it did.
    pub fn beat(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        (gap > Self::STALL).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::after_seconds;
    use crate::testing::NOW;

    #[test]
    fn time_counts_from_the_first_look_until_it_is_over() {
        let mut seen = FirstSeen::default();
        assert_eq!(seen.since(&"a", NOW), NOW);
        assert_eq!(seen.since(&"a", after_seconds(NOW, 9)), NOW);
        seen.forget(&"a");
        assert_eq!(seen.since(&"a", after_seconds(NOW, 9)), after_seconds(NOW, 9));
    }

    #[test]
    fn a_late_beat_is_a_stall() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for (millis, stalled) in [(500, false), (3000, false), (3001, true), (500, false)] {
            now += Duration::from_millis(millis);
            assert_eq!(pulse.beat(now).is_some(), stalled, "{millis}");
        }
    }
}
