//! A run: clients against a group to which something happens, then everything held against the history.
//!
//! What happens is a [`Plan`] of faults, whose schedule comes from the seed, or a story of its own ([`tell`]). The history is on the disk before it is judged, and is read back
//! from there, so that `nemesis check` sees what the run saw.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    History, Verdict, check,
    clients::{Client, Lie, Shared, balance, last_write, total},
    faults::{Fault, recovered, strike},
    group::{Group, SLOTS, Setup, Store, name},
    history::{Ask, Kind, Line, Mark, Nanos, Outcome, Part, Recorder, Rev, Step},
    leases::BOUND,
    leasing,
    watching::Watcher,
};

/// Clients of single keys and banks, and of leases.
const CLIENTS: u32 = 10;
const LEASING: u32 = 4;
/// Until a new group serves.
const FIRST: Duration = Duration::from_secs(60);
/// Between two faults, in ms.
const QUIET: std::ops::Range<u64> = 500..3000;
/// Kills between two looks at whether everybody is back.
const ROUND: u32 = 20;
/// How many violations are printed.
const SHOWN: usize = 12;

/// What to do to the group.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Faults at random for so long.
    Faults { list: Vec<Fault>, length: Duration },
    /// Each of these once, in this order.
    Story(Vec<Fault>),
    /// kill -9 of some member so many times.
    Kills(u32),
}

/// A run's parameters.
#[derive(Clone, Debug)]
pub struct Options {
    pub setup: Setup,
    pub seed: u64,
    /// Operations a second that all clients together ask for.
    pub rate: u32,
    pub lie: Option<Lie>,
}

/// What came of it.
pub struct Report {
    pub verdict: Verdict,
    pub history: PathBuf,
    pub table: String,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict.violations.is_empty()
    }
}

/// Does what is planned, under clients. Must be called before this process has other threads: it changes the network
/// namespace.
///
/// # Errors
/// The run could not be made; what the store did wrong is in the report instead.
pub fn run(options: &Options, plan: &Plan) -> Result<Report> {
    tell(options, "no-recovery", async |group, shared| hurt(plan, options.seed, group, &shared.recorder).await)
}

/// Lets `story` happen under clients, and judges what they saw. A story that fails breaks `rule`. As for [`run`], there
/// must be no other threads yet.
///
/// # Errors
/// As [`run`].
pub fn tell(
    options: &Options,
    rule: &'static str,
    story: impl AsyncFnOnce(&mut Group, &Arc<Shared>) -> Result<()>,
) -> Result<Report> {
    println!("seed {}", options.seed);
    let group = Group::start(options.setup.clone())?;
    let path = options.setup.out.join("history.jsonl");
    let recorder = Recorder::create(&path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let trouble = runtime.block_on(drive(options, group, recorder, rule, story))?;
    drop(runtime);
    let history = History::load(&path)?;
    let mut verdict = judge(&history);
    for (rule, text) in trouble {
        verdict.fail(rule, text);
    }
    let table = table(&history, &verdict);
    Ok(Report { verdict, history: path, table })
}

/// Every checker, and the bank's sum.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut verdict = check(history);
    for op in &history.ops {
        let Some(answer) = op.answer() else { continue };
        for (step, part) in op.ask.branch(answer.succeeded).iter().zip(&answer.parts) {
            let (Step::Range { from, to }, Part::Items(items)) = (step, part) else { continue };
            let balances: Vec<i64> = items.iter().filter_map(balance).collect();
            if from == "b/" && to == "b0" && !balances.is_empty() && balances.iter().sum::<i64>() != total() {
                verdict.fail("money-lost", format!("{balances:?}: {}", crate::linear::show(op)));
            }
        }
    }
    verdict
}

