//! Latencies as they are kept: many, so small.

use std::time::Duration;

/// Of sorted tenths of a microsecond, in milliseconds.
pub fn quantile(sorted: &[u32], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    f64::from(sorted[at]) / 1e4
}

/// Tenths of a microsecond: 32 bits of them are seven minutes.
pub fn tenths(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_nanos() / 100).unwrap_or(u32::MAX)
}
