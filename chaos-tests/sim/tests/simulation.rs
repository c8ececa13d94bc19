//! The store played on virtual time: many seeds, one seed again, and mistakes made on purpose.
//!
//! `SIM=N` plays N seeds instead of a few hundred, `SEED=n` one of them, `FROM=n` those from n on.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use kontiki_sim::{Options, Report, run, table};
use kontiki_store::planted::{Bug, plant};

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Plays seeds on all cores, until one fails.
fn play(seeds: std::ops::Range<u64>, bug: Option<Bug>, loud: bool) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let reports: Mutex<Vec<Report>> = Mutex::default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                plant(bug);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(seed, Options::default());
                    let failed = report.failure.is_some();
                    let mut reports = reports.lock().expect("nobody panics with it");
                    reports.push(report);
                    if loud && reports.len().is_multiple_of(500) {
                        eprintln!("{} seeds", reports.len());
                    }
                    if failed {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("nobody panics with it");
    reports.sort_by_key(|report| report.seed);
    reports
}

#[test]
fn no_seed_breaks_an_invariant() {
    if env::var_os("SEED").is_some() {
        return;
    }
    let from = number("FROM").unwrap_or(0);
    let count = number("SIM").unwrap_or(60);
    assert!(count > 0, "SIM=0 plays nothing");
    let began = Instant::now();
    let reports = play(from..from + count, None, true);
    eprintln!("{}", table(&reports, began.elapsed().as_secs_f64()));
    if let Some(failure) = reports.iter().find_map(|report| report.failure.as_ref()) {
        panic!("{failure}");
    }
}

#[test]
fn one_seed_plays_the_same_again() {
    let seed = number("SEED").unwrap_or(7);
    let one = run(seed, Options::default());
    eprintln!("{}", table(std::slice::from_ref(&one), 1.0));
    eprintln!("seed {seed}: {} steps, trace {:016x}, {} ms", one.steps, one.trace, one.virtual_ms);
    if let Some(failure) = &one.failure {
        panic!("{failure}");
    }
    let other = run(seed, Options::default());
    assert_eq!((one.trace, one.steps, one.virtual_ms), (other.trace, other.steps, other.virtual_ms), "seed {seed}");
}

/// A seed that has shown a mistake, to save the time of looking for one.
fn first(bug: Bug) -> u64 {
    match bug {
        Bug::SkippedWatchEvent => 24,
        Bug::SnapshotBeforeRows => 9,
        Bug::WatchSkipsSnapshot => 4,
        Bug::SweepsLiveRows => 3,
        _ => 0,
    }
}

#[test]
fn planted_mistakes_are_found() {
    let only = env::var("BUG").ok();
    let mut missed = Vec::new();
    // All members of a simulation make a mistake alike, and would stay equal; real processes are given this one singly.
    let alike = |bug: &Bug| *bug == Bug::StateDiverges;
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| !alike(bug)).collect();
    let wanted = |bug: &Bug| only.as_ref().is_none_or(|only| bug.name() == *only);
    let names = || bugs.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    assert!(bugs.iter().any(wanted), "BUG={} is none of these: {}", only.clone().unwrap_or_default(), names());
    for bug in bugs.iter().copied().filter(wanted) {
        let began = Instant::now();
        let from = first(bug);
        let reports = play(from..from + 60, Some(bug), false);
        let found = reports.iter().find_map(|report| report.failure.as_ref());
        match found {
            Some(failure) => eprintln!(
                "{:<22} seed {:>3}, step {:>2}, {:.1} s: {}: {}",
                bug.name(),
                failure.seed,
                failure.step,
                began.elapsed().as_secs_f64(),
                failure.invariant,
                failure.detail
            ),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "nobody noticed: {missed:?}");
}
