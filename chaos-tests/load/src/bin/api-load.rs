//! `api-load compare`: kube-apiserver and masters of ours under the same load, in one table.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kontiki_api_load::{
    compare::{Column, Scale, compare},
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
}

#[derive(clap::Args)]
struct Compare {
    /// Where the figures go, with every repetition.
    #[arg(long, default_value = "api-load.json")]
    out: PathBuf,
    /// Short and rough.
    #[arg(long)]
    quick: bool,
    /// Only what has this in its title: create, update, patch, apply, GET, protobuf, discovery, OpenAPI, LIST, Table,
    /// watch, memory, start ... (may be repeated)
    #[arg(long)]
    only: Vec<String>,
    /// Repetitions, if not the usual number.
    #[arg(long)]
    repeat: Option<usize>,
    /// Pods that memory is measured with, if not the usual number.
    #[arg(long)]
    pods: Option<u64>,
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
        let scale = if self.quick { Scale::quick() } else { Scale::full() };
        let (repetitions, kept) = (self.repeat.unwrap_or(scale.repetitions), self.pods.unwrap_or(scale.kept));
        Scale { repetitions, kept, ..scale }
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
    let Command::Compare(args) = Args::parse().command;
    // Thousands of watchers have a socket each, here and at the server, which inherits the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let figures = runtime.block_on(compare(&args.columns(), &args.scale(), &args.only, &args.out))?;
    figures.save(&args.out)?;
    print!("{figures}");
    Ok(())
}
