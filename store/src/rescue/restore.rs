//! From a backup to the directory of the one member that a new group begins with. Nothing runs meanwhile.
//!
//! Invariants
//! - A file is believed only after its whole checksum was right.
//! - A directory is there whole or not at all: it is made beside its place and renamed.
//! - All revisions of the new group are later than those that watchers of the old one may have seen, and
//!   all past is compacted, so they are told to read everything again.
//! - The directory looks as one does after a snapshot was installed: no log, the state at the purged entry,
//!   and there a membership of one, all in a term of a generation of their own (see `generation`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use kontiki_files::parent;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Config, OpenError, PeerTls,
    disk::{
        db::{Batch, Db, Family},
        history::{decode, invalid},
        stream::{read_bytes, read_format, read_signed, read_varint, swept_value},
        writer::{PURGED_KEY, VOTE_KEY},
    },
    raft::generation,
    rescue::backup::{BLOCK, MAGIC},
    types::{Membership, Node, StoredMembership, Vote, WriteRaft as _, entry_id, log_id},
};
use kontiki_state::{
    Revision,
    codec::{Malformed, Writer},
    rows::{LeaseRow, MEMBERSHIP_KEY, RowKind, STATE_KEY, SWEPT_KEY, StateRecord, lease_key, lease_value},
};

/// How far revisions are raised unless somebody wants it otherwise: further than a group gets between a
/// backup and its loss.
pub const REVISION_BUMP: u64 = 1_000_000_000;

const CHECKSUM: u64 = 32;
/// Where the new group's rows lie.
const EPOCH: u32 = 1;
/// Bytes of rows in one write.
const WRITE: usize = 4 << 20;
/// Revisions are signed to clients of the etcd API.
const LAST: u64 = i64::MAX.unsigned_abs();

/// Why nothing was restored or recovered. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// Not a backup, or not all of one, or not what it was.
    #[error("{file}: {reason}")]
    Backup {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory is not what it has to be.
    #[error("{dir}: {reason}")]
    Dir {
        /// The directory.
        dir: String,
        /// What is wrong.
        reason: String,
    },
    /// What is asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackupInfo {
    /// The revision as of which it is.
    pub revision: u64,
    /// The oldest revision that could be read then; zero if nothing was compacted.
    pub compacted: u64,
    /// Keys that existed.
    pub keys: u64,
    /// Leases that had not ended.
    pub leases: u64,
    /// Length of the file.
    pub bytes: u64,
    /// The checksum that it carries.
    pub sha256: String,
}

/// The member that a new group begins with.
#[derive(Clone, Debug)]
pub struct FirstMember<'a> {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
    /// Its peer address, `host:port`.
    pub address: &'a str,
    /// PEM of the CA of the members' certificates.
    pub ca_pem: &'a str,
}

/// Verifies a backup and tells about it.
///
/// # Errors
/// It is not a whole backup.
pub fn backup_info(file: &Path) -> Result<BackupInfo, RescueError> {
    let damaged = |reason: String| RescueError::Backup { file: file.display().to_string(), reason };
    let mut verified = verify(file).map_err(|error| damaged(error.to_string()))?;
    let (mut record, mut leases, mut live) = (StateRecord::default(), 0, HashSet::new());
    let read = verified.walk(|part| {
        match part {
            Part::State(state, _) => record = state,
            Part::Lease(_) => leases += 1,
            Part::Row(key, value) => {
                let row = decode(&key, value.into_boxed_slice())?;
                match row.kind {
                    RowKind::Put | RowKind::DeleteAndPut => live.insert(row.entry.key),
                    RowKind::Delete | RowKind::PutAndDelete => live.remove(&row.entry.key),
                };
            }
        }
        Ok(())
    });
    read.map_err(|error| damaged(format!("its checksum is right, but it cannot be read: {error}")))?;
    Ok(BackupInfo {
        revision: record.revision.0,
        compacted: record.compacted.map_or(0, |revision| revision.0),
        keys: live.len() as u64,
        leases,
        bytes: verified.bytes,
        sha256: verified.sha256,
    })
}

