//! A group of store processes, each with a network namespace and a disk of its own.
//!
//! Invariants
//! - What a member runs is its own: members of one group may be different builds.
//! - Both stores get the same flags.
//! - [`Group::heal`] undoes any mixture of faults: it lets processes, disks and links go on, mounts what
//!   lost its power and starts what should run. It never needs to know what was done.
//! - A process that ended without being told to is noted, unless its disk had failed under it.
//! - Everything the group made goes with it.

mod looks;
mod membership;
mod metrics;
mod processes;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use kontiki_etcd_tests::{
    binaries,
    client::{Clients, endpoint},
    pki::{Certs, Pki},
};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::{
    disk::{self, Disk},
    network::{Network, address, ip},
    tool::run,
};

/// Members there may ever be.
pub const SLOTS: usize = 5;
/// Of each member; the file behind it is sparse.
const DISK: u64 = 2 << 30;
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// One question to one member.
const ANSWER: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// Whose store is on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    Kontiki,
    Etcd,
}

/// How to make a group.
#[derive(Clone, Debug)]
pub struct Setup {
    pub store: Store,
    /// The program; without it the one that the tests find.
    pub binary: Option<PathBuf>,
    pub members: usize,
    /// Where logs go.
    pub out: PathBuf,
    /// More environment of every member.
    pub env: Vec<(String, String)>,
}

/// What a member runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub binary: PathBuf,
    /// Flags after those that every member gets.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

struct Slot {
    program: Program,
    certs: Certs,
    disk: Option<Disk>,
    child: Option<Child>,
    /// `--initial-cluster` and `--initial-cluster-state`.
    start: (String, &'static str),
    /// Its disk has failed under it: it may end by itself.
    excused: bool,
    /// How long its log was when it was last started.
    log_start: u64,
}

#[derive(Default)]
struct Seats {
    present: BTreeSet<usize>,
    /// Members that clients keep away from.
    shunned: BTreeSet<usize>,
}

/// Where the members are, as clients see it.
#[derive(Clone)]
pub struct Doors {
    endpoints: Vec<Endpoint>,
    seats: Arc<Mutex<Seats>>,
}

impl Doors {
    /// The members that clients may ask.
    #[must_use]
    pub fn present(&self) -> Vec<usize> {
        let seats = self.seats.lock();
        seats.present.difference(&seats.shunned).copied().collect()
    }

    /// A new connection to a member, made when it is first used.
    #[must_use]
    pub fn channel(&self, slot: usize) -> Channel {
        self.endpoints[slot].connect_lazy()
    }

