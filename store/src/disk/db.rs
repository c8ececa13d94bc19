//! The database in a member's directory.
//!
//! Invariants
//! - One RocksDB, one write-ahead log: what a synced write follows is hardened with it, so the
//!   state machine's rows need no sync of their own and recovery always yields a prefix.
//! - After `close` every access answers "stopped".

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;
use parking_lot::RwLock;
use rocksdb::{
    ColumnFamily, DB, DBIteratorWithThreadMode, Direction, FlushOptions, IngestExternalFileOptions, IteratorMode,
    Range, WriteBatch, WriteOptions, properties,
};

use crate::{
    Config, OpenError,
    disk::{
        directory,
        failure::{db_error, open_error, stopped},
        options::{self, NAMES},
        wal,
    },
    world::{self, Change, Changes, Disk, Rows, Shared},
};
use kontiki_state::Level;

pub(crate) use crate::world::Pair;

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

/// The open database.
pub(crate) struct Db {
    backend: RwLock<Option<Backend>>,
    dir: PathBuf,
    /// Held as long as the database is open.
    lock: RwLock<Option<File>>,
}

enum Backend {
    Rocks(DB),
    Simulated(Shared<dyn Disk>),
}

/// The open database, for the length of one access.
pub(crate) enum Families<'a> {
    Rocks { db: &'a DB, families: [&'a ColumnFamily; 3] },
    Simulated(Shared<dyn Disk>),
}

/// Changes that are written as one.
pub(crate) enum Batch<'a> {
    Rocks { batch: WriteBatch, families: [&'a ColumnFamily; 3] },
    Simulated(Changes),
}

impl Batch<'_> {
    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        match self {
            Self::Rocks { batch, families } => batch.put_cf(families[family as usize], key, value),
            Self::Simulated(changes) => {
                let value = bytes::Bytes::copy_from_slice(value.as_ref());
                changes.push(Change::Put(family as usize, key.as_ref().to_vec(), value));
            }
        }
    }

    /// Bytes of it, about; not told of a simulated one.
    pub fn size(&self) -> usize {
        match self {
            Self::Rocks { batch, .. } => batch.size_in_bytes(),
            Self::Simulated(_) => 0,
        }
    }

    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        match self {
            Self::Rocks { batch, families } => batch.delete_cf(families[family as usize], key),
            Self::Simulated(changes) => changes.push(Change::Delete(family as usize, key.as_ref().to_vec())),
        }
    }

    /// Deletes the keys from `from` on and before `to`.
    pub fn delete_range<K: AsRef<[u8]>>(&mut self, family: Family, from: K, to: K) {
        match self {
            Self::Rocks { batch, families } => batch.delete_range_cf(families[family as usize], from, to),
            Self::Simulated(changes) => {
                let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
                changes.push(Change::DeleteRange(family as usize, from, to));
            }
        }
    }
}

