//! How much a node may say. Pure.
//!
//! Invariants
//! - What one node says costs a master bounded memory and writes, whoever speaks in its name.

use std::time::Duration;

/// The largest status, in bytes of JSON: what a pod may take in the store.
pub const STATUS: usize = 1 << 20;
/// The largest event.
pub const EVENT: usize = 64 << 10;
/// Objects of which a report waits to be written at once: some times as many as a node has pods. Whoever reports more
/// reports faster than the group writes, and begins anew.
pub const REPORTS: usize = 2048;
/// Their bytes.
pub const REPORTED: usize = 64 << 20;

/// What is let through at a rate: `burst` at once, and one more each `pause`.
#[derive(Clone, Debug)]
pub struct Rate {
    burst: u32,
    pause: Duration,
    left: u32,
    /// Until when what was let through has been made good, since the beginning.
    since: Duration,
}

impl Rate {
    /// Nothing was let through yet.
    #[must_use]
    pub fn new(burst: u32, pause: Duration) -> Self {
        Self { burst, pause, left: burst, since: Duration::ZERO }
    }

    /// Whether one more is let through, so long after the beginning.
    pub fn admits(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_nanos() / self.pause.as_nanos().max(1);
        let more = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(self.burst);
        // Full is full: time before now fills nothing later.
        self.since = if self.left == self.burst { now } else { self.since + self.pause * more };
        let admitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
        let mut rate = Rate::new(3, Duration::from_millis(100));
        let mut admitted = |at: &[u64]| at.iter().map(|ms| rate.admits(Duration::from_millis(*ms))).collect::<Vec<_>>();
        assert_eq!(admitted(&[0, 0, 0, 0]), [true, true, true, false]);
        assert_eq!(
            admitted(&[99, 100, 100, 150, 200]),
            [false, true, false, false, true],
            "one each tenth of a second"
        );
        assert_eq!(admitted(&[10_000, 10_000, 10_000, 10_000]), [true, true, true, false], "no more than a burst");
    }
}
