//! `kontiki cert` and `kontiki node`: who was expelled from a cluster.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use crate::{
    Target,
    client::{Client, Refusal},
    status::{self, Format},
    table,
};

const REVOKED: &str = "/kontiki/v1/certificates/revoked";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List what was revoked
    List(ListArgs),
    /// Revoke certificates: who shows one is out within seconds, and stays out
    Revoke(RevokeArgs),
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
#[group(id = "what", required = true, multiple = false, args = ["name", "serial", "file"])]
pub struct RevokeArgs {
    /// All certificates of this common name that were issued until now
    #[arg(long)]
    name: Option<String>,
    /// The certificate with this serial number, in hexadecimal digits
    #[arg(long)]
    serial: Option<String>,
    /// The certificate in this file: PEM, or a kubeconfig
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Subcommand)]
pub enum NodeCommand {
    /// Remove a node for good: its certificates are revoked and its Node object is deleted.
    /// It can come back with a new join token only
    Remove(RemoveArgs),
}

#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Name of the node
    name: String,
    #[command(flatten)]
    target: Target,
}

pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(args) => list(args).await,
        Command::Revoke(args) => revoke(args).await,
    }
}

pub async fn node(command: NodeCommand) -> Result<ExitCode> {
    let NodeCommand::Remove(args) = command;
    let (client, _) = status::find(&args.target)?;
    // First of all, so that it does not register again.
    expel(&client, &json!({"name": format!("system:node:{}", args.name)})).await?;
    match client.delete(&format!("/api/v1/nodes/{}", args.name)).await {
        Ok(_) => println!("node {} removed, its certificates are revoked", args.name),
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code == 404) => {
            println!("there is no node {}; certificates of its name are revoked", args.name);
        }
        Err(error) => return Err(error.context(format!("node {} is out, but its object remains", args.name))),
    }
    Ok(ExitCode::SUCCESS)
}

async fn expel(client: &Client, target: &Value) -> Result<()> {
    client.post(REVOKED, target).await.map(|_| ()).context("revoking certificates")
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let (client, _) = status::find(&args.target)?;
    let list = client.get(REVOKED).await?;
    if args.output == Format::Json {
        println!("{list:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = |key: &str| list[key].as_array().cloned().unwrap_or_default();
    let names = entries("names");
    let names = names.iter().map(|entry| vec!["name".to_owned(), text(&entry["name"]), text(&entry["issuedUntil"])]);
    let serials = entries("serials");
    let serials = serials.iter().map(|serial| vec!["serial".to_owned(), text(serial), String::new()]);
    print!("{}", table::render(&["BY", "WHAT", "ISSUED UNTIL"], &names.chain(serials).collect::<Vec<_>>()));
    Ok(ExitCode::SUCCESS)
}

async fn revoke(args: RevokeArgs) -> Result<ExitCode> {
    let target = match (args.name, args.serial, args.file) {
        (Some(name), _, _) => json!({ "name": name }),
        (_, Some(serial), _) => json!({ "serial": serial }),
        (_, _, Some(file)) => {
            let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            json!({"serial": serial_of(&bytes).with_context(|| file.display().to_string())?})
        }
        (None, None, None) => bail!("--name, --serial or --file says what is to be revoked"),
    };
    let (client, _) = status::find(&args.target)?;
    expel(&client, &target).await?;
    println!("revoked");
    Ok(ExitCode::SUCCESS)
}

/// The serial number of the first certificate in a PEM file, or of the first user's in a kubeconfig.
fn serial_of(bytes: &[u8]) -> Result<String> {
    let der = match CertificateDer::from_pem_slice(bytes) {
        Ok(der) => der,
        Err(_) => {
            let config: Value = serde_yaml_ng::from_slice(bytes).context("neither PEM nor a kubeconfig")?;
            let data = config["users"][0]["user"]["client-certificate-data"].as_str();
            let pem = STANDARD.decode(data.context("it holds no certificate")?.trim())?;
            CertificateDer::from_pem_slice(&pem).map_err(|error| anyhow::anyhow!("its certificate: {error}"))?
        }
    };
    kontiki_tls::serial(&der).context("its certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_found_in_pem_and_in_a_kubeconfig() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x0a, 0xb1]));
        let pem = params.self_signed(&key).unwrap().pem();
        let config = format!("users:\n- user:\n    client-certificate-data: {}\n", STANDARD.encode(&pem));
        assert_eq!(serial_of(pem.as_bytes()).unwrap(), "0ab1");
        assert_eq!(serial_of(config.as_bytes()).unwrap(), "0ab1");
        assert!(serial_of(b"users: []").is_err());
    }
}
