//! `store-load compare`: etcd and `kontiki store` under the same load, in one table.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kontiki_etcd_tests::{
    group::Kind,
    load::{Scale, compare},
};

#[derive(Parser)]
#[command(about = "Loads etcd and kontiki store over the etcd API and compares them")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures both in one run and prints one table.
    Compare {
        /// Where the figures go, with every repetition.
        #[arg(long, default_value = "store-load.json")]
        out: PathBuf,
        /// Short and rough.
        #[arg(long)]
        quick: bool,
        /// Only what has this in its title: put, read, fan-out, memory ...
        #[arg(long, default_value = "")]
        only: String,
        /// Repetitions of each closed load, if not the usual number.
        #[arg(long)]
        repetitions: Option<usize>,
        /// Threads of the generator: it shares the machine with what it measures.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// What is compared; the ratio is the last over the first.
        #[arg(long, value_parser = store, value_delimiter = ',', default_values = ["etcd-3.7", "kontiki"])]
        stores: Vec<Kind>,
    },
}

fn store(name: &str) -> Result<Kind, String> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    kind.ok_or_else(|| format!("known are {}", Kind::ALL.map(Kind::name).join(", ")))
}

fn main() -> Result<()> {
    let Command::Compare { out, quick, only, repetitions, threads, stores } = Args::parse().command;
    let mut scale = if quick { Scale::quick() } else { Scale::full() };
    scale.repetitions = repetitions.unwrap_or(scale.repetitions);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let figures = runtime.block_on(compare(&stores, &scale, &only, &out))?;
    figures.save(&out)?;
    print!("{figures}");
    Ok(())
}
