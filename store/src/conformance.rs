//! openraft's own suite for storage, run on our log and state machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};

use crate::{
    Config,
    db::Db,
    log::LogStore,
    machine::{Loaded, Machine},
    raft::TypeConfig,
    writer,
};

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
        let (machine, _view) = Machine::new(loaded, Arc::clone(&db), queue);
        Ok((Guard { db, _dir: dir }, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
