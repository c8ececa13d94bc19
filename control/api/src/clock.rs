//! Time and chance, as the API gets them from whoever assembles it.
//!
//! Invariants
//! - Every timestamp, uid, generated name, drawn number, pause and time of a token comes from here: with a fixed clock
//!   and fixed entropy the same requests are stored and answered as the same bytes.
//! - Only this file asks the machine (a tidy test looks). Monotonic instants, which measure and end waits, are left out:
//!   nothing that is stored or answered depends on them.

use std::ops::Range;

use jiff::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Gives numbers that nobody can guess.
pub trait Entropy: Send + Sync {
    /// The next number; all are equally likely.
    fn draw(&self) -> u64;
}

/// The machine's own clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl Entropy for System {
    fn draw(&self) -> u64 {
        rand::random()
    }
}

/// A time as `metav1.Time` writes it: whole seconds.
pub(crate) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A number of `range`, which is not empty. For pauses and lifetimes: ranges of a few thousand are even enough so.
pub(crate) fn between(entropy: &dyn Entropy, range: Range<u64>) -> u64 {
    range.start + entropy.draw() % (range.end - range.start)
}

/// A uid (RFC 9562, version 4) made of two drawn numbers.
pub(crate) fn uid(high: u64, low: u64) -> String {
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Entropy for Fixed {
        fn draw(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn drawn_numbers_become_what_is_wanted() {
        for (drawn, expect) in [(0, 5), (1, 6), (2, 7), (3, 5), (u64::MAX, 5)] {
            assert_eq!(between(&Fixed(drawn), 5..8), expect, "{drawn}");
        }
        assert_eq!(uid(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uid(u64::MAX, u64::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(format_time(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_machine_draws_anew() {
        assert_ne!(System.draw(), System.draw());
        assert!(System.now() > Timestamp::UNIX_EPOCH);
    }
}
