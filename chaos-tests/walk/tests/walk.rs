//! The control plane's leader killed before, while and after each of its writes.
//!
//! `WALK=all` walks through all kills instead of some; `WALK=scenario` through all of that one, `WALK=scenario:12:unheard`
//! through one of them. `SEED=n` decides chance, and which kills are some.

use std::env;

use kontiki_plan::planted::Bug;
use kontiki_walk::{Kill, Report, SCENARIOS, Scenario, Share, When, play, table, walk};

fn seed() -> u64 {
    let text = env::var("SEED").unwrap_or_else(|_| "1".to_owned());
    text.parse().unwrap_or_else(|_| panic!("SEED={text} is not a number"))
}

/// One kill of so many, when nobody asks for all.
const SOME: usize = 5;

fn when(word: &str) -> When {
    let found = When::ALL.into_iter().find(|when| format!("{when:?}").to_lowercase() == word);
    found.unwrap_or_else(|| panic!("{word}: before, unheard or after?"))
}

fn scenario(name: &str) -> &'static Scenario {
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("{name} is none of {names:?}"))
}

/// What `WALK` asks for.
fn asked() -> Vec<(&'static Scenario, Share)> {
    let asked = env::var("WALK").unwrap_or_default();
    let everything = |share| SCENARIOS.iter().map(|scenario| (scenario, share)).collect();
    match asked.split(':').collect::<Vec<_>>()[..] {
        [""] => everything(Share::OneOf(SOME)),
        ["all"] => everything(Share::All),
        [name] => vec![(scenario(name), Share::All)],
        [name, write, word] => {
            let write = write.parse().unwrap_or_else(|_| panic!("{write} is not the number of a write"));
            vec![(scenario(name), Share::Only(Kill { write, when: when(word) }))]
        }
        _ => panic!("WALK={asked}: all, scenario, or scenario:write:when"),
    }
}

#[test]
fn every_kill_ends_as_no_kill() {
    let mut reports: Vec<Report> = Vec::new();
    for (scenario, share) in asked() {
        let report = walk(scenario, share, seed(), None);
        report.differences.iter().for_each(|difference| eprintln!("{difference}"));
        reports.push(report);
    }
    eprintln!("{}", table(&reports));
    for report in &reports {
        assert!(report.actions >= 5, "{} has hardly anything to kill in", report.scenario);
    }
    assert_eq!(reports.iter().map(|report| report.differences.len()).sum::<usize>(), 0, "see above");
}

#[test]
fn one_run_plays_the_same_again() {
    let job = scenario("job-counted");
    let kill = Some(Kill { write: 7, when: When::Unheard });
    // The first run in a process makes what all others find.
    let _ = play(job, None, 7, None);
    let (one, other) = (play(job, kill, 7, None), play(job, kill, 7, None));
    assert_eq!(one.writes, other.writes);
    assert_eq!((one.trace, one.seconds), (other.trace, other.seconds));
    assert_ne!(one.trace, play(job, kill, 8, None).trace, "chance has no part in it");
}

#[test]
fn planted_mistakes_are_found() {
    for (bug, name) in
        [(Bug::UncountedPods, "job-counted"), (Bug::EagerSchedule, "cronjob"), (Bug::HastyOwner, "collection")]
    {
        let report = walk(scenario(name), Share::All, seed(), Some(bug));
        let found = report.differences.iter().find(|difference| difference.kill.is_some());
        match found {
            Some(difference) => {
                eprintln!("{bug:?}: {} of {} kills, first {difference}", report.differences.len(), report.kills)
            }
            None => panic!("nobody noticed {bug:?}"),
        }
    }
}
