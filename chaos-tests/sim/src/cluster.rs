//! Members and their lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use kontiki_store::{Config, PeerTls, Store, Tuning};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    ledger::Ledger,
    world::{Crash, Record, Rng, Task, World},
};

/// What clients and the schedule share.
pub struct Shared {
    /// Members that are up.
    pub stores: Mutex<BTreeMap<u64, Store>>,
    ledger: Mutex<Ledger>,
    record: Record,
    /// Clients stop making new requests.
    pub quiet: Mutex<bool>,
}

impl Shared {
    /// Some member that is up.
    pub fn pick(&self, rng: &mut Rng) -> Option<(u64, Store)> {
        let stores = self.stores.lock();
        let members: Vec<u64> = stores.keys().copied().collect();
        let member = *rng.pick(&members)?;
        stores.get(&member).map(|store| (member, store.clone()))
    }

    /// The ledger, with all that members did so far in it.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        let mut ledger = self.ledger.lock();
        self.record.take().into_iter().for_each(|seen| ledger.see(seen));
        ledger
    }

    pub fn is_quiet(&self) -> bool {
        *self.quiet.lock()
    }
}

/// What openraft asserts in debug builds and does not keep itself: a
/// snapshot that ends one entry before the log takes the submitted cursor back. The member stops and
/// is started again; everything else is judged as ever.
const KNOWN: &str = "< new_submitted:";

/// All members there ever were.
pub struct Cluster {
    pub world: World,
    pub shared: Arc<Shared>,
    tuning: Tuning,
    opening: BTreeMap<u64, Task<Result<Store, kontiki_store::OpenError>>>,
    /// Members that have a disk worth starting from.
    pub known: BTreeSet<u64>,
}

pub fn address(member: u64) -> String {
    format!("member-{member}:2380")
}

