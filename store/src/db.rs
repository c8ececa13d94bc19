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

use nix::sys::statvfs::statvfs;
use parking_lot::RwLock;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBIteratorWithThreadMode, DBRecoveryMode, Direction,
    IteratorMode, Options, WriteBatch, WriteOptions,
};
use serde::{Deserialize, Serialize};

use crate::{Config, OpenError, sim, wal};

/// One of the database's ordered maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// Raft log entries by index.
    Log,
    /// Vote and purge marks.
    Meta,
    /// The state machine's rows (see `rows`).
    Rows,
}

/// The families' names, in the order of [`Family`].
const NAMES: [&str; 3] = ["log", "meta", "rows"];

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
    backend: RwLock<Option<Backend>>,
    dir: PathBuf,
    /// Held as long as the database is open.
    lock: RwLock<Option<File>>,
}

enum Backend {
    Rocks(DB),
    Simulated(sim::Mounted),
}

/// The open database, for the length of one access.
pub(crate) enum Families<'a> {
    Rocks { db: &'a DB, families: [&'a ColumnFamily; 3] },
    Simulated(&'a sim::Mounted),
}

/// Changes that are written as one.
pub(crate) enum Batch<'a> {
    Rocks { batch: WriteBatch, families: [&'a ColumnFamily; 3] },
    Simulated(Vec<sim::Change>),
}

impl Batch<'_> {
    /// What a simulated batch is made of.
    fn changes(self) -> Vec<sim::Change> {
        if let Self::Simulated(changes) = self { changes } else { Vec::new() }
    }

    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        match self {
            Self::Rocks { batch, families } => batch.put_cf(families[family as usize], key, value),
            Self::Simulated(changes) => {
                let value = bytes::Bytes::copy_from_slice(value.as_ref());
                changes.push(sim::Change::Put(family as usize, key.as_ref().to_vec(), value));
            }
        }
    }

    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        match self {
            Self::Rocks { batch, families } => batch.delete_cf(families[family as usize], key),
            Self::Simulated(changes) => changes.push(sim::Change::Delete(family as usize, key.as_ref().to_vec())),
        }
    }

    /// Deletes the keys from `from` on and before `to`.
    pub fn delete_range<K: AsRef<[u8]>>(&mut self, family: Family, from: K, to: K) {
        match self {
            Self::Rocks { batch, families } => batch.delete_range_cf(families[family as usize], from, to),
            Self::Simulated(changes) => {
                let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
                changes.push(sim::Change::DeleteRange(family as usize, from, to));
            }
        }
    }
}

/// Key and value.
pub(crate) type Pair = (Box<[u8]>, Box<[u8]>);

/// The rows of a family from a key on, in order, as of when the scan began.
pub(crate) enum Scan<'a> {
    Rocks(DBIteratorWithThreadMode<'a, DB>),
    Simulated(sim::Scan),
}

impl Iterator for Scan<'_> {
    type Item = io::Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Rocks(rows) => rows.next().map(|row| row.map_err(db_error)),
            Self::Simulated(rows) => rows.next().map(Ok),
        }
    }
}

impl Db {
    /// Opens the member's directory, making it if it is missing or empty.
    pub fn open(config: &Config, cluster: &str) -> Result<Self, OpenError> {
        let dir = config.dir.as_path();
        fs::create_dir_all(dir).map_err(|error| open_error(dir, &error))?;
        let lock = lock(dir)?;
        identify(dir, config, cluster)?;
        let db = open_database(dir)?;
        Ok(Self { backend: RwLock::new(Some(Backend::Rocks(db))), dir: dir.to_owned(), lock: RwLock::new(Some(lock)) })
    }

