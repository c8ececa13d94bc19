//! `kontiki`: the one binary. Servers, agents, the local cluster and the tools around them.
//!
//! Invariants
//! - Every error ends as one line on standard error and exit code 1; wrong usage as 2 (clap's).
//! - Standard output carries results only; logs go to standard error or a file.
//!
//! Not here: what servers and agents do (kontiki-server, kontiki-agent).

mod alloc;
mod cert;
mod client;
mod diff;
mod encryption;
mod local;
mod member;
mod overlay;
mod recover;
mod service;
mod snapshot;
mod status;
mod table;
mod token;
mod travel;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Kubernetes API, its own Raft log, no etcd.
#[derive(Parser)]
#[command(name = "kontiki", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server (a master)
    #[command(name = "server")]
    Server,
    /// Run an agent (a worker)
    #[command(name = "agent")]
    Agent,
    /// Run the store alone, in etcd's place
    Store(kontiki_etcd::Flags),
    /// Start a highly available cluster on this machine
    Up(local::UpArgs),
    /// Stop the cluster on this machine and leave nothing running
    Down(local::DownArgs),
    /// Show members, leader and nodes
    Status(status::Args),
    /// Print an object as it is, or was
    Get(travel::GetArgs),
    /// Print what became of an object: each change, when, and who made it
    Log(travel::LogArgs),
    /// Make an object what it was before, also one that was deleted
    Undo(travel::UndoArgs),
    /// Manage join tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Manage the servers of a cluster
    #[command(subcommand)]
    Member(member::Command),
    /// Manage the nodes of a cluster
    #[command(subcommand)]
    Node(cert::NodeCommand),
    /// Revoke certificates
    #[command(subcommand)]
    Cert(cert::Command),
    /// Manage the keys of what is ciphertext in the store
    #[command(subcommand)]
    Encryption(encryption::Command),
    /// Save the state of a cluster to a file, and start a new one from it
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    Recover(recover::Args),
    /// Print the version
    Version,
}

/// Where an administrator's commands find the cluster.
#[derive(clap::Args, Clone)]
pub struct Target {
    /// Credentials and address of the cluster
    /// [default: <dir>/kubeconfig, else $KUBECONFIG, else /var/lib/kontiki/server/admin.kubeconfig]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Directory of the local cluster
    #[arg(long, default_value = ".kontiki", value_name = "DIR")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    // `server` and `agent` take every key of their configuration as a flag; those come from a table.
    let command = Cli::command()
        .mut_subcommand("server", service::SERVER.flags())
        .mut_subcommand("agent", service::AGENT.flags());
    let matches = command.get_matches();
    let result = match matches.subcommand() {
        Some(("server", flags)) => service::server(flags),
        Some(("agent", flags)) => service::agent(flags),
        _ => Cli::from_arg_matches(&matches).map_err(Into::into).and_then(|cli| match cli.command {
            Command::Store(flags) => kontiki_etcd::run(flags).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::msg),
            command => tool(command),
        }),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kontiki: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The tools: short-lived, one thread is enough.
fn tool(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Server | Command::Agent | Command::Store(_) => unreachable!("handled before"),
            Command::Up(args) => local::up(args).await,
            Command::Down(args) => local::down(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Get(args) => travel::get(args).await,
            Command::Log(args) => travel::log(args).await,
            Command::Undo(args) => travel::undo(args).await,
            Command::Token(command) => token::run(command).await,
            Command::Member(command) => member::run(command).await,
            Command::Node(command) => cert::node(command).await,
            Command::Cert(command) => cert::run(command).await,
            Command::Encryption(command) => encryption::run(command).await,
            Command::Snapshot(command) => snapshot::run(command).await,
            Command::Recover(args) => recover::run(&args),
            Command::Version => {
                println!("kontiki {}", env!("CARGO_PKG_VERSION"));
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// The chain of causes, each said once.
fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !parts.iter().any(|part| part.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_without_echoes() {
        let error = anyhow::anyhow!("no such\nthing").context("reading x").context("starting");
        assert_eq!(one_line(&error), "starting: reading x: no such thing");
        let echo = anyhow::anyhow!("refused").context("connecting: refused");
        assert_eq!(one_line(&echo), "connecting: refused");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command()
            .mut_subcommand("server", service::SERVER.flags())
            .mut_subcommand("agent", service::AGENT.flags())
            .debug_assert();
    }
}
