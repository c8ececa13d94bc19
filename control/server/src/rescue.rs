//! A server's directory from a backup: the beginning of a new group that holds an old cluster's state.
//!
//! Invariants
//! - The file is verified before the directory is touched; `server.json` comes last, so what was cut off is
//!   refused by a start as well as by the next attempt.
//! - The certificates are the old cluster's own. Its state holds tokens, kubeconfigs and node certificates
//!   that were signed with them, which nobody would accept any more under others.

use std::path::Path;

use anyhow::{Context as _, bail};
use kontiki_store::{BackupInfo, FirstMember};

use crate::{
    config::Config,
    datadir::{DataDir, State},
    pki::Pki,
    run::host_port,
};

/// The id of the only member. Its namesake in the old group is kept away by the new generation.
const FIRST_ID: u64 = 1;

/// Makes the configured directory that of a server which alone is a cluster with the state of a backup.
/// `pki` holds the old cluster's `ca.crt`, `ca.key`, `sa.key` and `sa.pub`, unless the directory does already.
///
/// # Errors
/// The reason, as one line for a person.
pub fn restore(config: &Config, pki: Option<&Path>, file: &Path, bump: u64) -> anyhow::Result<BackupInfo> {
    let settings = config.validate()?;
    let cluster = settings.cluster.settle()?;
    let given = pki.map(Pki::open).transpose()?;
    kontiki_store::backup_info(file)?;
    let (dir, state) = DataDir::open(&settings.data_dir, &settings.name)?;
    if state.is_some() {
        bail!("data_dir: {} holds a server already; nothing was overwritten", settings.data_dir.display());
    }
    let place = dir.join("pki");
    let there = place.join("ca.crt").exists();
    let pki = match given {
        Some(given) if there => {
            if Pki::open(&place)?.ca_hash() != given.ca_hash() {
                bail!("{} holds another cluster's certificates; nothing was overwritten", place.display());
            }
            given
        }
        Some(given) => {
            Pki::install(&place, &given.shared_files()?)?;
            given
        }
        None if there => Pki::open(&place)?,
        None => bail!(
            "{} holds no certificates: the old cluster's are needed (--pki), from any server's pki directory",
            place.display()
        ),
    };
    let address = host_port(settings.advertise, settings.peer_listen.port());
    let first = FirstMember { id: FIRST_ID, name: &settings.name, address: &address, ca_pem: &pki.ca_pem };
    let info = kontiki_store::restore(file, &dir.join("raft"), &first, bump)?;
    let mut state = State::new(&settings.name, FIRST_ID, true, cluster, Vec::new());
    state.admitted = true;
    dir.save(&state).context("the store is restored, but not the server")?;
    Ok(info)
}
