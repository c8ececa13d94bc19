//! Stories of faults on `kontiki store` and of its upgrades, and bugs planted in it that must be found.
//!
//! Needs root and the built `kontiki`. Without the standard harness, because the network namespace is changed before
//! there are threads. Arguments: words, of which a story's name has one (none: all stories; a word in no name is an
//! error); `etcd` to try the faults on etcd; `planted` for the bugs, whose binary (built with the feature
//! `planted-bugs`) `KONTIKI_PLANTED_BIN` names, and optionally words in names of bugs.

mod upgrade;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::select::select;
use kontiki_nemesis::{
    faults::Fault,
    group::{Setup, Store},
    run::{Options, Plan, Report, run},
    upgrade::Builds,
};

enum Told {
    Alone(fn() -> Result<()>),
    /// About two builds.
    Upgrade(fn(&Builds) -> Result<()>),
}

const STORIES: &[(&str, Told)] = &[
    ("faults", Told::Alone(|| story(Store::Kontiki))),
    ("rolling-upgrade", Told::Upgrade(upgrade::rolling)),
    ("rollback", Told::Upgrade(upgrade::rollback)),
    ("too-old", Told::Upgrade(upgrade::too_old)),
    ("snapshots-between-builds", Told::Upgrade(upgrade::between_builds)),
    ("old-backup", Told::Upgrade(upgrade::old_backup)),
    ("diverged", Told::Alone(upgrade::diverged)),
];

/// What the short story does to the group, in this order.
const STORY: &[Fault] = &[
    Fault::KillLeader,
    Fault::IsolateLeader,
    Fault::PauseLeader,
    Fault::PowerCutAll,
    Fault::OneWay,
    Fault::TornWrite,
    Fault::Compact,
    Fault::Replace,
    Fault::Restart,
];
const STORY_SEED: u64 = 20;

/// A bug by its name in `KONTIKI_PLANTED_BUG`, the faults that bring it out, and how many seconds they may
/// take. What the etcd API does not show, and what needs a moment that faults from outside do not hit, is left to
/// the simulation, which shows all.
const PLANTED: &[(&str, &[Fault], u64)] = &[
    ("ack-before-sync", &[Fault::PowerCutAll], 60),
    ("stale-read", &[Fault::IsolateLeader, Fault::PauseLeader], 60),
    ("skipped-watch-event", &[Fault::KillOne], 40),
    ("revision-reused", &[Fault::KillOne], 40),
    ("unknown-as-failed", &[Fault::KillLeader, Fault::PauseLeader], 90),
    ("duplicate-apply", &[Fault::PauseLeader, Fault::Loss], 90),
];

fn options(name: &str, binary: Option<PathBuf>, env: Vec<(String, String)>, seed: u64) -> Options {
    let out = std::env::temp_dir().join(format!("nemesis-{}-{name}", std::process::id()));
    let setup = Setup { store: Store::Kontiki, binary, members: 3, out, env };
    Options { setup, seed, rate: 200, lie: None }
}

/// Prints what is worth knowing and keeps the history only where it is wanted.
fn ended(report: &Report, keep: bool) {
    println!("{}", report.table);
    match report.history.parent() {
        Some(dir) if !keep => drop(std::fs::remove_dir_all(dir)),
        _ => println!("history: {}", report.history.display()),
    }
}

fn story(store: Store) -> Result<()> {
    let mut options = options("story", None, Vec::new(), STORY_SEED);
    options.setup.store = store;
    let report = run(&options, &Plan::Story(STORY.to_vec()))?;
    ended(&report, !report.passed());
    ensure!(report.passed(), "the store broke a promise");
    // A check that saw nothing proves nothing.
    for (what, least) in [("operations by key", 500), ("revisions", 150), ("watch events", 500), ("leases ended", 2)] {
        let count = report.verdict.count(what);
        ensure!(count >= least, "only {count} {what}: the story was too quiet to prove anything");
    }
    Ok(())
}

fn planted(words: &[String]) -> Result<()> {
    let bugs = select(PLANTED, |(bug, ..)| bug, words)?;
    let binary = std::env::var_os("KONTIKI_PLANTED_BIN").context("KONTIKI_PLANTED_BIN names no binary")?;
    let mut missed = Vec::new();
    for (bug, faults, seconds) in bugs {
        println!("--- {bug}");
        let env = vec![("KONTIKI_PLANTED_BUG".to_owned(), (*bug).to_owned())];
        let plan = Plan::Faults { list: faults.to_vec(), length: Duration::from_secs(*seconds) };
        let report = run(&options(bug, Some(binary.clone().into()), env, rand::random()), &plan)?;
        ended(&report, report.passed());
        if report.passed() {
            missed.push(*bug);
        }
    }
    ensure!(missed.is_empty(), "not found: {missed:?}");
    Ok(())
}

/// All stories whose name has one of the words, each to its end; then says which failed.
fn stories(words: &[String]) -> Result<()> {
    let wanted = select(STORIES, |(name, _)| name, words)?;
    // Before there are namespaces: a build may want the network.
    let two_builds = wanted.iter().any(|(_, told)| matches!(told, Told::Upgrade(_)));
    let builds = if two_builds { Builds::find()? } else { None };
    let mut failed = Vec::new();
    let mut tell = |name: &'static str, story: &dyn Fn() -> Result<()>| {
        let begun = Instant::now();
        println!("--- {name}");
        let told = story();
        println!(
            "--- {name}: {} in {:.1} s",
            if told.is_ok() { "ok" } else { "FAILED" },
            begun.elapsed().as_secs_f64()
        );
        failed.extend(told.err().map(|error| format!("{name}: {error:#}")));
    };
    for (name, told) in wanted {
        match (told, &builds) {
            (Told::Alone(told), _) => tell(name, told),
            (Told::Upgrade(told), Some(builds)) => tell(name, &|| told(builds)),
            (Told::Upgrade(_), None) => println!("--- {name}: SKIPPED, there is no older build"),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn main() -> Result<ExitCode> {
    // What a test runner passes to every test (`--quiet`) means nothing here.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    match args.first().map(String::as_str) {
        Some("planted") => planted(&args[1..])?,
        Some("etcd") => story(Store::Etcd)?,
        _ => stories(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
