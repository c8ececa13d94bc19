//! What came of playing seeds.

use std::fmt::{self, Write as _};

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Faults and changes by name.
    pub faults: std::collections::BTreeMap<&'static str, u64>,
    /// Terms that had a leader.
    pub elections: u64,
    /// Snapshots that took a member to a new state.
    pub installed: u64,
    /// Log truncations.
    pub truncated: u64,
    /// Writes undone by power failures.
    pub writes_lost: u64,
    /// Revisions.
    pub revisions: u64,
    /// Transactions that were acknowledged, refused for certain, and left open.
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Linearizable reads and reads of the past that were checked.
    pub reads: u64,
    pub past_reads: u64,
    /// Events that watchers saw.
    pub watched: u64,
}

impl Counts {
    /// Adds another seed's counts.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (mine, theirs) in [
            (&mut self.elections, other.elections),
            (&mut self.installed, other.installed),
            (&mut self.truncated, other.truncated),
            (&mut self.writes_lost, other.writes_lost),
            (&mut self.revisions, other.revisions),
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.refused, other.refused),
            (&mut self.unknown, other.unknown),
            (&mut self.reads, other.reads),
            (&mut self.past_reads, other.past_reads),
            (&mut self.watched, other.watched),
        ] {
            *mine += theirs;
        }
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// The schedule's step, and virtual time in milliseconds.
    pub step: u64,
    pub at: u128,
    /// Which invariant, and how it was broken.
    pub invariant: &'static str,
    pub detail: String,
    /// The last things that happened.
    pub last: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, step, at, invariant, detail, last } = self;
        writeln!(f, "seed {seed}, step {step}, {at} ms: {invariant}: {detail}")?;
        for line in last {
            writeln!(f, "    {line}")?;
        }
        write!(f, "again: SEED={seed} cargo test --workspace --test simulation one_seed -- --nocapture")
    }
}

/// What came of one seed.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Steps of tasks, the digest of all of them, and what virtual time passed.
    pub steps: u64,
    pub trace: u64,
    pub virtual_ms: u128,
    pub counts: Counts,
    pub failure: Option<Failure>,
}

/// The sum of many seeds, for people.
#[must_use]
pub fn table(reports: &[Report], seconds: f64) -> String {
    let mut all = Counts::default();
    reports.iter().for_each(|report| all.add(&report.counts));
    let steps: u64 = reports.iter().map(|report| report.steps).sum();
    let virtual_ms: u128 = reports.iter().map(|report| report.virtual_ms).sum();
    let failures = reports.iter().filter(|report| report.failure.is_some()).count();
    let mut out = String::new();
    let seeds = reports.len();
    let rate = seeds as f64 / seconds.max(0.001);
    let _ = writeln!(out, "{seeds} seeds in {seconds:.1} s ({rate:.1}/s), {} s of virtual time", virtual_ms / 1000);
    for (name, count) in [
        ("steps", steps),
        ("elections", all.elections),
        ("snapshots installed", all.installed),
        ("log truncations", all.truncated),
        ("writes lost by power failures", all.writes_lost),
        ("revisions", all.revisions),
        ("transactions acknowledged", all.acknowledged),
        ("transactions refused", all.refused),
        ("transactions left open", all.unknown),
        ("linearizable reads", all.reads),
        ("reads of the past", all.past_reads),
        ("events watched", all.watched),
    ] {
        let _ = writeln!(out, "  {name:<32}{count:>12}");
    }
    for (name, count) in &all.faults {
        let _ = writeln!(out, "  fault: {name:<25}{count:>12}");
    }
    let _ = write!(out, "  {:<32}{failures:>12}", "violations");
    out
}
