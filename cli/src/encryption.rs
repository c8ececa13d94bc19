//! `kontiki encryption`: the keys of what is sealed in the store.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    Target,
    status::{self, Format},
    table,
};

const DATA_KEYS: &str = "/kontiki/v1/data-keys";

#[derive(clap::Subcommand)]
pub enum Command {
    /// Show how many values lie under which data key; key 0: they are not sealed yet
    Status(StatusArgs),
    /// Make a new data key. Everything comes under it in the background
    Rotate(RotateArgs),
}

#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(clap::Args)]
pub struct RotateArgs {
    #[command(flatten)]
    target: Target,
}

pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Status(args) => show(args).await,
        Command::Rotate(args) => rotate(args).await,
    }
}

async fn show(args: StatusArgs) -> Result<ExitCode> {
    let (client, _) = status::find(&args.target)?;
    let document = client.get(DATA_KEYS).await?;
    if args.output == Format::Json {
        println!("{document:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = document["dataKeys"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> =
        rows.map(|row: &Value| vec![row["key"].to_string(), row["values"].to_string()]).collect();
    print!("{}", table::render(&["KEY", "VALUES"], &rows));
    Ok(ExitCode::SUCCESS)
}

async fn rotate(args: RotateArgs) -> Result<ExitCode> {
    let (client, _) = status::find(&args.target)?;
    let made = client.post(DATA_KEYS, &json!({})).await.context("making a data key")?;
    println!("data key {} seals from now on; older values come under it in the background", made["dataKey"]);
    Ok(ExitCode::SUCCESS)
}
