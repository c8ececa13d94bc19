//! How RocksDB is set up.
//!
//! Invariants
//! - What it keeps in memory is bounded for all families together (`MEMORY`), and so is the write-ahead log (`LOG`): a
//!   member at rest holds little of what once went through it.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
    WriteBufferManager,
};

use crate::{
    OpenError,
    disk::{
        failure::{db_error, open_error},
        wal,
    },
};

/// The families' names, in the order of `Family`.
pub(super) const NAMES: [&str; 3] = ["log", "meta", "rows"];

const MIB: usize = 1 << 20;

/// Writes in memory, of all families. A flush is begun before all of it is in use.
const MEMORY: usize = 32 * MIB;
/// A family's part of it, until it is flushed.
const BUFFER: usize = 12 * MIB;
/// Blocks read back: only history, and members that are far behind, read any.
const CACHE: usize = 4 * MIB;
/// The write-ahead log. Families that write seldom are flushed for its sake.
const LOG: usize = 64 * MIB;

/// Opens the database in a directory.
pub(super) fn open(dir: &Path) -> Result<DB, OpenError> {
    // RocksDB resumes after a full disk once the largest write buffer fits, so none is larger than
    // it has to be, the unused default family's included.
    let [log, meta, rows] = NAMES;
    let families = [("default", MIB), (meta, MIB), (log, BUFFER), (rows, BUFFER)];
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE));
    let families = families.map(|(name, buffer)| ColumnFamilyDescriptor::new(name, family_options(buffer, &table)));
    let path = dir.join("db");
    let cut = wal::mend(&path).map_err(|error| open_error(dir, &error))?;
    if cut > 0 {
        tracing::warn!(bytes = cut, "cut off the write-ahead log: what a crash left half written, or nobody wrote");
    }
    let opened = DB::open_cf_descriptors(&database_options(), &path, families);
    opened.map_err(|error| open_error(dir, &db_error(error)))
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is what kill -9 leaves and is dropped; damage before the tail must not pass as
    // an older state, so it refuses to open.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(LOG as u64);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(MEMORY, false));
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_max_open_files(512);
    options
}

pub(super) fn family_options(write_buffer: usize, table: &BlockBasedOptions) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(write_buffer);
    options.set_block_based_table_factory(table);
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(32 * MIB as u64);
    // Objects repeat themselves, and a byte that is not written saves more than compressing it costs: to the page cache
    // alone, RocksDB's background work took a fifth of the CPU of an update of a Pod.
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
