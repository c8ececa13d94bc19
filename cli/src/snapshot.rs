//! `kontiki snapshot`: the whole state of a cluster as one file.
//!
//! Invariants
//! - A file has its name only once it is whole, verified and on disk.
//! - Restoring never writes into a directory that holds something.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use kontiki_etcd::{BackupInfo, REVISION_BUMP};
use kontiki_files::{Draft, Readers};

use crate::{
    Target,
    status::{self, Format},
    table,
};

/// A server may be busy; one that sends nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often progress is shown.
const SHOW: Duration = Duration::from_millis(200);

#[derive(clap::Subcommand)]
pub enum Command {
    /// Save the state of a running cluster to a file
    Save(SaveArgs),
    /// Verify a file and tell about it
    Status(StatusArgs),
    Restore(RestoreArgs),
}

#[derive(clap::Args)]
pub struct SaveArgs {
    /// Where to write it
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Take what the server that answers has, without asking the leader: for a cluster that has none
    #[arg(long)]
    local: bool,
}

#[derive(clap::Args)]
pub struct StatusArgs {
    /// The file; etcdctl's from a `kontiki store` will do
    file: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Make the directory of the first server of a new cluster from a file.
///
/// Start that server on it; the other servers then join with empty directories. All revisions are raised,
/// so that clients of the old cluster read everything again, and servers of the old cluster are refused.
///
/// A `kontiki server` needs the old cluster's certificates and keys (ca.crt, ca.key, sa.key, sa.pub, encryption.key: the `pki`
/// directory of any of its servers): nodes, kubeconfigs and tokens in the state were signed with them. They
/// have to be in DIR/pki already, or are copied from --pki. Name, addresses and the cluster's networks come
/// from its configuration.
///
/// With --store, the directory is that of a `kontiki store`.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The file; etcdctl's from a `kontiki store` will do
    file: PathBuf,
    /// Directory to make [default: as configured]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the server [default: as configured]
    #[arg(long)]
    name: Option<String>,
    /// How far to raise all revisions
    #[arg(long, value_name = "N", default_value_t = REVISION_BUMP)]
    bump_revision: u64,
    /// Configuration of the server
    #[arg(long, value_name = "FILE", default_value = "/etc/kontiki/server.yaml", conflicts_with = "store")]
    config: PathBuf,
    /// Directory of the old cluster's certificates [default: DIR/pki]
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    pki: Option<PathBuf>,
    /// The directory is that of a `kontiki store`
    #[arg(long, requires_all = ["data_dir", "name", "initial_advertise_peer_urls", "trusted_ca_file"])]
    store: bool,
    /// Where the other members will find it (with --store)
    #[arg(long, value_name = "URL", requires = "store")]
    initial_advertise_peer_urls: Option<String>,
    /// CA of the clients' certificates (with --store)
    #[arg(long, value_name = "FILE", requires = "store")]
    trusted_ca_file: Option<PathBuf>,
    /// CA of the members' certificates, if it is another (with --store)
    #[arg(long, value_name = "FILE", requires = "store")]
    peer_trusted_ca_file: Option<PathBuf>,
}

pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Save(args) => save(args).await,
        Command::Status(args) => tell(&args),
        Command::Restore(args) => restore(&args),
    }
}

async fn save(args: SaveArgs) -> Result<ExitCode> {
    let (client, _) = status::find(&args.target)?;
    let shown = args.file.display();
    // It holds all Secrets.
    let mut draft = Draft::create(&args.file, Readers::Owner).with_context(|| format!("cannot write {shown}"))?;
    let mut progress = Progress::new();
    let path = if args.local { "/kontiki/v1/snapshot?local=true" } else { "/kontiki/v1/snapshot" };
    let downloaded = client
        .with_patience(PATIENCE)
        .download(path, |piece| {
            progress.add(piece.len());
            draft.write_all(piece).with_context(|| format!("cannot write {shown}"))
        })
        .await;
    progress.end();
    downloaded.context("saving a snapshot")?;
    let info = kontiki_etcd::backup_info(draft.path())?;
    draft.publish().with_context(|| format!("cannot write {shown}"))?;
    println!("{shown}: {} bytes, revision {}, {} keys", info.bytes, info.revision, info.keys);
    Ok(ExitCode::SUCCESS)
}

/// How much has come, for a person who waits.
struct Progress {
    terminal: bool,
    bytes: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), bytes: 0, shown: None }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.terminal && self.shown.is_none_or(|at| at.elapsed() >= SHOW) {
            self.shown = Some(Instant::now());
            eprint!("\r{:.1} MiB", self.bytes as f64 / f64::from(1 << 20));
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn tell(args: &StatusArgs) -> Result<ExitCode> {
    let info = kontiki_etcd::backup_info(&args.file)?;
    match args.output {
        Format::Json => println!("{:#}", serde_json::to_value(&info)?),
        Format::Table => print!("{}", show(&info)),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(info: &BackupInfo) -> String {
    let numbers = [info.revision, info.compacted, info.keys, info.leases, info.bytes];
    let mut row: Vec<String> = numbers.iter().map(u64::to_string).collect();
    row.push(info.sha256.clone());
    table::render(&["REVISION", "COMPACTED", "KEYS", "LEASES", "BYTES", "SHA256"], &[row])
}

fn restore(args: &RestoreArgs) -> Result<ExitCode> {
    let (dir, info) = if args.store { restore_store(args)? } else { restore_server(args)? };
    println!(
        "{}: {} keys and {} leases as of revision {}, now {}",
        dir.display(),
        info.keys,
        info.leases,
        info.revision,
        info.revision + args.bump_revision
    );
    Ok(ExitCode::SUCCESS)
}

fn restore_store(args: &RestoreArgs) -> Result<(PathBuf, BackupInfo)> {
    let ca = args.peer_trusted_ca_file.as_ref().or(args.trusted_ca_file.as_ref());
    // clap has seen to it that they are there.
    let (Some(dir), Some(name), Some(url), Some(ca)) =
        (&args.data_dir, &args.name, &args.initial_advertise_peer_urls, ca)
    else {
        bail!("--store needs --data-dir, --name, --initial-advertise-peer-urls and --trusted-ca-file")
    };
    let info = kontiki_etcd::restore(&args.file, dir, name, url, ca, args.bump_revision);
    Ok((dir.clone(), info.map_err(|error| anyhow!(error))?))
}

fn restore_server(args: &RestoreArgs) -> Result<(PathBuf, BackupInfo)> {
    let shown = args.config.display();
    let text = fs::read_to_string(&args.config).with_context(|| format!("reading {shown}"))?;
    let mut config = kontiki_server::Config::from_yaml(&text).with_context(|| shown.to_string())?;
    if let Some(dir) = &args.data_dir {
        config.data_dir.clone_from(dir);
    }
    if let Some(name) = &args.name {
        config.name.clone_from(name);
    }
    let info = kontiki_server::restore(&config, args.pki.as_deref(), &args.file, args.bump_revision)?;
    Ok((config.data_dir, info))
}
