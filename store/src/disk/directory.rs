//! A member's directory: whose it is, and who may use it.
//!
//! Invariants
//! - It belongs to one member of one cluster (`identity.json`) and to one process at a time (`lock`). Nothing is written
//!   before both are checked.
//! - A program that cannot read what is in it is told so before it reads anything.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use kontiki_files::{Readers, replace};
use serde::{Deserialize, Serialize};

use crate::{Config, OpenError, disk::failure::open_error};
use kontiki_state::Level;

/// The layout of a group at the first feature level, and at later ones. Programs that know no levels read only the
/// first, and say so in one line.
const FORMAT: u32 = 2;
const FORMAT_LEVELS: u32 = 3;

/// Why the member that the directory belongs to must not run on it any more.
const HALTED: &str = "halted";

/// What names of files begin with that hold a part of a snapshot on its way in.
pub(super) const INCOMING: &str = "incoming-";

const IDENTITY: &str = "identity.json";

/// Whose data a directory holds: `identity.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    format: u32,
    /// SHA-256 of the cluster's CA certificate.
    cluster: String,
    member: u64,
    name: String,
}

/// Removes what an interrupted snapshot left behind.
pub(super) fn tidy(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(INCOMING)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// See `Db::raise_format`.
pub(super) fn raise_format(dir: &Path, level: Level) -> io::Result<()> {
    if level == Level::FIRST {
        return Ok(());
    }
    let owner: Owner = serde_json::from_slice(&fs::read(dir.join(IDENTITY))?)?;
    if owner.format < FORMAT_LEVELS {
        claim(dir, &Owner { format: FORMAT_LEVELS, ..owner })?;
    }
    Ok(())
}

/// See `Db::condemn`.
pub(super) fn condemn(dir: &Path, reason: &str) -> io::Result<()> {
    replace(&dir.join(HALTED), reason.as_bytes(), Readers::All)
}

/// Takes the directory for this process.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let file = File::options().create(true).write(true).truncate(false).open(dir.join("lock"));
    let file = file.map_err(|error| open_error(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(open_error(dir, &error)),
    }
}

/// Checks whose directory this is; claims it if it is empty.
pub(super) fn identify(dir: &Path, config: &Config, cluster: &str) -> Result<(), OpenError> {
    let wanted = Owner { format: FORMAT, cluster: cluster.to_owned(), member: config.id, name: config.name.clone() };
    if let Ok(reason) = fs::read_to_string(dir.join(HALTED)) {
        return Err(OpenError::Halted { dir: dir.display().to_string(), reason });
    }
    let foreign = |reason: String| OpenError::Foreign { dir: dir.display().to_string(), reason };
    match fs::read(dir.join(IDENTITY)) {
        Ok(bytes) => {
            let found: Owner = serde_json::from_slice(&bytes).map_err(|error| OpenError::Corrupt {
                dir: dir.display().to_string(),
                reason: format!("identity.json: {error}"),
            })?;
            compare(&found, &wanted).map_or(Ok(()), |reason| Err(foreign(reason)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join("db").exists() {
                return Err(foreign("it holds a database but no identity.json".to_owned()));
            }
            claim(dir, &wanted).map_err(|error| open_error(dir, &error))
        }
        Err(error) => Err(open_error(dir, &error)),
    }
}

/// The member id and name that a data directory belongs to, if it belongs to a member.
#[must_use]
pub fn identity(dir: &Path) -> Option<(u64, String)> {
    let found: Owner = serde_json::from_slice(&fs::read(dir.join(IDENTITY)).ok()?).ok()?;
    Some((found.member, found.name))
}

fn compare(found: &Owner, wanted: &Owner) -> Option<String> {
    if !(FORMAT..=FORMAT_LEVELS).contains(&found.format) {
        return Some(format!("its format is {}, this program reads {FORMAT} to {FORMAT_LEVELS}", found.format));
    }
    if found.cluster != wanted.cluster {
        return Some("it belongs to another cluster".to_owned());
    }
    if (found.member, &found.name) != (wanted.member, &wanted.name) {
        return Some(format!("it belongs to member {} ({})", found.member, found.name));
    }
    None
}

fn claim(dir: &Path, owner: &Owner) -> io::Result<()> {
    let text = serde_json::to_string_pretty(owner).map_err(io::Error::other)?;
    replace(&dir.join(IDENTITY), text.as_bytes(), Readers::All)
}