    /// The same, for etcd's services.
    #[must_use]
    pub fn clients(&self, slot: usize) -> Clients {
        Clients::new(self.channel(slot))
    }
}

/// The group.
pub struct Group {
    setup: Setup,
    slots: Vec<Slot>,
    doors: Doors,
    /// The library that shifts clocks, if there is a C compiler.
    shim: Option<PathBuf>,
    deaths: Vec<String>,
    network: Network,
    files: tempfile::TempDir,
}

impl Group {
    /// Makes the namespaces, enters the clients' one with this thread, and starts the members.
    /// Threads that were started earlier stay outside.
    ///
    /// # Errors
    /// Not root, or a tool or binary is missing.
    pub fn start(setup: Setup) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "namespaces and disks need root");
        fs::create_dir_all(&setup.out)?;
        let program = Program { binary: binary(&setup)?, args: Vec::new(), env: setup.env.clone() };
        let network = Network::create(SLOTS)?;
        let files = disk::directory()?;
        network.enter()?;
        let pki = Pki::new(&files.path().join("pki"))?;
        let client = pki.issue("client", &[])?;
        let (mut slots, mut endpoints) = (Vec::new(), Vec::new());
        let cluster = initial_cluster(0..setup.members);
        for slot in 0..SLOTS {
            let certs = pki.issue(&name(slot), &[ip(slot)])?;
            let (program, start) = (program.clone(), (cluster.clone(), "new"));
            slots.push(Slot { program, certs, disk: None, child: None, start, excused: false, log_start: 0 });
            endpoints.push(endpoint(SocketAddr::new(ip(slot), CLIENT_PORT), &client)?.connect_timeout(CONNECT));
        }
        let seats = Seats { present: (0..setup.members).collect(), shunned: BTreeSet::new() };
        let doors = Doors { endpoints, seats: Arc::new(Mutex::new(seats)) };
        let shim = shim(files.path())?;
        let mut group = Self { setup, slots, doors, shim, deaths: Vec::new(), network, files };
        println!("{} of {} members in {}", program.binary.display(), group.setup.members, group.files.path().display());
        for slot in 0..group.setup.members {
            group.run(slot)?;
        }
        Ok(group)
    }

    /// Where clients find the members.
    #[must_use]
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    #[must_use]
    pub fn store(&self) -> Store {
        self.setup.store
    }

    /// The members of now.
    #[must_use]
    pub fn present(&self) -> Vec<usize> {
        self.doors.seats.lock().present.iter().copied().collect()
    }

    /// Keeps clients away from a member, or lets them come back.
    pub fn shun(&self, slot: usize, shunned: bool) {
        let set = &mut self.doors.seats.lock().shunned;
        if shunned {
            set.insert(slot)
        } else {
            set.remove(&slot)
        };
    }

    /// Lets a member run something else from its next start on.
    pub fn install(&mut self, slot: usize, program: &Program) {
        self.slots[slot].program = program.clone();
    }

    /// What a member runs, or will when it is started.
    #[must_use]
    pub fn program(&self, slot: usize) -> &Program {
        &self.slots[slot].program
    }

    /// The certificates of a member.
    #[must_use]
    pub fn certs(&self, slot: usize) -> &Certs {
        &self.slots[slot].certs
    }

    /// Whether clocks can be shifted.
    #[must_use]
    pub fn has_clocks(&self) -> bool {
        self.shim.is_some() && self.setup.store == Store::Kontiki
    }

    /// Processes that ended by themselves.
    pub fn deaths(&mut self) -> Vec<String> {
        std::mem::take(&mut self.deaths)
    }

    fn disk(&mut self, slot: usize) -> Result<&mut Disk> {
        self.slots[slot].disk.as_mut().with_context(|| format!("{} has no disk yet", name(slot)))
    }

    /// A member's disk, to hurt it: from now on its process may end by itself.
    ///
    /// # Errors
    /// It has none.
    pub fn hurt_disk(&mut self, slot: usize) -> Result<&mut Disk> {
        self.slots[slot].excused = true;
        self.disk(slot)
    }

    /// A member's data directory.
    #[must_use]
    pub fn data(&self, slot: usize) -> PathBuf {
        self.files.path().join(name(slot)).join("data")
    }

    fn clock_file(&self, slot: usize) -> PathBuf {
        self.files.path().join(format!("{}.clock", name(slot)))
    }

    /// A member's log.
    #[must_use]
    pub fn log(&self, slot: usize) -> PathBuf {
        self.setup.out.join(format!("{}.log", name(slot)))
    }

    /// Shifts a member's wall clock by so many seconds against the true time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn shift_clock(&self, slot: usize, seconds: i64) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.clock_file(slot))?;
        file.write_all(&(seconds * 1_000_000_000).to_ne_bytes()).context("shifting a clock")
    }

    /// Undoes every fault.
    ///
    /// # Errors
    /// A tool fails, or a member cannot be started.
    pub async fn heal(&mut self) -> Result<()> {
        self.network.heal()?;
        for slot in 0..SLOTS {
            if self.slots[slot].child.is_some() {
                self.signal(slot, Signal::SIGCONT).ok();
            }
            if let Some(disk) = &mut self.slots[slot].disk {
                disk.thaw()?;
                disk.drain();
            }
            if self.clock_file(slot).exists() {
                self.shift_clock(slot, 0)?;
            }
        }
        for slot in self.present() {
            self.note_death(slot);
            self.run(slot)?;
        }
        if self.setup.store == Store::Etcd {
            self.disarm().await;
        }
        Ok(())
    }

    /// etcd keeps refusing writes after a full disk until it is told that there is space again.
    async fn disarm(&self) {
        for slot in self.present() {
            let mut clients = self.doors.clients(slot);
            let all = kontiki_proto::etcd::AlarmRequest { action: 2, ..Default::default() };
            if timeout(ANSWER, clients.maintenance.alarm(all)).await.is_ok_and(|answer| answer.is_ok()) {
                return;
            }
        }
    }

    /// Asks a member something that may take a while.
    ///
    /// # Errors
    /// It refuses or is silent.
    pub async fn ask(&self, slot: usize, ask: impl AsyncFn(&mut Clients) -> Result<(), tonic::Status>) -> Result<()> {
        let mut clients = self.doors.clients(slot);
        match timeout(ANSWER * 3, ask(&mut clients)).await {
            Ok(answer) => answer.map_err(|status| anyhow!("{}", status.message())),
            Err(late) => Err(late.into()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let Some(disk) = &mut slot.disk {
                disk.thaw().ok();
            }
            if let Some(mut child) = slot.child.take() {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}

fn binary(setup: &Setup) -> Result<PathBuf> {
    match (&setup.binary, setup.store) {
        (Some(binary), _) => Ok(binary.clone()),
        (None, Store::Kontiki) => binaries::kontiki(),
        (None, Store::Etcd) => Ok(binaries::etcd34()?.etcd),
    }
}

/// A member's name.
#[must_use]
pub fn name(slot: usize) -> String {
    format!("s{}", slot + 1)
}

/// Where the other members find a member.
#[must_use]
pub fn peer_url(slot: usize) -> String {
    format!("https://{}:{PEER_PORT}", address(slot))
}

fn initial_cluster(slots: impl Iterator<Item = usize>) -> String {
    slots.map(|slot| format!("{}={}", name(slot), peer_url(slot))).collect::<Vec<_>>().join(",")
}

/// Builds the library that shifts clocks; without a C compiler there is none, and that is said.
fn shim(dir: &Path) -> Result<Option<PathBuf>> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    File::create(&source)?.write_all(include_bytes!("faults/clock.c"))?;
    match run(&format!("cc -shared -fPIC -O2 -o {} {}", library.display(), source.display())) {
        Ok(_) => Ok(Some(library)),
        Err(error) => {
            println!("no clock jumps: {error:#}");
            Ok(None)
        }
    }
}