type Trouble = Vec<(&'static str, String)>;

/// From the first question to the last.
async fn drive(
    options: &Options,
    mut group: Group,
    recorder: Recorder,
    rule: &'static str,
    story: impl AsyncFnOnce(&mut Group, &Arc<Shared>) -> Result<()>,
) -> Result<Trouble> {
    group.healthy(FIRST).await.context("the new group")?;
    let shared = Arc::new(Shared {
        recorder,
        doors: group.doors(),
        lie: options.lie,
        stop: CancellationToken::new(),
        values: AtomicU64::new(0),
    });
    let (goal, goals) = watch::channel(None);
    let mut last = Client::new(&shared, 0, options.seed);
    let first = last.insist(|_| Ask::plain(Kind::Range, vec![everything()])).await.revision + 1;
    ensure!(first <= 2, "the store is at revision {} and should be new", first - 1);
    let mut watchers = watchers(options, &shared, first, &goals);
    last.open_bank().await;
    let clients = clients(options, &shared);
    let mut trouble = Trouble::new();
    let mut terminated = signal(SignalKind::terminate())?;
    let told = tokio::select! {
        // Not cancel-safe, and it need not be: the run ends here.
        told = story(&mut group, &shared) => told,
        _ = tokio::signal::ctrl_c() => bail!("stopped by the user"),
        _ = terminated.recv() => bail!("stopped by the user"),
    };
    trouble.extend(group.deaths().into_iter().map(|death| ("member-died", death)));
    shared.stop.cancel();
    clients.join_all().await;
    match told {
        Ok(()) => finish(&group, &mut last, &goal, &mut watchers, &mut trouble).await?,
        Err(error) => trouble.push((rule, format!("{error:#}"))),
    }
    watchers.abort_all();
    shared.recorder.flush()?;
    Ok(trouble)
}

fn everything() -> Step {
    Step::Range { from: String::new(), to: String::new() }
}

fn watchers(options: &Options, shared: &Arc<Shared>, first: Rev, goal: &watch::Receiver<Option<Rev>>) -> JoinSet<()> {
    let progress = options.setup.store == Store::Kontiki;
    let mut set = JoinSet::new();
    let mut id = 0;
    let mut add = |range, home| {
        let watcher = Watcher::new(shared, id, range, home, progress, options.seed);
        set.spawn(watcher.run(first, goal.clone()));
        id += 1;
    };
    for slot in 0..options.setup.members.max(3) {
        add(("", ""), Some(slot));
    }
    add(("r/05", "r/15"), None);
    add(("b/", "b0"), None);
    set
}

fn clients(options: &Options, shared: &Arc<Shared>) -> JoinSet<()> {
    let pause = Duration::from_secs(1) * CLIENTS / options.rate.max(1);
    let mut set = JoinSet::new();
    for process in 1..=CLIENTS {
        let mut client = Client::new(shared, process, options.seed);
        client.go_to(process as usize % SLOTS);
        set.spawn(client.work(pause));
    }
    for process in CLIENTS + 1..=CLIENTS + LEASING {
        set.spawn(leasing::work(Client::new(shared, process, options.seed)));
    }
    set
}

/// Does what is planned, to the end or to the first fault the group does not recover from.
async fn hurt(plan: &Plan, seed: u64, group: &mut Group, recorder: &Recorder) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    recovered(group, recorder).await.context("before the first fault")?;
    match plan {
        Plan::Kills(count) => kills(group, recorder, *count, &mut rng).await,
        Plan::Story(list) => {
            for fault in list {
                one(group, recorder, *fault, &mut rng).await?;
            }
            Ok(())
        }
        Plan::Faults { list, length } => {
            let end = Instant::now() + *length;
            while Instant::now() < end {
                let able: Vec<Fault> = list.iter().copied().filter(|fault| fault.fits(group)).collect();
                let fault = *able.choose(&mut rng).context("none of the faults fits this group")?;
                one(group, recorder, fault, &mut rng).await?;
                sleep(Duration::from_millis(rng.random_range(QUIET))).await;
            }
            Ok(())
        }
    }
}

async fn one(group: &mut Group, recorder: &Recorder, fault: Fault, rng: &mut StdRng) -> Result<()> {
    let mark = strike(group, recorder, fault, rng).await.with_context(|| format!("after {}", fault.name()))?;
    show(&mark);
    Ok(())
}

/// Prints what was done and how it went.
pub fn show(mark: &Mark) {
    println!("{:8.1} s  {}", seconds(mark.start), line(mark));
}

fn line(mark: &Mark) -> String {
    let back =
        mark.recovered.map_or_else(String::new, |at| format!(", well {:.1} s after it", seconds(at - mark.healed)));
    format!("{:<15} {}: no write for {:.1} s{back}", mark.name, mark.detail, seconds(mark.gap))
}

/// kill -9 at random moments, sometimes of several before the first is back.
async fn kills(group: &mut Group, recorder: &Recorder, count: u32, rng: &mut StdRng) -> Result<()> {
    let mut mark = None;
    for number in 1..=count {
        if mark.is_none() {
            recorder.watch_gap();
            mark = Some(recorder.now());
        }
        let slot = *group.present().choose(rng).expect("a group has members");
        sleep(Duration::from_millis(rng.random_range(0..700))).await;
        group.kill(slot)?;
        if rng.random_bool(0.3) {
            sleep(Duration::from_millis(rng.random_range(0..700))).await;
        }
        group.run(slot)?;
        if number % ROUND == 0 || number == count {
            let healed = recorder.now();
            recovered(group, recorder).await.with_context(|| format!("after {number} kills"))?;
            let start = mark.take().unwrap_or(healed);
            let detail = format!("{number} of {count}");
            let well = Mark {
                name: "kills".into(),
                detail,
                start,
                healed,
                recovered: Some(recorder.now()),
                gap: recorder.gap(),
            };
            show(&well);
            recorder.line(&Line::Fault(well));
        }
    }
    Ok(())
}

