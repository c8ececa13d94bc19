//! The session with a master: when it is given up, and when the next one is tried.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A master that has been silent for this long is left: two heartbeats unanswered.
pub const SILENCE: Duration = Duration::from_secs(4);

/// How long after a heartbeat after which a master renewed the node's Lease nobody takes the node for lost: the leader's
/// patience is ten seconds from the renewal on, and the kernel may be a second late to take an address away.
pub const TENURE: Duration = Duration::from_secs(8);

/// Heartbeats that no master has said anything of yet, beyond the latest.
const REMEMBERED: usize = 16;

/// The heartbeats of a session: when each was sent.
#[derive(Debug, Default)]
pub struct Beats {
    last: u64,
    sent: VecDeque<(u64, Instant)>,
}

impl Beats {
    /// The next is sent: its number.
    pub fn next(&mut self, now: Instant) -> u64 {
        self.last += 1;
        self.sent.push_back((self.last, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        self.last
    }

    /// When a heartbeat was sent, of which a master says something; those before it are no longer of interest.
    pub fn sent(&mut self, sequence: u64) -> Option<Instant> {
        self.sent.retain(|(number, _)| *number >= sequence);
        self.sent.front().filter(|(number, _)| *number == sequence).map(|(_, at)| *at)
    }
}

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
    fn heartbeats_are_found_by_their_number() {
        let (mut beats, begin) = (Beats::default(), Instant::now());
        let at = |number: u64| begin + Duration::from_secs(number);
        for number in 1..=40 {
            assert_eq!(beats.next(at(number)), number);
        }
        for (sequence, expect, name) in [
            (39, Some(at(39)), "one of the latest"),
            (39, Some(at(39)), "the same again: two renewals within one heartbeat"),
            (38, None, "an older one than what was told of"),
            (40, Some(at(40)), "the latest"),
            (41, None, "one that was never sent"),
            (0, None, "none"),
        ] {
            assert_eq!(beats.sent(sequence), expect, "{name}");
        }
    }

    #[test]
    fn pauses_are_spread() {
        for (was_up, chance, expect) in [(true, 0, 0), (true, 255, 50), (false, 0, 300), (false, 255, 700)] {
            assert_eq!(Attempts::pause(was_up, chance).as_millis(), expect, "{was_up} {chance}");
        }
    }
}
