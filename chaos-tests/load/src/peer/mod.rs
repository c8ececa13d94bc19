//! What is compared: a kube-apiserver with its etcd, or masters of ours, as processes on the loopback.
//!
//! Invariants
//! - Clients of all peers hold a certificate of the group `system:masters`, and speak to the servers in turn.
//! - What a peer uses is what all its processes use: etcd's share counts as kube-apiserver's, as does that of its
//!   controller managers where there are any.

mod kontiki;
mod kube;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kontiki_etcd_tests::{process, wait::until};
use serde_json::Value;

use crate::wire::{Connection, Credentials, Request};

/// How long a server may take to start on a busy machine of two cores.
const READY: Duration = Duration::from_secs(180);
/// How often one that starts is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A server at rest uses less of a core than this.
const CALM: f64 = 0.15;
const CALM_WINDOW: Duration = Duration::from_secs(3);
const CALM_LIMIT: Duration = Duration::from_secs(300);

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One, with one etcd and so many kube-controller-managers.
    KubeApiserver {
        managers: usize,
    },
    Kontiki(Setup),
}

/// Masters of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `None`: `$KONTIKI_BIN`, or the debug build.
    pub bin: Option<PathBuf>,
    pub masters: usize,
    pub clients: Clients,
}

/// Which masters clients speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// All in turn.
    InTurn,
    /// The leader, as behind the virtual address.
    AtLeader,
}

impl Kind {
    /// How the command line names them.
    pub const NAMES: &str = "kube-apiserver, kontiki (three masters, clients at all of them), kontiki-leader (three \
                             masters, clients at the leader), kontiki-one (one master)";

    pub fn name(&self) -> &'static str {
        match self {
            Self::KubeApiserver { .. } => "kube-apiserver",
            Self::Kontiki(Setup { masters: 1, .. }) => "kontiki-one",
            Self::Kontiki(Setup { clients: Clients::AtLeader, .. }) => "kontiki-leader",
            Self::Kontiki(_) => "kontiki",
        }
    }

    /// The same of another build.
    #[must_use]
    pub fn built(self, bin: &Path) -> Self {
        match self {
            Self::KubeApiserver { .. } => self,
            Self::Kontiki(setup) => Self::Kontiki(Setup { bin: Some(bin.to_owned()), ..setup }),
        }
    }

    /// The same with one server.
    #[must_use]
    pub fn alone(&self) -> Self {
        match self {
            Self::KubeApiserver { .. } => self.clone(),
            Self::Kontiki(setup) => Self::Kontiki(Setup { masters: 1, ..setup.clone() }),
        }
    }

    /// The same with controllers, which ours always has: `standby` for one that could take over.
    #[must_use]
    pub fn with_controllers(&self, standby: bool) -> Self {
        match self {
            Self::KubeApiserver { .. } => Self::KubeApiserver { managers: 1 + usize::from(standby) },
            Self::Kontiki(_) => self.clone(),
        }
    }

    /// Whether another can take over when one that leads is killed.
    pub fn outlives_its_leader(&self) -> bool {
        match self {
            Self::KubeApiserver { managers } => *managers > 1,
            Self::Kontiki(setup) => setup.masters > 2,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let kontiki = |masters, clients| Ok(Self::Kontiki(Setup { bin: None, masters, clients }));
        match name {
            "kube-apiserver" => Ok(Self::KubeApiserver { managers: 0 }),
            "kontiki" => kontiki(3, Clients::InTurn),
            "kontiki-leader" => kontiki(3, Clients::AtLeader),
            "kontiki-one" => kontiki(1, Clients::InTurn),
            _ => Err(format!("known are {}", Self::NAMES)),
        }
    }
}

/// What was killed, and when.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    pub at: Instant,
    /// `None`: a controller manager.
    master: Option<usize>,
}

/// Whom clients speak to, and as whom.
#[derive(Clone)]
pub struct Servers {
    addresses: Vec<SocketAddr>,
    credentials: Credentials,
}

impl Servers {
    /// A connection of client `number`.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(&self, number: usize) -> Result<Connection> {
        Connection::open(self.addresses[number % self.addresses.len()], &self.credentials).await
    }
}

/// One that runs, and ends with its value.
pub struct Peer {
    servers: Servers,
    processes: Processes,
    /// The number of the next object: none is given twice.
    pub next: Arc<AtomicU64>,
}