    /// Opens the simulated member's database.
    pub fn open_simulated(config: &Config) -> Result<Self, OpenError> {
        let mounted = sim::Disk::mount().ok_or_else(|| OpenError::Config("no simulation here".to_owned()))?;
        let backend = RwLock::new(Some(Backend::Simulated(mounted)));
        Ok(Self { backend, dir: config.dir.clone(), lock: RwLock::new(None) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `body` on the open database.
    pub fn with<T>(&self, body: impl FnOnce(Families<'_>) -> io::Result<T>) -> io::Result<T> {
        let guard = self.backend.read();
        match guard.as_ref().ok_or_else(stopped)? {
            Backend::Rocks(db) => {
                let families = NAMES.map(|name| db.cf_handle(name).expect("column families are made at open"));
                body(Families::Rocks { db, families })
            }
            Backend::Simulated(mounted) => body(Families::Simulated(mounted)),
        }
    }

    /// Writes a batch on a simulated disk, as slowly as that is. See `Families::write`.
    pub async fn write_simulated(
        &self,
        build: impl for<'a> Fn(&Families<'a>) -> Batch<'a>,
        sync: bool,
    ) -> io::Result<()> {
        let (changes, mounted) = {
            let backend = self.backend.read();
            match backend.as_ref().ok_or_else(stopped)? {
                Backend::Simulated(mounted) => (build(&Families::Simulated(mounted)).changes(), mounted.clone()),
                Backend::Rocks(_) => return Err(io::Error::other("this database is real")),
            }
        };
        mounted.write_slowly(changes, sync).await
    }

    /// Gives the log the size of its space, if that can be done; it is only faster so.
    pub fn stretch_log(&self) {
        if let Err(error) = wal::stretch(&self.dir.join("db")) {
            tracing::debug!(%error, "the log grows with every write");
        }
    }

    /// Bytes free and in all, if that can be told.
    pub fn space(&self) -> Option<(u64, u64)> {
        if let Some(Backend::Simulated(mounted)) = self.backend.read().as_ref() {
            return Some(mounted.space());
        }
        let stat = statvfs(&self.dir).ok()?;
        let size = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Some((size(stat.blocks_available()), size(stat.blocks())))
    }

    /// Closes the database once nobody is in it, and gives the directory free.
    pub fn close(&self) {
        let backend = self.backend.write().take();
        if let Some(Backend::Rocks(db)) = backend {
            if let Err(error) = db.flush_wal(true) {
                tracing::warn!(%error, "the last sync before closing failed");
            }
            db.cancel_all_background_work(true);
        }
        self.lock.write().take();
    }
}

impl<'a> Families<'a> {
    pub fn get(&self, family: Family, key: impl AsRef<[u8]>) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Rocks { db, families } => db.get_cf(families[family as usize], key).map_err(db_error),
            Self::Simulated(mounted) => mounted.get(family as usize, key.as_ref()),
        }
    }

    /// The rows of a family from a key on.
    pub fn scan(&self, family: Family, from: &[u8]) -> io::Result<Scan<'a>> {
        Ok(match self {
            Self::Rocks { db, families } => {
                let from = IteratorMode::From(from, Direction::Forward);
                Scan::Rocks(db.iterator_cf(families[family as usize], from))
            }
            Self::Simulated(mounted) => Scan::Simulated(mounted.scan(family as usize, from)?),
        })
    }

    /// The last row of a family.
    pub fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        match self {
            Self::Rocks { db, families } => {
                let mut backwards = db.iterator_cf(families[family as usize], IteratorMode::End);
                backwards.next().transpose().map_err(db_error)
            }
            Self::Simulated(mounted) => {
                Ok(mounted.last(family as usize)?.map(|(key, value)| (key.into(), value.into())))
            }
        }
    }

    /// An empty batch for this database.
    pub fn batch(&self) -> Batch<'a> {
        match self {
            Self::Rocks { families, .. } => Batch::Rocks { batch: WriteBatch::default(), families: *families },
            Self::Simulated(_) => Batch::Simulated(Vec::new()),
        }
    }

    /// Writes a batch; `sync` waits until it, and all before it, is durable.
    pub fn write(&self, batch: Batch<'_>, sync: bool) -> io::Result<()> {
        match (self, batch) {
            (Self::Rocks { db, .. }, Batch::Rocks { batch, .. }) => {
                let mut options = WriteOptions::default();
                options.set_sync(sync);
                db.write_opt(batch, &options).map_err(db_error)
            }
            (Self::Simulated(mounted), Batch::Simulated(changes)) => mounted.write(changes, sync),
            _ => Err(io::Error::other("a batch of another database")),
        }
    }
}

pub(crate) fn stopped() -> io::Error {
    io::Error::other("the store has stopped")
}

