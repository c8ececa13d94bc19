//! A disk in memory: ordered maps that forget nothing. Leaders die here, disks do not.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use imbl::OrdMap;
use kontiki_store::simulation::{self, Change, Changes, Pair, Rows};
use parking_lot::Mutex;

type Map = OrdMap<Vec<u8>, Bytes>;

/// How long a write takes.
const WRITE: Duration = Duration::from_millis(1);

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<[Map; 3]>>);

impl Disk {
    fn apply(&self, changes: &[Change]) {
        let mut maps = self.0.lock();
        for change in changes {
            match change {
                Change::Put(family, key, value) => drop(maps[*family].insert(key.clone(), value.clone())),
                Change::Delete(family, key) => drop(maps[*family].remove(key)),
                Change::DeleteRange(family, from, to) if from < to => {
                    let range = (Bound::Included(from.clone()), Bound::Excluded(to.clone()));
                    let doomed: Vec<Vec<u8>> = maps[*family].range(range).map(|(key, _)| key.clone()).collect();
                    doomed.iter().for_each(|key| drop(maps[*family].remove(key)));
                }
                Change::DeleteRange(..) => {}
            }
        }
    }
}

impl simulation::Disk for Disk {
    fn get(&self, family: usize, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock()[family].get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, family: usize, from: &[u8]) -> io::Result<Rows> {
        let map = self.0.lock()[family].clone();
        let range = (Bound::Included(from.to_vec()), Bound::Unbounded);
        let rows: Vec<Pair> = map.range(range).map(|(key, value)| pair(key, value)).collect();
        Ok(Box::new(rows.into_iter()))
    }

    fn last(&self, family: usize) -> io::Result<Option<Pair>> {
        Ok(self.0.lock()[family].get_max().map(|(key, value)| pair(key, value)))
    }

    fn write(&self, changes: Changes, _: bool) -> io::Result<()> {
        self.apply(&changes);
        Ok(())
    }

    fn write_slowly(&self, changes: Changes, _: bool) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            tokio::time::sleep(WRITE).await;
            self.apply(&changes);
            Ok(())
        })
    }

    fn space(&self) -> (u64, u64) {
        (1 << 40, 1 << 41)
    }
}

fn pair(key: &[u8], value: &[u8]) -> Pair {
    (key.into(), value.into())
}