/// When all is well again: leases run out, watchers catch up, and all members hold the same.
async fn finish(
    group: &Group,
    last: &mut Client,
    goal: &watch::Sender<Option<Rev>>,
    watchers: &mut JoinSet<()>,
    trouble: &mut Trouble,
) -> Result<()> {
    let longest = Duration::from_secs(leasing::LONGEST.unsigned_abs());
    let deadline = Instant::now() + longest * 2 + Duration::from_nanos(BOUND) + Duration::from_secs(1);
    loop {
        let leased = Step::Range { from: "l/".into(), to: "l0".into() };
        let answer = last.insist(|_| Ask::plain(Kind::Range, vec![leased.clone()])).await;
        let none = answer.parts.iter().all(|part| matches!(part, Part::Items(items) if items.is_empty()));
        if none || Instant::now() > deadline {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let end = last.insist(last_write).await.revision;
    goal.send(Some(end)).ok();
    while let Some(ended) = watchers.join_next().await {
        ended.context("a watcher")?;
    }
    for slot in group.present() {
        last.go_to(slot);
        let read = last.ask(Ask::plain(Kind::Range, vec![everything()])).await;
        if !matches!(read, Outcome::Ok(_)) {
            trouble.push(("no-recovery", format!("{} does not answer at the end: {read:?}", name(slot))));
        }
    }
    match group.alike(end, FIRST).await {
        Ok(hash) => println!("all hash to {hash:08x} at revision {end}"),
        Err(error) => trouble.push(("members-differ", format!("{error:#}"))),
    }
    Ok(())
}

fn seconds(time: Nanos) -> f64 {
    time as f64 / 1e9
}

/// What happened, for people.
#[must_use]
pub fn table(history: &History, verdict: &Verdict) -> String {
    let mut kinds: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for op in &history.ops {
        let column = match op.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Failed(_) => 1,
            Outcome::Unknown(_) => 2,
        };
        kinds.entry(format!("{:?}", op.ask.kind)).or_default()[column] += 1;
    }
    for op in &history.leases {
        let column = match op.outcome {
            crate::history::LeaseOutcome::Ok { .. } => 0,
            crate::history::LeaseOutcome::Failed(_) => 1,
            crate::history::LeaseOutcome::Unknown(_) => 2,
        };
        kinds.entry(format!("lease {:?}", op.ask)).or_default()[column] += 1;
    }
    let mut out = format!("{:<18}{:>9}{:>9}{:>9}\n", "operation", "ok", "failed", "unknown");
    for (kind, [ok, failed, unknown]) in kinds {
        writeln!(out, "{kind:<18}{ok:>9}{failed:>9}{unknown:>9}").expect("a string grows");
    }
    out += &faults_table(&history.faults);
    writeln!(out, "\nchecked:").expect("a string grows");
    for (what, count) in &verdict.checked {
        writeln!(out, "  {count:>9} {what}").expect("a string grows");
    }
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    verdict.violations.iter().for_each(|violation| *rules.entry(violation.rule).or_default() += 1);
    for text in verdict.undecided.iter().take(SHOWN) {
        writeln!(out, "undecided: {text}").expect("a string grows");
    }
    for violation in verdict.violations.iter().take(SHOWN) {
        writeln!(out, "VIOLATION {violation}").expect("a string grows");
    }
    for (rule, count) in rules {
        writeln!(out, "{count:>9} violations of {rule}").expect("a string grows");
    }
    writeln!(out, "{} violations, {} undecided", verdict.violations.len(), verdict.undecided.len())
        .expect("a string grows");
    out
}

fn faults_table(marks: &[Mark]) -> String {
    let mut faults: BTreeMap<&str, (usize, Nanos, Nanos)> = BTreeMap::new();
    for mark in marks {
        let row = faults.entry(&mark.name).or_default();
        row.0 += 1;
        row.1 = row.1.max(mark.gap);
        row.2 = row.2.max(mark.recovered.map_or(Nanos::MAX, |at| at - mark.healed));
    }
    let mut out = format!("\n{:<18}{:>6}{:>16}{:>20}\n", "fault", "count", "no write for", "well after heal");
    for (name, (count, gap, back)) in faults {
        let well = if back == Nanos::MAX { "never".to_owned() } else { format!("{:.1} s", seconds(back)) };
        writeln!(out, "{name:<18}{count:>6}{:>14.1} s{well:>20}", seconds(gap)).expect("a string grows");
    }
    out
}