/// RocksDB's error as an I/O error that still says whether space ran out, and whether data is damaged.
pub(crate) fn db_error(error: rocksdb::Error) -> io::Error {
    let damaged = matches!(error.kind(), rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument);
    let text = error.into_string();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return io::Error::new(io::ErrorKind::StorageFull, text);
    }
    io::Error::new(if damaged { io::ErrorKind::InvalidData } else { io::ErrorKind::Other }, text)
}

/// Why a directory cannot be opened: what was read makes no sense, or it could not be read.
pub(crate) fn open_error(dir: &Path, error: &io::Error) -> OpenError {
    let (dir, reason) = (dir.display().to_string(), first_line(&error.to_string()));
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => OpenError::Corrupt { dir, reason },
        _ => OpenError::Io { dir, reason },
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let file = File::options().create(true).write(true).truncate(false).open(dir.join("lock"));
    let file = file.map_err(|error| open_error(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(open_error(dir, &error)),
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
            claim(dir, &path, &wanted).map_err(|error| open_error(dir, &error))
        }
        Err(error) => Err(open_error(dir, &error)),
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
    let [log, meta, rows] = NAMES;
    let families = [("default", MIB), (meta, MIB), (log, 16 * MIB), (rows, 16 * MIB)];
    let families = families.map(|(name, buffer)| ColumnFamilyDescriptor::new(name, family_options(buffer)));
    let path = dir.join("db");
    let cut = wal::mend(&path).map_err(|error| open_error(dir, &error))?;
    if cut > 0 {
        tracing::warn!(bytes = cut, "cut off the write-ahead log: what a crash left half written, or nobody wrote");
    }
    let opened = DB::open_cf_descriptors(&database_options(), &path, families);
    opened.map_err(|error| open_error(dir, &db_error(error)))
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
    // What is young is rewritten soon, and the log is never old: only what stays is compressed.
    options.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What opening says after `spoil` was done to a good directory.
    fn opened(spoil: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), OpenError> {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::unconnected(1, dir.path());
        Db::open(&config, "test").unwrap().close();
        spoil(&dir.path().join("db")).unwrap();
        Db::open(&config, "test").map(|db| db.close())
    }

    #[test]
    fn only_what_was_read_is_called_damaged() {
        opened(|_| Ok(())).unwrap();
        let damaged = opened(|db| fs::write(db.join("CURRENT"), "MANIFEST\n"));
        assert!(matches!(damaged, Err(OpenError::Corrupt { .. })), "{damaged:?}");
        let unreadable = opened(|db| {
            fs::remove_dir_all(db)?;
            fs::write(db, "")
        });
        assert!(matches!(unreadable, Err(OpenError::Io { .. })), "{unreadable:?}");
    }

    #[test]
    fn a_stretched_log_is_read_back_after_a_crash_and_cut_by_a_clean_close() {
        let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::unconnected(1, dir.path());
        let db = Db::open(&config, "test").unwrap();
        let put = |key: &[u8]| {
            db.with(|families| {
                let mut batch = families.batch();
                batch.put(Family::Rows, key, vec![0; 3000]);
                families.write(batch, true)
            })
        };
        let log = || {
            let files = fs::read_dir(dir.path().join("db")).unwrap().map(|entry| entry.unwrap().path());
            let log = files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
            fs::metadata(log).unwrap().len()
        };
        put(b"a").unwrap();
        assert!(log() < 10_000);
        db.stretch_log();
        assert!(log() > 1_000_000, "longer than what is in it");
        put(b"b").unwrap();
        // What a killed process leaves.
        for part in ["", "db"] {
            fs::create_dir_all(crashed.path().join(part)).unwrap();
            for entry in fs::read_dir(dir.path().join(part)).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), crashed.path().join(part).join(entry.file_name())).unwrap();
                }
            }
        }
        db.close();
        assert!(log() < 10_000, "its own length again");
        for dir in [&crashed, &dir] {
            let db = Db::open(&Config::unconnected(1, dir.path()), "test").unwrap();
            for key in [b"a", b"b"] {
                assert_eq!(db.with(|families| families.get(Family::Rows, key)).unwrap(), Some(vec![0; 3000]));
            }
            db.close();
        }
    }
}
