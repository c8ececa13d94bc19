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
use imbl::OrdMap;
use parking_lot::Mutex;

use super::{
    rng::Rng,
    world::{here, world},
};

type Map = OrdMap<Vec<u8>, Bytes>;
type Maps = [Map; 3];

/// One change of a batch. The first number is the family's.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(usize, Vec<u8>, Bytes),
    Delete(usize, Vec<u8>),
    DeleteRange(usize, Vec<u8>, Vec<u8>),
}

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
    tail: VecDeque<Arc<Vec<Change>>>,
    /// Writes ever begun, and how many of them are no longer in the tail.
    begun: u64,
    hardened: u64,
    trouble: Trouble,
    lost: u64,
}

impl Inner {
    fn begin(&mut self, batch: Vec<Change>) -> (u64, Arc<Vec<Change>>) {
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

    pub(super) fn crash(&self, crash: Crash, rng: &mut Rng) {
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

    /// Opens the database on it for whoever's step it is.
    pub(crate) fn mount() -> Option<Mounted> {
        let (world, owner) = (world()?, here()?);
        Some(Mounted { disk: world.disk(owner.member), member: owner.member, life: owner.life })
    }
}

/// The database, as one life of its member has it open.
#[derive(Clone)]
pub(crate) struct Mounted {
    disk: Disk,
    member: u64,
    life: u64,
}

impl Mounted {
    fn inner(&self) -> io::Result<parking_lot::MutexGuard<'_, Inner>> {
        let alive = world().is_some_and(|world| world.life(self.member) == self.life);
        if alive { Ok(self.disk.0.lock()) } else { Err(crate::disk::failure::stopped()) }
    }

    pub fn get(&self, family: usize, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.inner()?.live[family].get(key).map(|value| value.to_vec()))
    }

    pub fn scan(&self, family: usize, from: &[u8]) -> io::Result<Scan> {
        let map = self.inner()?.live[family].clone();
        Ok(Scan { map, next: Bound::Included(from.to_vec()) })
    }

    pub fn last(&self, family: usize) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.inner()?.live[family].get_max().map(|(key, value)| (key.clone(), value.to_vec())))
    }

    /// Writes at once. What blocks is charged for by whoever let it block.
    pub fn write(&self, batch: Vec<Change>, sync: bool) -> io::Result<()> {
        let mut inner = self.inner()?;
        let (number, batch) = inner.begin(batch);
        apply(&mut inner.live, &batch);
        if sync {
            inner.harden(number);
        }
        Ok(())
    }

    /// Writes and takes as long as the disk does.
    pub async fn write_slowly(&self, batch: Vec<Change>, sync: bool) -> io::Result<()> {
        let (number, batch, pause) = {
            let mut inner = self.inner()?;
            let trouble = inner.trouble;
            let world = world().ok_or_else(crate::disk::failure::stopped)?;
            let mut rng = world.rng.borrow_mut();
            if trouble.full {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk"));
            }
            if rng.chance(trouble.failing) {
                return Err(io::Error::other("the simulated disk failed"));
            }
            let pause = if sync { rng.between(trouble.sync.0, trouble.sync.1) } else { rng.between(2, 30) };
            let (number, batch) = inner.begin(batch);
            (number, batch, Duration::from_micros(pause))
        };
        crate::rt::sleep(pause).await;
        while self.inner()?.trouble.stalled {
            crate::rt::sleep(Duration::from_millis(5)).await;
        }
        let mut inner = self.inner()?;
        apply(&mut inner.live, &batch);
        if sync {
            inner.harden(number);
        }
        Ok(())
    }

    /// Whether there is room, as bytes free and in all.
    pub fn space(&self) -> (u64, u64) {
        let full = self.disk.0.lock().trouble.full;
        (if full { 0 } else { 1 << 40 }, 1 << 41)
    }
}

/// The rows of a family as of when the scan began.
pub(crate) struct Scan {
    map: Map,
    next: Bound<Vec<u8>>,
}

impl Iterator for Scan {
    type Item = (Box<[u8]>, Box<[u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let range = (self.next.clone(), Bound::Unbounded);
        let (key, value) = self.map.range::<_, Vec<u8>>(range).next()?;
        self.next = Bound::Excluded(key.clone());
        Some((key.clone().into(), value.to_vec().into()))
    }
}
