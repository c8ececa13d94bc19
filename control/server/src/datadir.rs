//! The server's directory: who owns it and what it remembers.
//!
//! ```text
//! server.json        who this server is and which cluster it belongs to
//! pki/               ca.crt ca.key sa.key sa.pub encryption.key server.crt server.key
//! raft/              the store's own
//! admin.kubeconfig   for people
//! lock               held while the server runs
//! ```
//!
//! Invariants
//! - A directory that this server did not make, or cannot read, is refused and left as it is.
//! - Its files are only replaced as wholes (`kontiki_files`), and are readable by their owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use kontiki_files::{Readers, replace};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::ClusterSettings;

const STATE: &str = "server.json";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;
/// What may lie in a directory that is not yet a server's: what `kontiki up` and package managers
/// put there, and what an interrupted first start left.
const HARMLESS: &[&str] = &[LOCK, "pki", "pid", "log", "config.yaml", "lost+found"];

/// What the server remembers of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// Name of this server.
    pub name: String,
    /// Its id in the Raft group.
    pub member_id: u64,
    /// Whether it started the cluster.
    #[serde(rename = "founder")]
    pub bootstrapped: bool,
    /// Whether it was ever a member of the Raft group. From then on an empty store is a loss.
    pub admitted: bool,
    /// The cluster's settings.
    pub cluster: ClusterSettings,
    /// Servers known when it joined, `host:port` of node sessions.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Generation of the Raft group that it joined.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u64,
}

/// A group that was never restored: what older programs wrote says nothing else.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_first(generation: &u64) -> bool {
    *generation == 0
}

impl State {
    /// The memory of a server that is not yet a member.
    #[must_use]
    pub fn new(name: &str, member_id: u64, bootstrapped: bool, cluster: ClusterSettings, servers: Vec<String>) -> Self {
        let name = name.to_owned();
        Self { format: FORMAT, name, member_id, bootstrapped, admitted: false, cluster, servers, generation: 0 }
    }
}

/// An owned data directory; the lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Takes possession of `path` for the server `name`, making it if it does not exist.
    ///
    /// # Errors
    /// The directory is in use, foreign, damaged, another server's, or cannot be used at all.
    pub fn open(path: &Path, name: &str) -> anyhow::Result<(Self, Option<State>)> {
        let shown = path.display();
        let state = inspect(path, name)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("data_dir: cannot make {shown}"))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .with_context(|| format!("data_dir: cannot write in {shown}"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok((Self { path: path.to_owned(), _lock: lock }, state)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!("data_dir: {shown} is in use by another server"),
            Err((_, error)) => bail!("data_dir: cannot lock {shown}: {error}"),
        }
    }

    /// The path of `name` in the directory.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Remembers `state`.
    ///
    /// # Errors
    /// The disk refused.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(state).context("server.json")?;
        text.push(b'\n');
        write(&self.join(STATE), &text)
    }
}

/// Reads what `path` holds without changing it. `None` if it is free to be taken.
fn inspect(path: &Path, name: &str) -> anyhow::Result<Option<State>> {
    let shown = path.display();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("data_dir: cannot read {shown}")),
    };
    match fs::read(path.join(STATE)) {
        Ok(text) => {
            let state: State = serde_json::from_slice(&text)
                .map_err(|error| anyhow::anyhow!("data_dir: {shown}/{STATE} is damaged: {error}"))?;
            if state.format != FORMAT {
                bail!("data_dir: {shown} has format {}, this version knows {FORMAT}", state.format);
            }
            if state.name != name {
                bail!("data_dir: {shown} belongs to server {:?}, not {name:?}", state.name);
            }
            Ok(Some(state))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in entries {
                let entry = entry.with_context(|| format!("data_dir: cannot read {shown}"))?.file_name();
                let entry = entry.to_string_lossy();
                // Drafts of files are ours: a crash may leave one.
                if !HARMLESS.contains(&entry.as_ref()) && !entry.ends_with(".tmp") {
                    bail!(
                        "data_dir: {shown} holds {entry:?} but no {STATE}: it is not a Kontiki server's, left untouched"
                    );
                }
            }
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("data_dir: cannot read {shown}/{STATE}")),
    }
}

/// Replaces a file of the directory.
///
/// # Errors
/// The disk refused.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    replace(path, content, Readers::Owner).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterOptions;

    /// What the first programs wrote.
    const WRITTEN: &str = r#"{"format": 1, "name": "s1", "member_id": 1, "founder": true, "admitted": true,
        "cluster": {"pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/16", "cluster_domain": "cluster.local"}}"#;

    fn state(name: &str) -> State {
        State::new(name, 1, true, ClusterOptions::default().settle().expect("defaults are valid"), Vec::new())
    }

    #[test]
    fn only_its_own_or_an_empty_directory_is_taken() {
        let ours = serde_json::to_string(&state("s1")).expect("plain data");
        type Files<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Files<'_>, &str); 8] = [
            ("empty", &[], "free"),
            ("prepared by up", &[("config.yaml", ""), ("log", "")], "free"),
            ("ours", &[(STATE, &ours), ("raft", "")], "ours"),
            ("ours, as it was always written", &[(STATE, WRITTEN)], "ours"),
            ("foreign", &[("member", "")], "it is not a Kontiki server's"),
            ("lost its state", &[("raft", "")], "it is not a Kontiki server's"),
            ("another's", &[(STATE, &ours.replace("s1", "s2"))], "belongs to server \"s2\""),
            ("damaged", &[(STATE, "{\"form")], "is damaged"),
        ];
        for (name, files, expect) in cases {
            let dir = tempfile::tempdir().expect("temporary directory");
            for (file, content) in files {
                fs::write(dir.path().join(file), content).expect("write");
            }
            let before = fs::read_dir(dir.path()).expect("read").count();
            let got = match inspect(dir.path(), "s1") {
                Ok(None) => "free".to_owned(),
                Ok(Some(_)) => "ours".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            assert!(got.contains(expect), "{name}: {got}");
            assert_eq!(fs::read_dir(dir.path()).expect("read").count(), before, "{name}: nothing is written");
        }
    }

    #[test]
    fn a_directory_has_one_owner_and_remembers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (held, none) = DataDir::open(dir.path(), "s1").expect("free");
        assert_eq!(none, None);
        held.save(&state("s1")).expect("saved");
        let busy = DataDir::open(dir.path(), "s1").expect_err("held").to_string();
        assert!(busy.contains("in use by another server"), "{busy}");
        drop(held);
        assert_eq!(DataDir::open(dir.path(), "s1").expect("free again").1, Some(state("s1")));
    }
}
