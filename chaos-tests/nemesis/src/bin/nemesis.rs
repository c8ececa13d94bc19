//! `nemesis`: faults on a group of store processes, and checks of what clients saw. Needs root.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kontiki_etcd_tests::binaries;
use kontiki_nemesis::{
    History,
    clients::Lie,
    faults::{self, Fault},
    group::{Setup, Store},
    run::{Options, Plan, Report, judge, run, table, tell},
    upgrade::{Builds, random::sail},
};
use rand::{SeedableRng, rngs::StdRng};

#[derive(Parser)]
#[command(about, after_help = format!("faults: {}", faults::names()))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Random faults for some minutes.
    Run {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        weather: Weather,
    },
    /// kill -9 of random members, many times.
    Kills {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 500)]
        count: u32,
    },
    /// Members upgraded and downgraded between two builds under random faults, then upgraded for good.
    Upgrade {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        weather: Weather,
        /// The store that knows no feature levels [default: as deploy/older.sh builds it].
        #[arg(long)]
        older: Option<PathBuf>,
    },
    /// Judges a history again.
    Check { file: PathBuf },
}

#[derive(Args)]
struct Common {
    #[arg(long, default_value_t = 3)]
    members: usize,
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, value_enum, default_value = "kontiki")]
    store: Store,
    /// The program to run instead of the one that was built.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Environment of the members, like `NAME=VALUE`.
    #[arg(long)]
    env: Vec<String>,
    /// Operations a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Where the history and the logs go.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Lets the clients lie, to see the checkers find out.
    #[arg(long, value_enum)]
    lie: Option<Lie>,
}

// Which faults, and for how long. No docstring: clap would take it for the command that has them.
#[derive(Args)]
struct Weather {
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Only these, with commas between them.
    #[arg(long, default_value = "")]
    faults: String,
}

impl Weather {
    fn faults(&self) -> Result<Vec<Fault>> {
        Fault::parse(&self.faults)
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }
}

impl Common {
    fn options(self) -> Result<Options> {
        let pid = std::process::id();
        let out = self.out.unwrap_or_else(|| std::env::temp_dir().join(format!("nemesis-{pid}")));
        let split = |text: &String| {
            let (key, value) = text.split_once('=').with_context(|| format!("{text} has no ="))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let env = self.env.iter().map(split).collect::<Result<_>>()?;
        let setup = Setup { store: self.store, binary: self.binary, members: self.members, out, env };
        let seed = self.seed.unwrap_or_else(rand::random);
        Ok(Options { setup, seed, rate: self.rate, lie: self.lie })
    }
}

fn upgrade(common: Common, weather: &Weather, older: Option<PathBuf>) -> Result<Report> {
    let (faults, length) = (weather.faults()?, weather.length());
    let newer = common.binary.clone().map_or_else(binaries::kontiki, Ok)?;
    let older = older.map_or_else(binaries::older, |path| Ok(Some(path)))?;
    let mut options = common.options()?;
    let older = older.context("without an older store there is nothing to upgrade")?;
    let builds = Builds::new(older, newer, &options.setup.env);
    options.setup.binary = Some(builds.older.binary.clone());
    let mut rng = StdRng::seed_from_u64(options.seed);
    tell(&options, "no-recovery", async |group, shared| {
        sail(group, &shared.recorder, &builds, &faults, length, &mut rng).await
    })
}

fn check(file: &Path) -> Result<ExitCode> {
    let history = History::load(file)?;
    let verdict = judge(&history);
    print!("{}", table(&history, &verdict));
    Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> Result<ExitCode> {
    let report = match Cli::parse().command {
        Command::Run { common, weather } => {
            let plan = Plan::Faults { list: weather.faults()?, length: weather.length() };
            run(&common.options()?, &plan)?
        }
        Command::Kills { common, count } => run(&common.options()?, &Plan::Kills(count))?,
        Command::Upgrade { common, weather, older } => upgrade(common, &weather, older)?,
        Command::Check { file } => return check(&file),
    };
    print!("{}", report.table);
    println!("history: {}", report.history.display());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
