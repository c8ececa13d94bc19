//! openraft's own suite for storage, run on our log and state machine.

use std::sync::Arc;

use openraft::{
    RaftLogReader, StorageError,
    entry::RaftEntry,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
};

use crate::{
    Config,
    disk::{db::Db, writer},
    raft::{
        local::Local,
        log::LogStore,
        machine::{Loaded, Machine},
    },
    types::{LogEntry, Payload, TypeConfig, log_id},
};
use kontiki_state::Level;

/// Closes the database before its directory goes.
struct Guard {
    db: Arc<Db>,
    _dir: tempfile::TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.db.close();
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::unconnected(0, dir.path());
        let db = Arc::new(Db::open(&config, "test").unwrap());
        let loaded = Loaded::read(&db).unwrap();
        let queue = writer::spawn(Arc::clone(&db), loaded.revision()).unwrap();
        let log = LogStore::open(Arc::clone(&db), queue.clone()).unwrap();
        let (machine, _view, _news) =
            Machine::new(loaded, Arc::clone(&db), queue, Arc::new(Local::new(Level::NEWEST, Level::FIRST)));
        Ok((Guard { db, _dir: dir }, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn a_purged_head_is_never_passed_over() {
    let (_guard, mut log, _machine) = Builder.build().await.unwrap();
    log.blocking_append((0..10).map(|index| LogEntry::new(log_id(1, index), Payload::Blank))).await.unwrap();
    log.purge(log_id(1, 4)).await.unwrap();
    let sent = log.limited_get_log_entries(5, 8).await.unwrap();
    assert_eq!(sent.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [5, 6, 7]);
    let sent = log.limited_get_log_entries(3, 8).await.unwrap();
    assert!(sent.is_empty(), "{sent:?} does not follow what the other side has");
}
