//! A disk with a database on it, as far as the store can tell: three ordered maps behind one
//! write-ahead log.
//!
//! Invariants
//! - What was written is seen by readers when the write returns, and durable once a write that asked
//!   for it, or any later one that did, has returned.
//! - A crash keeps all that is durable, and of the rest a prefix, write by write. A write that was
//!   under way counts as part of the rest.

use std::{collections::VecDeque, io, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use imbl::OrdMap;
use kontiki_store::simulation::{self, Change, Changes, Pair, Rows};
use parking_lot::{Mutex, MutexGuard};

use super::{
    rng::Rng,
    schedule::{current, pause},
    tasks::Owner,
};

type Map = OrdMap<Vec<u8>, Bytes>;
type Maps = [Map; 3];

fn apply(maps: &mut Maps, batch: &[Change]) {
    for change in batch {
        match change {
            Change::Put(family, key, value) => drop(maps[*family].insert(key.clone(), value.clone())),
            Change::Delete(family, key) => drop(maps[*family].remove(key)),
            Change::DeleteRange(family, from, to) => {
                let range = (Bound::Included(from), Bound::Excluded(to));
                if from < to {
                    let doomed: Vec<Vec<u8>> =
                        maps[*family].range::<_, Vec<u8>>(range).map(|(key, _)| key.clone()).collect();
                    doomed.iter().for_each(|key| drop(maps[*family].remove(key)));
                }
            }
        }
    }
}

/// How a disk behaves. The default is a good one.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// How long a durable write takes, in microseconds, from and to.
    pub sync: (u64, u64),
    /// Writes do not come to an end.
    pub stalled: bool,
    /// There is no space left.
    pub full: bool,
    /// Writes fail, in a thousand.
    pub failing: u64,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { sync: (100, 2000), stalled: false, full: false, failing: 0 }
    }
}

/// What a crash leaves of what was not durable yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process died: the system still has what was written.
    Process,
    /// The power failed: some prefix of it.
    Power,
}

#[derive(Default)]
struct Inner {
    live: Maps,
    durable: Maps,
    /// Written, not durable.
    tail: VecDeque<Arc<Changes>>,
    /// Writes ever begun, and how many of them are no longer in the tail.
    begun: u64,
    hardened: u64,
    trouble: Trouble,
    lost: u64,
}

impl Inner {
    fn begin(&mut self, batch: Changes) -> (u64, Arc<Changes>) {
        let batch = Arc::new(batch);
        self.tail.push_back(Arc::clone(&batch));
        self.begun += 1;
        (self.begun, batch)
    }

    fn harden(&mut self, upto: u64) {
        while self.hardened < upto
            && let Some(batch) = self.tail.pop_front()
        {
            apply(&mut self.durable, &batch);
            self.hardened += 1;
        }
    }
}

/// A member's disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    /// How the disk behaves from now on.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.0.lock().trouble = trouble;
    }

    /// How it behaves.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.0.lock().trouble
    }

    /// Writes that crashes have undone so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    /// Takes everything away, as a new machine would.
    pub fn wipe(&self) {
        *self.0.lock() = Inner::default();
    }

    /// What the crash of its member leaves.
    pub fn crash(&self, crash: Crash, rng: &mut Rng) {
        let mut inner = self.0.lock();
        let unsafe_writes = inner.tail.len() as u64;
        let kept = match crash {
            Crash::Process => unsafe_writes,
            Crash::Power => rng.between(0, unsafe_writes),
        };
        inner.lost += unsafe_writes - kept;
        let upto = inner.hardened + kept;
        inner.harden(upto);
        inner.tail.clear();
        inner.hardened = inner.begun;
        inner.live = inner.durable.clone();
    }

    /// Opens the database on it.
    pub fn mount(self, owner: Owner) -> Mounted {
        Mounted { disk: self, owner }
    }
}

/// The database, as one life of its member has it open.
pub struct Mounted {
    disk: Disk,
    owner: Owner,
}

fn stopped() -> io::Error {
    io::Error::other("the store has stopped")
}

impl Mounted {
    fn inner(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let alive = current().is_some_and(|schedule| schedule.life(self.owner.member) == self.owner.life);
        if alive { Ok(self.disk.0.lock()) } else { Err(stopped()) }
    }

    /// Begins a write, unless it fails: its number, and how long it takes.
    fn begin(&self, batch: Changes, sync: bool) -> io::Result<(u64, Arc<Changes>, Duration)> {
        let mut inner = self.inner()?;
        let trouble = inner.trouble;
        let schedule = current().ok_or_else(stopped)?;
        let mut rng = schedule.rng.borrow_mut();
        if trouble.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"));
        }
        if rng.chance(trouble.failing) {
            return Err(io::Error::other("the simulated disk failed"));
        }
        let pause = if sync { rng.between(trouble.sync.0, trouble.sync.1) } else { rng.between(2, 30) };
        let (number, batch) = inner.begin(batch);
        Ok((number, batch, Duration::from_micros(pause)))
    }

    fn finish(&self, number: u64, batch: &[Change], sync: bool) -> io::Result<()> {
        let mut inner = self.inner()?;
        apply(&mut inner.live, batch);
        if sync {
            inner.harden(number);
        }
        Ok(())
    }

    async fn write_slowly(&self, batch: Changes, sync: bool) -> io::Result<()> {
        let (number, batch, time) = self.begin(batch, sync)?;
        pause(time).await;
        while self.inner()?.trouble.stalled {
            pause(Duration::from_millis(5)).await;
        }
        self.finish(number, &batch, sync)
    }
}

impl simulation::Disk for Mounted {
    fn get(&self, family: usize, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner()?.live[family].get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, family: usize, from: &[u8]) -> io::Result<Rows> {
        let map = self.inner()?.live[family].clone();
        Ok(Box::new(Scan { map, next: Bound::Included(from.to_vec()) }))
    }

    fn last(&self, family: usize) -> io::Result<Option<Pair>> {
        Ok(self.inner()?.live[family].get_max().map(|(key, value)| pair(key, value)))
    }

    /// What blocks is charged for by whoever let it block.
    fn write(&self, batch: Changes, sync: bool) -> io::Result<()> {
        let (number, batch) = self.inner()?.begin(batch);
        self.finish(number, &batch, sync)
    }

    fn write_slowly(&self, batch: Changes, sync: bool) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.write_slowly(batch, sync))
    }

    fn space(&self) -> (u64, u64) {
        let full = self.disk.0.lock().trouble.full;
        (if full { 0 } else { 1 << 40 }, 1 << 41)
    }
}

fn pair(key: &[u8], value: &[u8]) -> Pair {
    (key.into(), value.into())
}

/// The rows of a family as of when the scan began.
struct Scan {
    map: Map,
    next: Bound<Vec<u8>>,
}

impl Iterator for Scan {
    type Item = Pair;

    fn next(&mut self) -> Option<Self::Item> {
        let range = (self.next.clone(), Bound::Unbounded);
        let (key, value) = self.map.range::<_, Vec<u8>>(range).next()?;
        self.next = Bound::Excluded(key.clone());
        Some(pair(key, value))
    }
}