fn config(member: u64) -> Config {
    let tls = PeerTls {
        ca_pem: String::new(),
        cert_pem: String::new(),
        key_pem: String::new(),
        organization: None,
        names: Vec::new(),
    };
    Config {
        id: member,
        name: format!("s{member}"),
        dir: format!("/simulated/{member}").into(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: address(member),
        tls,
        heartbeat: Config::HEARTBEAT,
        election: Config::ELECTION,
        max_feature_level: None,
        past: kontiki_store::Past::NONE,
    }
}

impl Cluster {
    pub fn new(seed: u64, tuning: Tuning) -> Self {
        let world = World::new(seed);
        let shared = Shared {
            stores: Mutex::default(),
            ledger: Mutex::default(),
            record: world.record(),
            quiet: Mutex::new(false),
        };
        let (opening, known) = (BTreeMap::new(), BTreeSet::new());
        Self { world, shared: Arc::new(shared), tuning, opening, known }
    }

    /// Lets time pass, and checks what happened meanwhile.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        // In pieces, so that the ledger is never far behind the clients it judges.
        while self.world.now() < end && self.shared.ledger().violation.is_none() {
            self.world.run_for(Duration::from_millis(1).min(end - self.world.now()));
            self.look();
        }
    }

    /// Takes in what members did and what became of those being started.
    fn look(&mut self) {
        self.take_in();
        let mut opened = Vec::new();
        for (member, task) in &mut self.opening {
            if let Some(result) = task.poll() {
                opened.push((*member, result));
            }
        }
        for (member, result) in opened {
            self.opening.remove(&member);
            match result {
                Ok(Ok(store)) => drop(self.shared.stores.lock().insert(member, store)),
                // It tries again when somebody starts it again.
                Ok(Err(error)) if self.world.disk(member).trouble().failing > 0 => {
                    self.note(&format!("{member} does not start: {error}"));
                    self.world.kill(member, Crash::Process);
                }
                Ok(Err(error)) => {
                    self.shared.ledger().broken("durable", format!("{member} does not start: {error}"));
                }
                Err(_) => {}
            }
        }
    }

    fn take_in(&self) {
        let mut ledger = self.shared.ledger();
        let clocks = self.known.iter().map(|member| self.world.unix_seconds(*member));
        ledger.clock = clocks.max().unwrap_or(0).max(ledger.clock);
        match self.world.take_panic() {
            Some(panic) if panic.contains(KNOWN) => {
                *ledger.counts.faults.entry("openraft's assertion").or_default() += 1;
            }
            Some(panic) => ledger.broken("no panic", panic),
            None => {}
        }
    }

    pub fn note(&self, line: &str) {
        let at = self.world.now().as_millis();
        self.shared.ledger().note(format!("{at:>7} ms  {line}"));
    }

    pub fn up(&self) -> Vec<u64> {
        self.shared.stores.lock().keys().copied().collect()
    }

    pub fn down(&self) -> Vec<u64> {
        let stores = self.shared.stores.lock();
        let down = self.known.iter().filter(|id| !stores.contains_key(id) && !self.opening.contains_key(id));
        down.copied().collect()
    }

    /// Starts a member from what its disk has.
    pub fn start(&mut self, member: u64) {
        self.note(&format!("start {member}"));
        self.known.insert(member);
        let (config, tuning) = (config(member), self.tuning);
        let task = self.world.spawn(member, async move { Store::open_with(config, tuning).await });
        self.opening.insert(member, task);
    }

    /// Ends a member's life.
    pub fn kill(&mut self, member: u64, crash: Crash) {
        self.note(&format!("kill {member} ({crash:?})"));
        let store = self.shared.stores.lock().remove(&member);
        self.opening.remove(&member);
        self.world.kill(member, crash);
        drop(store);
        self.take_in();
    }

    /// Takes a member away for good.
    pub fn retire(&mut self, member: u64) {
        self.kill(member, Crash::Power);
        self.world.disk(member).wipe();
        self.known.remove(&member);
        self.shared.ledger().forget(member);
    }

    /// Members whose store has given up, for lack of a disk or otherwise.
    pub fn stopped(&self) -> Vec<u64> {
        let stores = self.shared.stores.lock();
        let stopped = stores.iter().filter(|(_, store)| store.status().has_changed().is_err());
        stopped.map(|(member, _)| *member).collect()
    }

    pub fn store(&self, member: u64) -> Option<Store> {
        self.shared.stores.lock().get(&member).cloned()
    }

    /// Who leads, in its own opinion.
    pub fn leader(&self) -> Option<u64> {
        let stores = self.shared.stores.lock();
        let leaders = stores.iter().filter(|(_, store)| store.status().borrow().is_leader);
        leaders.max_by_key(|(_, store)| store.status().borrow().term).map(|(member, _)| *member)
    }

    /// Runs until `done`, or says what it was waiting for.
    pub fn until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = self.world.now() + limit;
        while !done(self) {
            ensure!(self.shared.ledger().violation.is_none(), "a violation while waiting for {what}");
            ensure!(self.world.now() < end, "{what}: not within {limit:?}");
            self.run_for(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Runs a task of a member to its end.
    pub fn wait<T: Send + 'static>(
        &mut self,
        what: &str,
        limit: Duration,
        member: u64,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let mut task = self.world.spawn(member, work);
        let mut result = None;
        self.until(what, limit, |_| {
            result = task.poll();
            result.is_some()
        })?;
        result.ok_or_else(|| anyhow!("{what}: no result"))?.map_err(|error| anyhow!("{what}: {error}"))
    }

    /// Makes a group of the members 1 to `size`.
    pub fn form(&mut self, size: u64) -> Result<()> {
        let limit = Duration::from_secs(30);
        for member in 1..=size {
            self.start(member);
            self.until("start", limit, |cluster| cluster.up().contains(&member))?;
            let store = self.store(1).ok_or_else(|| anyhow!("member 1 is gone"))?;
            if member == 1 {
                self.wait("bootstrap", limit, 1, async move { store.bootstrap().await })??;
            } else {
                let add = async move { store.add_member(member, &format!("s{member}"), &address(member)).await };
                self.wait("add a member", limit, 1, add)??;
            }
        }
        Ok(())
    }
}