enum Processes {
    Kube(Box<kube::Kube>),
    Kontiki(kontiki::Masters),
}

impl Peer {
    /// Starts it and waits until every server is ready. `None`, which has been said, where kube-apiserver cannot be had.
    ///
    /// # Errors
    /// A server does not start; the text holds the ends of the logs.
    pub async fn start(kind: &Kind) -> Result<Option<Self>> {
        let (addresses, credentials, processes) = match kind {
            Kind::KubeApiserver { .. } => {
                let Some(kube) = kube::Kube::start().await? else { return Ok(None) };
                (vec![kube.address()], Credentials::new(kube.certs())?, Processes::Kube(Box::new(kube)))
            }
            Kind::Kontiki(setup) => {
                let masters = kontiki::Masters::start(setup).await?;
                let servers = masters.servers(setup.clients).await?;
                (servers, Credentials::new(masters.certs())?, Processes::Kontiki(masters))
            }
        };
        let servers = Servers { addresses, credentials };
        let mut peer = Self { servers, processes, next: Arc::default() };
        for number in 0..peer.servers.addresses.len() {
            peer.ready(number).await.with_context(|| peer.tails())?;
        }
        if let Kind::KubeApiserver { managers } = kind {
            peer.add_managers(*managers).await?;
        }
        Ok(Some(peer))
    }

