//! The walk through a scenario's kills, and what came of it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kontiki_plan::planted::Bug;
use parking_lot::Mutex;

use crate::killer::{Kill, When};
use crate::play::{Outcome, play};
use crate::scenarios::Scenario;

/// How many of the kills are walked through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// All: three for each write.
    All,
    /// One of so many, another one for each seed.
    OneOf(usize),
    /// One alone.
    Only(Kill),
}

/// A run with a kill that ended in another way than the one without.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The scenario.
    pub scenario: &'static str,
    /// Where its leader died; `None`: nobody did.
    pub kill: Option<Kill>,
    /// That write, in words.
    pub act: String,
    /// What is different.
    pub what: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kill {
            None => write!(f, "{}: nobody died", self.scenario)?,
            Some(Kill { write, when }) => {
                let when = format!("{when:?}").to_lowercase();
                write!(f, "WALK={}:{write}:{when} (at `{}`)", self.scenario, self.act)?;
            }
        }
        self.what.iter().take(8).try_for_each(|what| write!(f, "\n    {what}"))?;
        let more = self.what.len().saturating_sub(8);
        if more > 0 { write!(f, "\n    and {more} more") } else { Ok(()) }
    }
}

/// What came of a scenario's walk.
#[derive(Debug)]
pub struct Report {
    /// The scenario.
    pub scenario: &'static str,
    /// The leader's writes when nobody dies.
    pub actions: usize,
    /// Leaders that died.
    pub kills: usize,
    /// See [`Difference`].
    pub differences: Vec<Difference>,
    /// Runs that went another way before the kill.
    pub strayed: usize,
    /// Real seconds.
    pub seconds: f64,
}

fn kills(share: Share, actions: usize, seed: u64) -> Vec<Kill> {
    let all = (0..actions).flat_map(|write| When::ALL.map(|when| Kill { write, when }));
    match share {
        Share::All => all.collect(),
        Share::Only(kill) => vec![kill],
        Share::OneOf(most) => {
            let skip = usize::try_from(seed % most as u64).unwrap_or(0);
            all.skip(skip).step_by(most).collect()
        }
    }
}

/// What differs between a run with a kill and the one without.
fn compare(kill: Kill, outcome: &Outcome, expected: &Outcome) -> Vec<String> {
    let mut what = outcome.broken.clone();
    if outcome.kills != 1 {
        what.push(format!("{} leaders died around write {}", outcome.kills, kill.write));
    }
    what.extend(outcome.end_state.differences(&expected.end_state));
    what
}

/// Walks through the kills of a scenario, on all cores. With a bug, plans make that mistake, and what they come to is
/// compared with what plans come to that do not.
#[must_use]
pub fn walk(scenario: &Scenario, share: Share, seed: u64, bug: Option<Bug>) -> Report {
    let began = Instant::now();
    let expected = play(scenario, None, seed, None);
    let actions = expected.writes.len();
    let difference = |kill, act: &str, what| Difference { scenario: scenario.name, kill, act: act.to_owned(), what };
    let mut report =
        Report { scenario: scenario.name, actions, kills: 0, differences: Vec::new(), strayed: 0, seconds: 0.0 };
    if !expected.broken.is_empty() {
        report.differences.push(difference(None, "", expected.broken.clone()));
    }
    let kills = kills(share, actions, seed);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(kill) = kills.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play(scenario, Some(*kill), seed, bug);
                    let strayed = outcome.writes.get(..=kill.write) != expected.writes.get(..=kill.write);
                    let act = outcome.writes.get(kill.write).cloned().unwrap_or_default();
                    found.lock().push((*kill, act, strayed, compare(*kill, &outcome, &expected)));
                }
            });
        }
    });
    let mut found = found.into_inner();
    found.sort_by_key(|(kill, ..)| (kill.write, kill.when as u8));
    for (kill, act, strayed, what) in found {
        report.kills += 1;
        report.strayed += usize::from(strayed);
        if !what.is_empty() {
            report.differences.push(difference(Some(kill), &act, what));
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    report
}

/// All reports, in lines.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut out =
        format!("{:<16} {:>7} {:>6} {:>11} {:>8}\n", "scenario", "actions", "kills", "differences", "seconds");
    let mut line = |name: &str, actions: usize, kills: usize, differences: usize, seconds: f64| {
        out += &format!("{name:<16} {actions:>7} {kills:>6} {differences:>11} {seconds:>8.1}\n");
    };
    for report in reports {
        line(report.scenario, report.actions, report.kills, report.differences.len(), report.seconds);
    }
    let sum = |of: fn(&Report) -> usize| -> usize { reports.iter().map(of).sum() };
    let all = format!("all {}", reports.len());
    let seconds: f64 = reports.iter().map(|report| report.seconds).sum();
    line(&all, sum(|r| r.actions), sum(|r| r.kills), sum(|r| r.differences.len()), seconds);
    let strayed = sum(|r| r.strayed);
    if strayed > 0 {
        out += &format!("{strayed} runs went another way before the kill\n");
    }
    out
}
