//! `kontiki member`: the servers of a cluster.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{
    Target,
    status::{self, Format},
    table,
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the servers
    List(ListArgs),
    /// Remove a server from the cluster for good, for example one that is lost
    Remove(RemoveArgs),
}

#[derive(clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Name of the server
    name: String,
    #[command(flatten)]
    target: Target,
}

pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(args) => list(args).await,
        Command::Remove(args) => remove(args).await,
    }
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let (client, known) = status::find(&args.target)?;
    let (document, answered) = status::survey(&client, &known).await;
    if !answered {
        bail!("no server answers");
    }
    let members = &document["members"];
    if args.output == Format::Json {
        println!("{members:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = members
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| ["name", "id", "role", "address"].iter().map(|key| text(&m[*key])).collect())
        .collect();
    print!("{}", table::render(&["NAME", "ID", "ROLE", "ADDRESS"], &rows));
    Ok(ExitCode::SUCCESS)
}

async fn remove(args: RemoveArgs) -> Result<ExitCode> {
    let (client, _) = status::find(&args.target)?;
    client
        .delete(&format!("/kontiki/v1/members/{}", args.name))
        .await
        .with_context(|| format!("removing server {}", args.name))?;
    println!("server {} removed", args.name);
    Ok(ExitCode::SUCCESS)
}
