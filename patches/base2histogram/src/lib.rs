//! Histograms with logarithmic buckets, in the part of base2histogram's interface that openraft uses.
//!
//! A bucket spans an eighth of a power of two at the most, so a percentile is at most 12.5 % too low.
//! A histogram takes memory for the values it has seen: at the most 496 counters of eight bytes.

use std::{fmt, marker::PhantomData};

/// Bits of a value that tell its bucket, the highest included.
const PRECISION: u32 = 4;
const PER_POWER: u64 = 1 << (PRECISION - 1);

/// Counts of values by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// By bucket; as long as the largest value needs.
    counts: Vec<u64>,
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: Vec::new(), slots: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `n` times.
    pub fn record_n(&mut self, value: u64, n: u64) {
        let bucket = bucket(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(n);
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The lower end of the bucket that holds the value below which `permille` of all values lie; 0 if there are none.
    #[must_use]
    pub fn permille(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.total()) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|n| {
            seen += u128::from(*n);
            seen >= rank
        });
        found.map_or(0, lower_end)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }
}

fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(PRECISION);
    // Below 2^PRECISION each value has its own bucket; above, each power of two has PER_POWER of them.
    let index = u64::from(shift) * PER_POWER + (value >> shift);
    usize::try_from(index).expect("fewer than 500 buckets")
}

fn lower_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PER_POWER).saturating_sub(1);
    (bucket - shift * PER_POWER) << shift
}

/// Percentiles of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values.
    pub samples: u64,
    /// The 0.1st percentile.
    pub p0_1: u64,
    /// The 1st percentile.
    pub p1: u64,
    /// The 5th percentile.
    pub p5: u64,
    /// The 10th percentile.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p10, p50, p90, p99, .. } = self;
        write!(f, "n={samples} p10={p10} p50={p50} p90={p90} p99={p99}")
    }
}

/// Named histograms, one under the other.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// An empty chart.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    #[must_use]
    #[allow(clippy::should_implement_trait)]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name:>24}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_at_its_lower_end() {
        for power in 0..64 {
            for value in [1_u64 << power, (1 << power) + (1 << power >> 1), u64::MAX >> power] {
                let low = lower_end(bucket(value));
                assert!(low <= value && value - low <= value / 8, "{value} lies in the bucket of {low}");
                assert_eq!(bucket(low), bucket(value));
            }
        }
        assert_eq!((bucket(0), lower_end(0)), (0, 0));
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=10).for_each(|value| histogram.record(value));
        histogram.record_n(1 << 40, 990);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p1, stats.p5), (1000, 1, 10, 1 << 40));
    }
}
