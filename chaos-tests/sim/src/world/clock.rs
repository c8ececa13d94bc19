//! Members' clocks: each goes at a rate of its own, and its wall clock may be set wrong.

/// The wall clock at the beginning of every world, in Unix seconds.
pub const EPOCH: u64 = 1_800_000_000;

/// A member's idea of time.
#[derive(Clone, Copy)]
pub struct Clock {
    /// World time and own time when the rate was last set.
    pub base: (u64, u64),
    /// Own nanoseconds in a million of the world's.
    pub rate: u64,
    /// Seconds its wall clock is ahead.
    pub skew: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { base: (0, 0), rate: 1_000_000, skew: 0 }
    }
}

impl Clock {
    /// What the monotonic clock shows, in nanoseconds, when the world's shows `now`.
    pub fn local(&self, now: u64) -> u64 {
        let passed = u128::from(now - self.base.0) * u128::from(self.rate) / 1_000_000;
        self.base.1 + passed as u64
    }

    /// What the wall clock shows, in Unix seconds, when the monotonic one shows `local`.
    pub fn unix_seconds(&self, local: u64) -> u64 {
        (EPOCH + local / 1_000_000_000).saturating_add_signed(self.skew)
    }
}
