//! A group of store processes, each with a network namespace and a disk of its own.
//!
//! Invariants
//! - Both stores get the same flags.
//! - [`Group::heal`] undoes any mixture of faults: it lets processes, disks and links go on, mounts what
//!   lost its power and starts what should run. It never needs to know what was done.
//! - A process that ended without being told to is noted, unless its disk had failed under it.
//! - Everything the group made goes with it.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kontiki_etcd_tests::{
    binaries,
    client::{Clients, endpoint},
    pki::{Certs, Pki},
};
use kontiki_proto::etcd::{
    Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest, RangeRequest, StatusRequest, StatusResponse,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;

use crate::{
    disk::Disk,
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
/// After SIGTERM.
const STOP: Duration = Duration::from_secs(20);
/// Until a change of membership is accepted: etcd wants every member to have been connected for a while.
const CHANGE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// How the directories of disks begin; the process id follows.
const FILES: &str = "nemesis-disks-";
/// Of a log's line, in characters.
const LINE: usize = 240;

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

struct Slot {
    certs: Certs,
    disk: Option<Disk>,
    child: Option<Child>,
    /// `--initial-cluster` and `--initial-cluster-state`.
    start: (String, &'static str),
    /// Its disk has failed under it: it may end by itself.
    excused: bool,
}

/// Where the members are, as clients see it.
#[derive(Clone)]
pub struct Doors {
    endpoints: Vec<Endpoint>,
    present: Arc<Mutex<BTreeSet<usize>>>,
}

impl Doors {
    /// The members of now.
    #[must_use]
    pub fn present(&self) -> Vec<usize> {
        self.present.lock().iter().copied().collect()
    }

    /// New connections to a member, made when they are first used.
    #[must_use]
    pub fn clients(&self, slot: usize) -> Clients {
        Clients::new(self.endpoints[slot].connect_lazy())
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
        let binary = binary(&setup)?;
        let network = Network::create(SLOTS)?;
        clean()?;
        let files = tempfile::Builder::new().prefix(&format!("{FILES}{}-", std::process::id())).tempdir()?;
        network.enter()?;
        let pki = Pki::new(&files.path().join("pki"))?;
        let client = pki.issue("client", &[])?;
        let (mut slots, mut endpoints) = (Vec::new(), Vec::new());
        let cluster = initial_cluster(0..setup.members);
        for slot in 0..SLOTS {
            let certs = pki.issue(&name(slot), &[ip(slot)])?;
            slots.push(Slot { certs, disk: None, child: None, start: (cluster.clone(), "new"), excused: false });
            endpoints.push(endpoint(SocketAddr::new(ip(slot), CLIENT_PORT), &client)?.connect_timeout(CONNECT));
        }
        let doors = Doors { endpoints, present: Arc::new(Mutex::new((0..setup.members).collect())) };
        let shim = shim(files.path())?;
        let mut group = Self { setup, slots, doors, shim, deaths: Vec::new(), network, files };
        println!("{} of {} members in {}", binary.display(), group.setup.members, group.files.path().display());
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
        self.doors.present()
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

    /// Starts a member that is not running.
    ///
    /// # Errors
    /// Its disk cannot be mounted, or the program not be started.
    pub fn run(&mut self, slot: usize) -> Result<()> {
        if self.slots[slot].child.is_some() {
            return Ok(());
        }
        if self.slots[slot].disk.is_none() {
            self.slots[slot].disk = Some(Disk::create(self.files.path(), &name(slot), DISK)?);
        }
        self.disk(slot)?.mount()?;
        let data = self.data(slot);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log(slot))?;
        let mut command = self.command(slot, &data)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.slots[slot].child = Some(command.spawn().with_context(|| format!("starting {}", name(slot)))?);
        self.slots[slot].excused = false;
        Ok(())
    }

    fn command(&self, slot: usize, data: &Path) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network.path(slot)));
        if let Some(shim) = &self.shim {
            let file = self.clock_file(slot);
            if !file.exists() {
                fs::write(&file, 0_i64.to_ne_bytes())?;
            }
            command.arg("env").arg(format!("LD_PRELOAD={}", shim.display()));
            command.arg(format!("NEMESIS_CLOCK={}", file.display()));
        }
        command.arg(binary(&self.setup)?);
        if self.setup.store == Store::Kontiki {
            command.arg("store");
        }
        let (certs, (cluster, state)) = (&self.slots[slot].certs, &self.slots[slot].start);
        let client = format!("https://{}:{CLIENT_PORT}", address(slot));
        let peer = peer_url(slot);
        command.args(["--name", &name(slot)]).arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", cluster, "--initial-cluster-state", state]);
        for side in ["", "peer-"] {
            command.arg(format!("--{side}trusted-ca-file")).arg(&certs.ca);
            command.arg(format!("--{side}cert-file")).arg(&certs.cert);
            command.arg(format!("--{side}key-file")).arg(&certs.key);
            command.arg(format!("--{side}client-cert-auth"));
        }
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.envs(self.setup.env.iter().map(|(key, value)| (key, value)));
        Ok(command)
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

    /// Sends a signal to a member that runs.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, slot: usize, signal: Signal) -> Result<()> {
        let child = self.slots[slot].child.as_ref().with_context(|| format!("{} does not run", name(slot)))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", name(slot)))
    }

    /// kill -9, and waits for the end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self, slot: usize) -> Result<()> {
        self.note_death(slot);
        if let Some(mut child) = self.slots[slot].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(&mut self, slot: usize) -> Result<()> {
        self.note_death(slot);
        let Some(mut child) = self.slots[slot].child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop within {} s of SIGTERM", name(slot), STOP.as_secs());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn note_death(&mut self, slot: usize) {
        let ended = self.slots[slot].child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let Some(status) = ended else { return };
        self.slots[slot].child = None;
        if !self.slots[slot].excused {
            self.deaths.push(format!("{} ended by itself ({status}):\n{}", name(slot), self.tail(slot, 12)));
        }
    }

    /// The last lines of a member's log.
    #[must_use]
    pub fn tail(&self, slot: usize, lines: usize) -> String {
        let log = fs::read(self.log(slot)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut tail: Vec<String> =
            log.lines().rev().take(lines).map(|line| line.chars().take(LINE).collect()).collect();
        tail.reverse();
        tail.join("\n")
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

    /// What a member says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, slot: usize) -> Result<StatusResponse> {
        let mut clients = self.doors.clients(slot);
        let answer = timeout(ANSWER, clients.maintenance.status(StatusRequest {})).await;
        Ok(answer.with_context(|| format!("{} is silent", name(slot)))??.into_inner())
    }

    /// The member that leads, by the newest term that any member knows.
    pub async fn leader(&self) -> Option<usize> {
        let mut best = None;
        for slot in self.present() {
            let Ok(status) = self.status(slot).await else { continue };
            let leads = status.header.as_ref().is_some_and(|header| header.member_id == status.leader);
            if leads {
                best = best.max(Some((status.raft_term, slot)));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Waits until every member answers a linearizable read.
    ///
    /// # Errors
    /// Not in time; with who did not, and why.
    pub async fn healthy(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let mut last = Vec::new();
            for slot in self.present() {
                if let Err(error) = self.reads(slot).await {
                    self.note_death(slot);
                    let dead = if self.slots[slot].child.is_none() { " (ended)" } else { "" };
                    last.push(format!("{}{dead}: {error:#}", name(slot)));
                }
            }
            if last.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not healthy within {} s: {}", limit.as_secs(), last.join("; "));
            }
            sleep(POLL).await;
        }
    }

    async fn reads(&self, slot: usize) -> Result<()> {
        let mut clients = self.doors.clients(slot);
        let read = RangeRequest { key: "nobody".into(), ..Default::default() };
        timeout(ANSWER, clients.kv.range(read)).await.context("no answer")??;
        Ok(())
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let mut last = anyhow!("nobody to ask");
        for slot in self.present() {
            let mut clients = self.doors.clients(slot);
            match timeout(ANSWER, clients.cluster.member_list(MemberListRequest { linearizable: true })).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner().members),
                Ok(Err(status)) => last = status.into(),
                Err(late) => last = late.into(),
            }
        }
        Err(last.context("listing the members"))
    }

    /// Takes a member out of the group, ends it and wipes its disk.
    ///
    /// # Errors
    /// The group refuses for too long.
    pub async fn remove(&mut self, slot: usize) -> Result<()> {
        self.doors.present.lock().remove(&slot);
        let deadline = Instant::now() + CHANGE;
        loop {
            let members = self.members().await;
            let there =
                members.as_ref().ok().map(|members| members.iter().find(|m| m.peer_ur_ls.contains(&peer_url(slot))));
            if let Some(None) = there {
                break;
            }
            let answer = match there.flatten().map(|member| member.id) {
                Some(id) => {
                    self.change(async |clients| {
                        clients.cluster.member_remove(MemberRemoveRequest { id }).await.map(drop)
                    })
                    .await
                }
                None => Err(members.err().unwrap_or_else(|| anyhow!("no members"))),
            };
            if let Err(error) = answer {
                ensure!(Instant::now() < deadline, "removing {}: {error:#}", name(slot));
                sleep(POLL * 5).await;
            }
        }
        // A removed member may end by itself.
        self.slots[slot].excused = true;
        self.kill(slot)?;
        self.disk(slot)?.wipe()
    }

    /// Adds a fresh member and starts it.
    ///
    /// # Errors
    /// The group refuses for too long.
    pub async fn add(&mut self, slot: usize) -> Result<()> {
        let deadline = Instant::now() + CHANGE;
        let members = loop {
            let members = self.members().await?;
            if members.iter().any(|member| member.peer_ur_ls.contains(&peer_url(slot))) {
                break members;
            }
            let add = MemberAddRequest { peer_ur_ls: vec![peer_url(slot)], is_learner: false };
            let answer = self.change(async |clients| clients.cluster.member_add(add.clone()).await.map(drop)).await;
            if let Err(error) = answer {
                ensure!(Instant::now() < deadline, "adding {}: {error:#}", name(slot));
                sleep(POLL * 5).await;
            }
        };
        let slots = (0..SLOTS).filter(|slot| members.iter().any(|member| member.peer_ur_ls.contains(&peer_url(*slot))));
        self.slots[slot].start = (initial_cluster(slots), "existing");
        self.run(slot)?;
        self.doors.present.lock().insert(slot);
        Ok(())
    }

    /// Asks one member after the other until one accepts.
    async fn change(&self, ask: impl AsyncFn(&mut Clients) -> Result<(), tonic::Status>) -> Result<()> {
        let mut last = anyhow!("nobody to ask");
        for slot in self.present() {
            match self.ask(slot, &ask).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
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

/// Unmounts and removes the disks of runs that were killed. Their members ended with their namespaces.
fn clean() -> Result<()> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid =
            name.strip_prefix(FILES).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            continue;
        }
        for slot in 0..SLOTS {
            let mount = entry.path().join(crate::group::name(slot));
            // Fails where nothing is frozen or mounted.
            run(&format!("fsfreeze -u {}", mount.display())).ok();
            run(&format!("umount {}", mount.display())).ok();
        }
        fs::remove_dir_all(entry.path()).with_context(|| format!("removing {name}"))?;
    }
    Ok(())
}

fn binary(setup: &Setup) -> Result<PathBuf> {
    match (&setup.binary, setup.store) {
        (Some(binary), _) => Ok(binary.clone()),
        (None, Store::Kontiki) => binaries::kontiki(),
        (None, Store::Etcd) => Ok(binaries::etcd()?.etcd),
    }
}

/// A member's name.
#[must_use]
pub fn name(slot: usize) -> String {
    format!("s{}", slot + 1)
}

fn peer_url(slot: usize) -> String {
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
