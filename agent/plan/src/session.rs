//! The session with a master: when it is given up, and when the next one is tried.

use std::time::Duration;

/// A master that has been silent for this long is left: two heartbeats unanswered.
pub const SILENCE: Duration = Duration::from_secs(4);

/// Failures in a row to get a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts(u32);

impl Attempts {
    /// A session ended, or could not be had. `was_up`: it had been in sync; then the count begins anew.
    pub fn failed(&mut self, was_up: bool) {
        self.0 = if was_up { 1 } else { self.0.saturating_add(1) };
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0
    }

    /// Whether the latest is worth a line in the log: a long outage is told ever less often.
    #[must_use]
    pub fn is_news(self) -> bool {
        self.0.is_power_of_two()
    }

    /// How long to wait before the next: hardly after a working session, when another master is likely to be there.
    /// `chance` spreads the nodes that lost the same master.
    #[must_use]
    pub fn pause(was_up: bool, chance: u8) -> Duration {
        let part = |whole: u64| whole * u64::from(chance) / u64::from(u8::MAX);
        Duration::from_millis(if was_up { part(50) } else { 300 + part(400) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_told_ever_less_often() {
        let mut attempts = Attempts::default();
        let told = (1..40).filter(|_| {
            attempts.failed(false);
            attempts.is_news()
        });
        assert_eq!(told.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32]);
        attempts.failed(true);
        assert_eq!((attempts.count(), attempts.is_news()), (1, true));
    }

    #[test]
    fn pauses_are_spread() {
        for (was_up, chance, expect) in [(true, 0, 0), (true, 255, 50), (false, 0, 300), (false, 255, 700)] {
            assert_eq!(Attempts::pause(was_up, chance).as_millis(), expect, "{was_up} {chance}");
        }
    }
}