    /// The first leads before others stand by.
    async fn add_managers(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let Processes::Kube(kube) = &mut self.processes else { bail!("ours has its own controllers") };
            kube.add_manager(count > 1).await?;
            let led = until("the controllers act", READY, async || self.account("default").await);
            led.await.with_context(|| self.tails())?;
        }
        Ok(())
    }

    /// Whether controllers have been at a namespace: its service account is there.
    ///
    /// # Errors
    /// It is not.
    pub async fn account(&self, namespace: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        let (status, answer) = self.connect(0).await?.json("GET", &path, None).await?;
        ensure!(status == 200, "{answer}");
        Ok(())
    }

    /// The process that has the controllers: of ours the leader, which serves and stores as well.
    ///
    /// # Errors
    /// Nobody has them.
    pub async fn controllers(&self) -> Result<u32> {
        match &self.processes {
            Processes::Kube(kube) => kube.manager().context("no controller manager"),
            Processes::Kontiki(masters) => Ok(masters.pid(masters.leader().await?)),
        }
    }

    /// Kills that process; [`Self::mend`] is to follow.
    ///
    /// # Errors
    /// Nobody has the controllers.
    pub async fn kill_controllers(&mut self) -> Result<Killed> {
        match &mut self.processes {
            Processes::Kube(kube) => {
                let at = Instant::now();
                kube.kill_manager()?;
                Ok(Killed { at, master: None })
            }
            Processes::Kontiki(masters) => {
                let leader = masters.leader().await?;
                let at = Instant::now();
                masters.kill(leader)?;
                Ok(Killed { at, master: Some(leader) })
            }
        }
    }

    /// Starts again what was killed.
    ///
    /// # Errors
    /// It does not start.
    pub async fn mend(&mut self, killed: &Killed) -> Result<()> {
        match (&mut self.processes, killed.master) {
            (Processes::Kontiki(masters), Some(master)) => masters.mend(master).await,
            (Processes::Kube(kube), _) => kube.mend().await,
            (Processes::Kontiki(_), None) => Ok(()),
        }
    }

    /// Who has the controllers, where that is elected.
    ///
    /// # Errors
    /// Nobody.
    pub async fn leads(&self) -> Result<String> {
        if let Processes::Kontiki(masters) = &self.processes {
            return Ok(format!("s{}", masters.leader().await? + 1));
        }
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";
        let (_, lease) = self.connect(0).await?.json("GET", path, None).await?;
        Ok(lease["spec"]["holderIdentity"].as_str().with_context(|| lease.to_string())?.to_owned())
    }

    async fn ready(&mut self, number: usize) -> Result<()> {
        let probe = async || {
            if let Err(ended) = self.running() {
                return Ok(Err(ended));
            }
            let mut connection = self.connect(number).await?;
            let answer = connection.ask(&Request::get("/readyz")).await?;
            ensure!(answer.status == 200, "{}", String::from_utf8_lossy(connection.body()));
            // Ready, and yet the namespaces of the system may be missing.
            let (status, answer) = connection.json("GET", "/api/v1/namespaces/default", None).await?;
            ensure!(status == 200, "{answer}");
            anyhow::Ok(Ok(()))
        };
        until("the API is ready", READY, probe).await?
    }

    /// Ends the first server in order and starts it anew: how long that took from its start until it was ready.
    ///
    /// # Errors
    /// It does not end, cannot be started, or ends.
    pub async fn restart(&mut self) -> Result<Duration> {
        match &mut self.processes {
            Processes::Kube(kube) => kube.restart()?,
            Processes::Kontiki(masters) => masters.restart()?,
        }
        let start = Instant::now();
        while !self.is_ready().await {
            self.running()?;
            ensure!(start.elapsed() < READY, "not ready again:\n{}", self.tails());
            tokio::time::sleep(LOOK).await;
        }
        Ok(start.elapsed())
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut connection) = self.connect(0).await else { return false };
        connection.ask(&Request::get("/readyz")).await.is_ok_and(|answer| answer.status == 200)
    }

    fn running(&mut self) -> Result<()> {
        match &mut self.processes {
            Processes::Kube(kube) => kube.running(),
            Processes::Kontiki(masters) => masters.running(),
        }
    }

    /// The ends of the logs.
    pub fn tails(&self) -> String {
        match &self.processes {
            Processes::Kube(kube) => kube.tails(),
            Processes::Kontiki(masters) => masters.tails(),
        }
    }

    /// A connection of client `number`.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(&self, number: usize) -> Result<Connection> {
        self.servers.connect(number).await
    }

    /// For those that connect again later.
    pub fn servers(&self) -> Servers {
        self.servers.clone()
    }

    /// Creates it, if it is not there.
    ///
    /// # Errors
    /// The server refuses for another reason.
    pub async fn ensure(&self, path: &str, object: &Value) -> Result<()> {
        let (status, answer) = self.connect(0).await?.json("POST", path, Some(object)).await?;
        ensure!(status == 201 || status == 409, "creating in {path}: {answer}");
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        match &self.processes {
            Processes::Kube(kube) => kube.pids(),
            Processes::Kontiki(masters) => masters.pids(),
        }
    }

    /// Processor seconds of all processes so far.
    ///
    /// # Errors
    /// One has ended.
    pub fn cpu(&self) -> Result<f64> {
        self.pids().into_iter().map(process::cpu_seconds).sum()
    }

    /// Resident bytes of each process.
    ///
    /// # Errors
    /// One has ended.
    pub fn rss(&self) -> Result<Vec<u64>> {
        self.pids().into_iter().map(process::rss).collect()
    }

    /// Most resident bytes of all processes, each at its own worst moment.
    ///
    /// # Errors
    /// One has ended.
    pub fn peak_rss(&self) -> Result<u64> {
        self.pids().into_iter().map(process::peak_rss).sum()
    }

    /// # Errors
    /// One has ended.
    pub fn forget_peaks(&self) -> Result<()> {
        self.pids().into_iter().try_for_each(process::forget_peak)
    }

    /// Waits until all that was written has had its effect: the processes use next to nothing.
    ///
    /// # Errors
    /// They go on.
    pub async fn calm(&self) -> Result<()> {
        let deadline = Instant::now() + CALM_LIMIT;
        loop {
            let (before, start) = (self.cpu()?, Instant::now());
            tokio::time::sleep(CALM_WINDOW).await;
            let share = (self.cpu()? - before) / start.elapsed().as_secs_f64();
            if share < CALM {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no rest within {} s: still {share:.2} of a core", CALM_LIMIT.as_secs());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_a_column() {
        for name in ["kube-apiserver", "kontiki", "kontiki-leader", "kontiki-one"] {
            assert_eq!(name.parse::<Kind>().expect("known").name(), name);
            assert!(Kind::NAMES.contains(name));
        }
        assert!("etcd".parse::<Kind>().is_err());
        let kube = "kube-apiserver".parse::<Kind>().expect("known");
        let lead: Vec<bool> = [false, true].map(|standby| kube.with_controllers(standby).outlives_its_leader()).into();
        assert_eq!(lead, [false, true]);
        let old = "kontiki".parse::<Kind>().expect("known").built(Path::new("/old")).alone();
        assert_eq!(old, Kind::Kontiki(Setup { bin: Some("/old".into()), masters: 1, clients: Clients::InTurn }));
    }
}
