//! The directory and the database in it.
//!
//! Invariants
//! - A directory belongs to one member of one cluster (`identity.json`) and to one process at a
//!   time (`lock`). Nothing is written before both are checked.
//! - One RocksDB, one write-ahead log: what a synced write follows is hardened with it, so the
//!   state machine's rows need no sync of their own and recovery always yields a prefix.
//! - After `close` every access answers "stopped".

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use parking_lot::RwLock;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options, WriteBatch, WriteOptions,
};
use serde::{Deserialize, Serialize};

use crate::{Config, OpenError};

/// Raft log entries by index.
const LOG: &str = "log";
/// Vote and purge marks.
const META: &str = "meta";
/// The state machine's rows (see `rows`).
const ROWS: &str = "rows";

/// The layout that this code reads and writes.
const FORMAT: u32 = 2;

const MIB: usize = 1 << 20;

/// Whose data a directory holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    /// SHA-256 of the cluster's CA certificate.
    cluster: String,
    member: u64,
    name: String,
}

/// The open database.
pub(crate) struct Db {
    db: RwLock<Option<DB>>,
    dir: PathBuf,
    /// Held as long as the database is open.
    lock: RwLock<Option<File>>,
}

/// The column families, for the length of one access.
pub(crate) struct Families<'a> {
    pub db: &'a DB,
    pub log: &'a ColumnFamily,
    pub meta: &'a ColumnFamily,
    pub rows: &'a ColumnFamily,
}

impl Db {
    /// Opens the member's directory, making it if it is missing or empty.
    pub fn open(config: &Config, cluster: &str) -> Result<Self, OpenError> {
        let dir = config.dir.as_path();
        fs::create_dir_all(dir).map_err(|error| io_error(dir, &error))?;
        let lock = lock(dir)?;
        identify(dir, config, cluster)?;
        let db = open_database(dir)?;
        Ok(Self { db: RwLock::new(Some(db)), dir: dir.to_owned(), lock: RwLock::new(Some(lock)) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `body` on the open database.
    pub fn with<T>(&self, body: impl FnOnce(Families<'_>) -> io::Result<T>) -> io::Result<T> {
        let guard = self.db.read();
        let db = guard.as_ref().ok_or_else(stopped)?;
        let family = |name| db.cf_handle(name).expect("column families are made at open");
        body(Families { db, log: family(LOG), meta: family(META), rows: family(ROWS) })
    }

    /// Closes the database once nobody is in it, and gives the directory free.
    pub fn close(&self) {
        let db = self.db.write().take();
        if let Some(db) = db {
            if let Err(error) = db.flush_wal(true) {
                tracing::warn!(%error, "the last sync before closing failed");
            }
            db.cancel_all_background_work(true);
        }
        self.lock.write().take();
    }
}

impl Families<'_> {
    /// Writes a batch; `sync` waits until it, and all before it, is durable.
    pub fn write(&self, batch: WriteBatch, sync: bool) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(db_error)
    }
}

pub(crate) fn stopped() -> io::Error {
    io::Error::other("the store has stopped")
}

/// RocksDB's error as an I/O error that still says whether space ran out.
pub(crate) fn db_error(error: rocksdb::Error) -> io::Error {
    let text = error.into_string();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return io::Error::new(io::ErrorKind::StorageFull, text);
    }
    io::Error::other(text)
}

fn io_error(dir: &Path, error: &io::Error) -> OpenError {
    OpenError::Io { dir: dir.display().to_string(), reason: error.to_string() }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let file = File::options().create(true).write(true).truncate(false).open(dir.join("lock"));
    let file = file.map_err(|error| io_error(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(io_error(dir, &error)),
    }
}

/// Checks whose directory this is; claims it if it is empty.
fn identify(dir: &Path, config: &Config, cluster: &str) -> Result<(), OpenError> {
    let wanted = Identity { format: FORMAT, cluster: cluster.to_owned(), member: config.id, name: config.name.clone() };
    let path = dir.join("identity.json");
    let foreign = |reason: String| OpenError::Foreign { dir: dir.display().to_string(), reason };
    match fs::read(&path) {
        Ok(bytes) => {
            let found: Identity = serde_json::from_slice(&bytes).map_err(|error| OpenError::Corrupt {
                dir: dir.display().to_string(),
                reason: format!("identity.json: {error}"),
            })?;
            compare(&found, &wanted).map_or(Ok(()), |reason| Err(foreign(reason)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join("db").exists() {
                return Err(foreign("it holds a database but no identity.json".to_owned()));
            }
            claim(dir, &path, &wanted).map_err(|error| io_error(dir, &error))
        }
        Err(error) => Err(io_error(dir, &error)),
    }
}

/// The member id and name that a data directory belongs to, if it belongs to a member.
#[must_use]
pub fn identity(dir: &Path) -> Option<(u64, String)> {
    let found: Identity = serde_json::from_slice(&fs::read(dir.join("identity.json")).ok()?).ok()?;
    Some((found.member, found.name))
}

fn compare(found: &Identity, wanted: &Identity) -> Option<String> {
    if found.format != wanted.format {
        return Some(format!("its format is {}, this program reads {}", found.format, wanted.format));
    }
    if found.cluster != wanted.cluster {
        return Some("it belongs to another cluster".to_owned());
    }
    if (found.member, &found.name) != (wanted.member, &wanted.name) {
        return Some(format!("it belongs to member {} ({})", found.member, found.name));
    }
    None
}

fn claim(dir: &Path, path: &Path, identity: &Identity) -> io::Result<()> {
    let text = serde_json::to_string_pretty(identity).map_err(io::Error::other)?;
    let draft = dir.join("identity.json.new");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

fn open_database(dir: &Path) -> Result<DB, OpenError> {
    // RocksDB resumes after a full disk once the largest write buffer fits, so none is larger than
    // it has to be, the unused default family's included.
    let families = [("default", MIB), (META, MIB), (LOG, 16 * MIB), (ROWS, 16 * MIB)];
    let families = families.map(|(name, buffer)| ColumnFamilyDescriptor::new(name, family_options(buffer)));
    let path = dir.join("db");
    DB::open_cf_descriptors(&database_options(), &path, families).map_err(|error| {
        let dir = dir.display().to_string();
        let corrupt = matches!(error.kind(), rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument);
        let reason = first_line(&error.into_string());
        if corrupt { OpenError::Corrupt { dir, reason } } else { OpenError::Io { dir, reason } }
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is what kill -9 leaves and is dropped; damage before the tail must not pass as
    // an older state, so it refuses to open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(256 * MIB as u64);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_max_open_files(512);
    options
}

fn family_options(write_buffer: usize) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(write_buffer);
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(32 * MIB as u64);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
