//! Delays between attempts that keep failing.
//!
//! - [`Backoff`]: 10 s, doubled up to 5 minutes, forgotten after 10 quiet minutes. Crashing containers and failing image
//!   pulls use the same curve, as in kubelet.
//! - [`Exponential`]: by the number of failures in a row, forgotten with the first success. Volumes and sandboxes.

use jiff::{SignedDuration, Timestamp};

/// The first delay.
pub const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// No delay is longer.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);
/// Without a failure for this long, the next failure starts again at [`FIRST`].
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// The delay of one container or image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How long to wait after the next failure.
    pub delay: SignedDuration,
    /// When it last grew.
    pub updated: Timestamp,
}

impl Backoff {
    /// The delay after another attempt begins at `now`.
    #[must_use]
    pub fn next(previous: Option<Self>, now: Timestamp) -> Self {
        let delay = match previous {
            Some(previous) if now.duration_since(previous.updated) <= FORGET => (previous.delay * 2).min(MAX),
            _ => FIRST,
        };
        Self { delay, updated: now }
    }

    /// When an attempt may follow a failure at `failed`. `None`: at once.
    #[must_use]
    pub fn until(this: Option<Self>, failed: Timestamp) -> Option<Timestamp> {
        let this = this?;
        if failed.duration_since(this.updated) > FORGET {
            return None;
        }
        failed.checked_add(this.delay).ok()
    }
}

/// A delay that doubles with each failure in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exponential {
    pub first: SignedDuration,
    pub max: SignedDuration,
}

/// Between attempts to mount a pod's volumes, as kubelet's operation executor waits.
pub const MOUNT: Exponential = Exponential { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(122) };
/// Between attempts at a sandbox that cannot be made.
pub const SANDBOX: Exponential =
    Exponential { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(15) };

impl Exponential {
    /// The delay after this many failures in a row; none after none.
    #[must_use]
    pub fn after(self, failures: u32) -> SignedDuration {
        match failures.checked_sub(1) {
            None => SignedDuration::ZERO,
            Some(doublings) => (self.first * (1 << doublings.min(16))).min(self.max),
        }
    }
}

/// A delay as Go prints it: `10s`, `1m20s`, `5m0s`.
#[must_use]
pub fn go_duration(delay: SignedDuration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes_and_forgets() {
        let mut now = Timestamp::from_second(1_000_000).expect("in range");
        let mut backoff = None;
        assert_eq!(Backoff::until(backoff, now), None);
        let mut seen = Vec::new();
        for _ in 0..7 {
            backoff = Some(Backoff::next(backoff, now));
            seen.push(backoff.expect("just set").delay.as_secs());
            now = Backoff::until(backoff, now).expect("waits");
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(Backoff::until(backoff, later), None);
        assert_eq!(Backoff::next(backoff, later).delay, FIRST);
    }

    #[test]
    fn failures_in_a_row_wait_twice_as_long() {
        for (name, curve, expect) in [
            ("volumes", MOUNT, [0, 1, 2, 4, 8, 16, 32, 64, 122, 122]),
            ("sandboxes", SANDBOX, [0, 1, 2, 4, 8, 15, 15, 15, 15, 15]),
        ] {
            let seconds: Vec<i64> = (0..10).map(|failures| curve.after(failures).as_secs()).collect();
            assert_eq!(seconds, expect, "{name}");
            assert_eq!(curve.after(u32::MAX), curve.max, "{name}");
        }
    }

    #[test]
    fn prints_as_go() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s")] {
            assert_eq!(go_duration(SignedDuration::from_secs(seconds)), text);
        }
    }
}
