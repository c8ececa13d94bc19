//! A stand-alone member's directory from a backup.

use std::path::Path;

use kontiki_store::{BackupInfo, FirstMember};

use crate::standalone::{member_id, peer_address};

/// Makes `dir` the directory of a member that alone is a new group with the state of a backup; the others
/// join it empty. `peer_url` is its `--initial-advertise-peer-urls`, `peer_ca` the CA of the members.
///
/// # Errors
/// One line that says what is wrong. Then there is no directory.
pub fn restore(
    file: &Path,
    dir: &Path,
    name: &str,
    peer_url: &str,
    peer_ca: &Path,
    bump: u64,
) -> Result<BackupInfo, String> {
    let address = peer_address(peer_url)?;
    let ca_pem =
        std::fs::read_to_string(peer_ca).map_err(|error| format!("cannot read {}: {error}", peer_ca.display()))?;
    let first = FirstMember { id: member_id(name, &address), name, address: &address, ca_pem: &ca_pem };
    kontiki_store::restore(file, dir, &first, bump).map_err(|error| error.to_string())
}
