//! `api-load compare` and `api-load controllers`: kube-apiserver, with kube-controller-manager, and masters of ours under
//! the same load, in one table.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kontiki_api_load::{
    compare::{Column, Scale, compare},
    controllers::{self, Amounts},
    peer::Kind,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Parser)]
#[command(about = "Loads kube-apiserver and kontiki over the Kubernetes API and compares them")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures all in one run and prints one table.
    Compare(Compare),
    /// Measures controllers: a Deployment, Jobs, CronJobs, leaders that are killed.
    Controllers(Common),
}

#[derive(clap::Args)]
struct Compare {
    #[command(flatten)]
    common: Common,
    /// Pods that memory is measured with, if not the usual number.
    #[arg(long)]
    pods: Option<u64>,
}

#[derive(clap::Args)]
struct Common {
    /// Where the figures go, with every repetition.
    #[arg(long, default_value = "api-load.json")]
    out: PathBuf,
    /// Short and rough.
    #[arg(long)]
    quick: bool,
    /// Only what has this in its title (may be repeated); a word that is in none is answered with all of them
    #[arg(long)]
    only: Vec<String>,
    /// Repetitions, if not the usual number.
    #[arg(long)]
    repeat: Option<usize>,
    /// What is compared; the ratio is the last over the first.
    #[arg(long, value_delimiter = ',', default_values = ["kube-apiserver", "kontiki"], long_help = Kind::NAMES)]
    stores: Vec<Kind>,
    /// Our build, if not $KONTIKI_BIN.
    #[arg(long)]
    kontiki: Option<PathBuf>,
    /// An earlier build of ours, which gets a column before each of ours.
    #[arg(long)]
    before: Option<PathBuf>,
}

impl Compare {
    fn scale(&self) -> Scale {
        let scale = if self.common.quick { Scale::quick() } else { Scale::full() };
        let (repetitions, kept) = (self.common.repeat.unwrap_or(scale.repetitions), self.pods.unwrap_or(scale.kept));
        Scale { repetitions, kept, ..scale }
    }
}

impl Common {
    fn amounts(&self) -> Amounts {
        let amounts = if self.quick { Amounts::quick() } else { Amounts::full() };
        Amounts { repetitions: self.repeat.unwrap_or(amounts.repetitions), ..amounts }
    }

    fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        for kind in &self.stores {
            let ours = matches!(kind, Kind::Kontiki(_));
            if let (true, Some(before)) = (ours, &self.before) {
                columns.push(Column { name: format!("{} before", kind.name()), kind: kind.clone().built(before) });
            }
            let now = self.kontiki.as_ref().map_or(kind.clone(), |bin| kind.clone().built(bin));
            columns.push(Column { name: kind.name().to_owned(), kind: now });
        }
        columns
    }
}

fn main() -> Result<()> {
    let command = Args::parse().command;
    // Thousands of watchers have a socket each, here and at the server, which inherits the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (Command::Compare(Compare { common, .. }) | Command::Controllers(common)) = &command;
    let columns = common.columns();
    let figures = runtime.block_on(async {
        match &command {
            Command::Compare(args) => compare(&columns, &args.scale(), &common.only, &common.out).await,
            Command::Controllers(_) => controllers::run(&columns, &common.amounts(), &common.only, &common.out).await,
        }
    })?;
    figures.save(&common.out)?;
    print!("{figures}");
    Ok(())
}
