//! `nemesis`: faults on a group of store processes, and checks of what clients saw. Needs root.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kontiki_nemesis::{
    History,
    clients::Lie,
    faults::Fault,
    group::{Setup, Store},
    run::{Options, Plan, fault_names, judge, run, table},
};

#[derive(Parser)]
#[command(about, after_help = format!("faults: {}", fault_names()))]
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
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// Only these, with commas between them.
        #[arg(long, default_value = "")]
        faults: String,
    },
    /// kill -9 of random members, many times.
    Kills {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 500)]
        count: u32,
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

impl Common {
    fn options(self, plan: Plan) -> Result<Options> {
        let pid = std::process::id();
        let out = self.out.unwrap_or_else(|| std::env::temp_dir().join(format!("nemesis-{pid}")));
        let split = |text: &String| {
            let (key, value) = text.split_once('=').with_context(|| format!("{text} has no ="))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let env = self.env.iter().map(split).collect::<Result<_>>()?;
        let setup = Setup { store: self.store, binary: self.binary, members: self.members, out, env };
        let seed = self.seed.unwrap_or_else(rand::random);
        Ok(Options { setup, plan, seed, rate: self.rate, lie: self.lie })
    }
}

fn main() -> Result<ExitCode> {
    let options = match Cli::parse().command {
        Command::Run { common, minutes, faults } => {
            let length = Duration::from_secs_f64(minutes * 60.0);
            common.options(Plan::Faults { list: Fault::parse(&faults)?, length })?
        }
        Command::Kills { common, count } => common.options(Plan::Kills(count))?,
        Command::Check { file } => {
            let history = History::load(&file)?;
            let verdict = judge(&history);
            print!("{}", table(&history, &verdict));
            return Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    };
    let report = run(&options)?;
    print!("{}", report.table);
    println!("history: {}", report.history.display());
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
