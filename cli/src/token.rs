//! `kontiki token create`: admits a server or an agent to the cluster.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use kontiki_server::token::{JoinToken, Purpose};
use kontiki_tls::CaHash;
use serde_json::json;

use crate::{
    Target,
    client::Client,
    status::{self, Format},
};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a token that admits agents for a while, with --server servers too
    Create(CreateArgs),
}

#[derive(clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    target: Target,
    /// Admit one server too: whoever shows such a token first can get the cluster's keys
    #[arg(long)]
    server: bool,
    /// How long the token is valid, such as 30m, 24h or 7d; with --server a day at most
    /// [default: 24h, with --server 1h]
    #[arg(long)]
    ttl: Option<jiff::Span>,
    /// What it is for
    #[arg(long, default_value = "kontiki token create")]
    description: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// A token and what a newcomer needs beside it.
pub struct Admission {
    pub token: String,
    pub ca_hash: String,
    pub expires: Timestamp,
}

pub async fn run(command: Command) -> Result<ExitCode> {
    let Command::Create(args) = command;
    let (client, known) = status::find(&args.target)?;
    // A day is 24 hours here, whatever the calendar says.
    let purpose = if args.server { Purpose::Server } else { Purpose::Agent };
    let ttl = match args.ttl {
        Some(ttl) => ttl.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).context("--ttl")?,
        None if args.server => SignedDuration::from_hours(1),
        None => LONGEST_FOR_SERVERS,
    };
    let admission = create(&client, purpose, ttl, &args.description).await?;
    let (document, _) = status::survey(&client, &known).await;
    let members = status::need(document["members"].as_array().map(|_| &document["members"]), "members")?;
    let servers: Vec<String> =
        members.as_array().into_iter().flatten().filter_map(|m| m["node"].as_str().map(str::to_owned)).collect();
    match args.output {
        Format::Json => println!(
            "{:#}",
            json!({"token": admission.token, "caHash": admission.ca_hash, "expires": admission.expires.to_string(), "servers": servers})
        ),
        Format::Table => {
            let Admission { token, ca_hash, expires } = admission;
            let servers = servers.join(",");
            println!("token:    {token}\nca-hash:  {ca_hash}\nexpires:  {expires:.0}\n");
            println!(
                "kontiki agent --name NAME --node-ip ADDRESS --servers {servers} --token {token} --ca-hash {ca_hash}"
            );
            if purpose == Purpose::Server {
                println!(
                    "kontiki server --name NAME --advertise-address ADDRESS --join-servers {servers} --join-token {token} --join-ca-hash {ca_hash}"
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever finds such a token later gets nothing for it.
const LONGEST_FOR_SERVERS: SignedDuration = SignedDuration::from_hours(24);

/// Stores a new token in the cluster.
pub async fn create(client: &Client, purpose: Purpose, ttl: SignedDuration, description: &str) -> Result<Admission> {
    if ttl < SignedDuration::from_secs(60) {
        bail!("a token must be valid for a minute at least");
    }
    if purpose == Purpose::Server && ttl > LONGEST_FOR_SERVERS {
        bail!("a token for servers is valid for a day at most");
    }
    let token = JoinToken::random();
    let expires = Timestamp::now().checked_add(ttl).context("--ttl is too long")?;
    let secret = token.to_secret(purpose, Some(expires), description);
    client.post("/api/v1/namespaces/kube-system/secrets", &secret).await.context("storing the token")?;
    let ca_hash = CaHash::of_certificate(&client.ca_der()?).context("the cluster's CA certificate")?.to_string();
    Ok(Admission { token: token.reveal(), ca_hash, expires })
}