/// Makes `dir` the directory of a member that alone is a new group with the state of a backup. Raises all
/// revisions by `bump`; leases get their whole time again.
///
/// # Errors
/// The file is not a whole backup, the directory exists, or the disk refused. Then there is no directory.
pub fn restore(file: &Path, dir: &Path, first: &FirstMember<'_>, bump: u64) -> Result<BackupInfo, RescueError> {
    let info = backup_info(file)?;
    let revision = info.revision.checked_add(bump).filter(|revision| *revision <= LAST);
    let revision = revision.ok_or_else(|| RescueError::Asked(format!("{bump} is too far to raise revisions by")))?;
    let cluster = cluster(first.ca_pem)?;
    let failed = |error: io::Error| RescueError::Dir { dir: dir.display().to_string(), reason: error.to_string() };
    vacant(dir).map_err(failed)?;
    let staging = Staging::beside(dir).map_err(failed)?;
    let db = Db::open(&offline(&staging.0, first.id, first.name), &cluster)?;
    let written = fill(&db, file, first, Revision(revision));
    db.close();
    let generation = written.map_err(failed)?;
    generation::write(&staging.0, generation).map_err(failed)?;
    kontiki_files::rename(&staging.0, dir).map_err(failed)?;
    Ok(info)
}

/// Writes everything, the last of it durably with all before it. Tells the generation.
fn fill(db: &Db, file: &Path, first: &FirstMember<'_>, revision: Revision) -> io::Result<u64> {
    let (mut record, mut swept) = (StateRecord::default(), Revision(0));
    let (mut pending, mut size) = (Vec::new(), 0);
    verify(file)?.walk(|part| {
        let (key, value) = match part {
            Part::State(state, upto) => {
                (record, swept) = (state, upto);
                return Ok(());
            }
            Part::Lease(row) => {
                let value = lease_value(row.ttl.unwrap_or_default(), row.granted);
                (lease_key(EPOCH, row.id), value.to_vec())
            }
            Part::Row(key, value) => (key, value),
        };
        size += key.len() + value.len();
        pending.push((key, value));
        if size >= WRITE {
            size = 0;
            return put(db, std::mem::take(&mut pending));
        }
        Ok(())
    })?;
    put(db, pending)?;
    let generation = generation::after(record.applied.map_or(0, |id| id.term.0));
    // Leases are told apart by the entries that granted them, so the new log goes on behind those.
    let index = record.applied.map_or(1, |id| id.index.max(1));
    let at = log_id(generation::first_term(generation), index);
    let applied = Some(entry_id(&at));
    let record = StateRecord { epoch: EPOCH, revision, compacted: Some(revision), applied, ..record };
    db.raise_format(record.level)?;
    let node = Node { name: first.name.to_owned(), address: first.address.to_owned(), ..Node::default() };
    let membership = serde_json::to_vec(&StoredMembership::new(Some(at), alone(first.id, node)?))?;
    let (mut vote, mut purged) = (Writer::default(), Writer::default());
    vote.vote(&Vote::new_committed(at.leader_id.term, first.id));
    purged.log_id(Some(&at));
    let (vote, purged) = (vote.finish(), purged.finish());
    write(db, |batch| {
        batch.put(Family::Rows, STATE_KEY, record.encode());
        batch.put(Family::Rows, MEMBERSHIP_KEY, &membership);
        batch.put(Family::Rows, SWEPT_KEY, swept_value(EPOCH, swept));
        batch.put(Family::Meta, PURGED_KEY, &purged);
        batch.put(Family::Meta, VOTE_KEY, &vote);
    })?;
    Ok(generation)
}

