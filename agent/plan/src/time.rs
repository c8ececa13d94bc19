//! Times as the API holds them.

use jiff::Timestamp;

/// The second that `at` lies in: a `Time` has no smaller parts.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