/// The rows of a family from a key on, in order, as of when the scan began.
pub(crate) enum Scan<'a> {
    Rocks(DBIteratorWithThreadMode<'a, DB>),
    Simulated(Rows),
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
        let lock = directory::lock(dir)?;
        directory::identify(dir, config, cluster)?;
        directory::tidy(dir).map_err(|error| open_error(dir, &error))?;
        let db = options::open(dir)?;
        Ok(Self { backend: RwLock::new(Some(Backend::Rocks(db))), dir: dir.to_owned(), lock: RwLock::new(Some(lock)) })
    }

    /// The database on a simulated disk.
    pub fn simulated(disk: Shared<dyn Disk>, config: &Config) -> Self {
        let backend = RwLock::new(Some(Backend::Simulated(disk)));
        Self { backend, dir: config.dir.clone(), lock: RwLock::new(None) }
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
            Backend::Simulated(disk) => body(Families::Simulated(disk.clone())),
        }
    }

    /// Writes a batch on a simulated disk, as slowly as that is. See `Families::write`.
    pub async fn write_simulated(
        &self,
        build: impl for<'a> Fn(&Families<'a>) -> Batch<'a>,
        sync: bool,
    ) -> io::Result<()> {
        let disk = match self.backend.read().as_ref().ok_or_else(stopped)? {
            Backend::Simulated(disk) => disk.clone(),
            Backend::Rocks(_) => return Err(io::Error::other("this database is real")),
        };
        let changes = match build(&Families::Simulated(disk.clone())) {
            Batch::Simulated(changes) => changes,
            Batch::Rocks { .. } => return Err(io::Error::other("a batch of another database")),
        };
        disk.write_slowly(changes, sync).await
    }

    /// Lets no program open the directory that does not know the group's level. Durable when it returns.
    pub fn raise_format(&self, level: Level) -> io::Result<()> {
        if self.is_simulated() { Ok(()) } else { directory::raise_format(&self.dir, level) }
    }

    /// Lets nobody open the directory any more, as its content is wrong. Durable when it returns.
    pub fn condemn(&self, reason: &str) -> io::Result<()> {
        if self.is_simulated() { Ok(()) } else { directory::condemn(&self.dir, reason) }
    }

    /// Whether this is a simulated disk, which has no files.
    pub fn is_simulated(&self) -> bool {
        matches!(self.backend.read().as_ref(), Some(Backend::Simulated(_)))
    }

    /// Gives the log the size of its space, if that can be done; it is only faster so.
    pub fn stretch_log(&self) {
        if let Err(error) = wal::stretch(&self.dir.join("db")) {
            tracing::debug!(%error, "the log grows with every write");
        }
    }

    /// Bytes free and in all, if that can be told.
    pub fn space(&self) -> Option<(u64, u64)> {
        if let Some(Backend::Simulated(disk)) = self.backend.read().as_ref() {
            return Some(disk.space());
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
            Self::Simulated(disk) => disk.get(family as usize, key.as_ref()),
        }
    }

    /// The rows of a family from a key on.
    pub fn scan(&self, family: Family, from: &[u8]) -> io::Result<Scan<'a>> {
        Ok(match self {
            Self::Rocks { db, families } => {
                let from = IteratorMode::From(from, Direction::Forward);
                Scan::Rocks(db.iterator_cf(families[family as usize], from))
            }
            Self::Simulated(disk) => Scan::Simulated(disk.scan(family as usize, from)?),
        })
    }

    /// The last row of a family.
    pub fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        match self {
            Self::Rocks { db, families } => {
                let mut backwards = db.iterator_cf(families[family as usize], IteratorMode::End);
                backwards.next().transpose().map_err(db_error)
            }
            Self::Simulated(disk) => disk.last(family as usize),
        }
    }

    /// Bytes of the files that hold a family.
    pub fn size(&self, family: Family) -> io::Result<u64> {
        match self {
            Self::Rocks { db, families } => {
                let size = db.property_int_value_cf(families[family as usize], properties::TOTAL_SST_FILES_SIZE);
                Ok(size.map_err(db_error)?.unwrap_or_default())
            }
            Self::Simulated(_) => Ok(0),
        }
    }

    /// Bytes of files, about, that hold the rows from a key on and before another.
    pub fn span_size(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        match self {
            Self::Rocks { db, families } => {
                db.get_approximate_sizes_cf(families[family as usize], &[Range::new(from, to)]).into_iter().sum()
            }
            Self::Simulated(_) => 0,
        }
    }

    /// Writes what is in memory to files of the families, so that memory and the write-ahead log are free again.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Self::Rocks { db, families } => db.flush_cfs_opt(families, &FlushOptions::default()).map_err(db_error),
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Rewrites a family's files without what was deleted.
    pub fn compact(&self, family: Family) {
        if let Self::Rocks { db, families } = self {
            db.compact_range_cf(families[family as usize], None::<&[u8]>, None::<&[u8]>);
        }
    }

    /// Takes a file of rows (see `sorted`) into a family; the file is gone then. Durable when it returns. Only for
    /// rows that nobody reads yet, in a range where there are none.
    pub fn ingest(&self, family: Family, file: &Path) -> io::Result<()> {
        match self {
            Self::Rocks { db, families } => {
                let mut options = IngestExternalFileOptions::default();
                options.set_move_files(true);
                let family = families[family as usize];
                db.ingest_external_file_cf_opts(family, &options, vec![file]).map_err(db_error)
            }
            Self::Simulated(_) => Err(io::Error::other("a simulated disk has no files")),
        }
    }

    /// An empty batch for this database.
    pub fn batch(&self) -> Batch<'a> {
        match self {
            Self::Rocks { families, .. } => Batch::Rocks { batch: WriteBatch::default(), families: *families },
            Self::Simulated(disk) => Batch::Simulated(world::own(disk, Vec::new())),
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
            (Self::Simulated(disk), Batch::Simulated(changes)) => disk.write(changes, sync),
            _ => Err(io::Error::other("a batch of another database")),
        }
    }
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