fn put(db: &Db, rows: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<()> {
    db.with(|families| {
        let mut batch = families.batch();
        rows.iter().for_each(|(key, value)| batch.put(Family::Rows, key, value));
        families.write(batch, false)
    })
}

/// Writes a batch so that it, and all before it, is durable.
pub(crate) fn write(db: &Db, build: impl FnOnce(&mut Batch<'_>)) -> io::Result<()> {
    db.with(|families| {
        let mut batch = families.batch();
        build(&mut batch);
        families.write(batch, true)
    })
}

/// The membership of a group of one.
pub(crate) fn alone(id: u64, node: Node) -> io::Result<Membership> {
    let nodes = BTreeMap::from([(id, node)]);
    Membership::new(vec![BTreeSet::from([id])], nodes).map_err(io::Error::other)
}

/// What opening a database without a network needs.
pub(crate) fn offline(dir: &Path, id: u64, name: &str) -> Config {
    Config {
        id,
        name: name.to_owned(),
        dir: dir.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: String::new(),
        tls: PeerTls {
            ca_pem: String::new(),
            cert_pem: String::new(),
            key_pem: String::new(),
            organization: None,
            names: Vec::new(),
        },
        heartbeat: Config::HEARTBEAT,
        election: Config::ELECTION,
        max_feature_level: None,
        past: crate::Past::NONE,
    }
}

/// What a directory's identity calls the cluster of this CA.
fn cluster(ca_pem: &str) -> Result<String, RescueError> {
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|error| RescueError::Asked(format!("the members' CA: {error}")))?;
    Ok(hex(&Sha256::digest(&ca)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vacant(dir: &Path) -> io::Result<()> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        entries => match entries?.next() {
            None => Ok(()),
            Some(_) => Err(io::Error::other("it exists and is not empty; nothing was overwritten")),
        },
    }
}

/// A directory in the making, removed when it comes to nothing.
struct Staging(PathBuf);

impl Staging {
    fn beside(dir: &Path) -> io::Result<Self> {
        let name = dir.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        fs::create_dir_all(parent(dir))?;
        let staging = parent(dir).join(format!("{}.restoring.tmp", name.to_string_lossy()));
        fs::create_dir(&staging).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                io::Error::other(format!("{} is in the way, left by a restore that was cut off", staging.display()))
            }
            _ => error,
        })?;
        Ok(Self(staging))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %self.0.display(), "what was begun could not be removed");
            }
            _ => {}
        }
    }
}

/// A backup whose checksum is right.
struct Verified {
    file: File,
    bytes: u64,
    sha256: String,
}

/// A piece of a backup, in its order.
enum Part {
    /// What the rows amount to, and how far compaction has removed them.
    State(StateRecord, Revision),
    Lease(LeaseRow),
    /// A row's key, in the epoch of the new group, and its value.
    Row(Vec<u8>, Vec<u8>),
}

/// Reads a whole file and compares it with its checksum.
fn verify(path: &Path) -> io::Result<Verified> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        read => read?,
    }
    if magic != *MAGIC {
        return Err(io::Error::other("it is not a backup of this store"));
    }
    let body = bytes.checked_sub(CHECKSUM).filter(|body| body.is_multiple_of(BLOCK as u64));
    let body = body.ok_or_else(|| io::Error::other(format!("it is not whole: {bytes} bytes cannot be all of it")))?;
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    io::copy(&mut (&file).take(body), &mut hash)?;
    let mut said = [0; CHECKSUM as usize];
    file.read_exact(&mut said)?;
    let found = hash.finalize();
    if said[..] != found[..] {
        return Err(io::Error::other("it is damaged: its checksum is wrong"));
    }
    Ok(Verified { file, bytes, sha256: hex(&found) })
}

impl Verified {
    /// Hands out everything in it.
    fn walk(&mut self, mut visit: impl FnMut(Part) -> io::Result<()>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        let mut input = BufReader::with_capacity(1 << 18, (&self.file).take(self.bytes - CHECKSUM));
        read_format(&mut input)?;
        let record = StateRecord::decode(Bytes::from(read_bytes(&mut input)?)).map_err(invalid)?;
        visit(Part::State(record, Revision(read_varint(&mut input)?)))?;
        for _ in 0..read_varint(&mut input)? {
            let (id, ttl) = (read_signed(&mut input)?, Some(read_signed(&mut input)?));
            visit(Part::Lease(LeaseRow { id, ttl, granted: read_varint(&mut input)? }))?;
        }
        let mut count = 0;
        loop {
            let short = read_bytes(&mut input)?;
            if short.is_empty() {
                let whole = read_varint(&mut input)? == count;
                return if whole { Ok(()) } else { Err(invalid(Malformed("backup with missing rows"))) };
            }
            count += 1;
            let key = [&EPOCH.to_be_bytes()[..], &short].concat();
            visit(Part::Row(key, read_bytes(&mut input)?))?;
        }
    }
}
