//! What is compared: a kube-apiserver with its etcd, or masters of ours, as processes on the loopback.
//!
//! Invariants
//! - Clients of all peers hold a certificate of the group `system:masters`, and speak to the servers in turn.
//! - What a peer uses is what all its processes use: etcd's share counts as kube-apiserver's.

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
    /// One, with one etcd.
    KubeApiserver,
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
            Self::KubeApiserver => "kube-apiserver",
            Self::Kontiki(Setup { masters: 1, .. }) => "kontiki-one",
            Self::Kontiki(Setup { clients: Clients::AtLeader, .. }) => "kontiki-leader",
            Self::Kontiki(_) => "kontiki",
        }
    }

    /// The same of another build.
    #[must_use]
    pub fn built(self, bin: &Path) -> Self {
        match self {
            Self::KubeApiserver => self,
            Self::Kontiki(setup) => Self::Kontiki(Setup { bin: Some(bin.to_owned()), ..setup }),
        }
    }

    /// The same with one server.
    #[must_use]
    pub fn alone(&self) -> Self {
        match self {
            Self::KubeApiserver => Self::KubeApiserver,
            Self::Kontiki(setup) => Self::Kontiki(Setup { masters: 1, ..setup.clone() }),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let kontiki = |masters, clients| Ok(Self::Kontiki(Setup { bin: None, masters, clients }));
        match name {
            "kube-apiserver" => Ok(Self::KubeApiserver),
            "kontiki" => kontiki(3, Clients::InTurn),
            "kontiki-leader" => kontiki(3, Clients::AtLeader),
            "kontiki-one" => kontiki(1, Clients::InTurn),
            _ => Err(format!("known are {}", Self::NAMES)),
        }
    }
}

/// One that runs, and ends with its value.
pub struct Peer {
    /// Whom clients speak to.
    servers: Vec<SocketAddr>,
    credentials: Credentials,
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
        let (servers, credentials, processes) = match kind {
            Kind::KubeApiserver => {
                let Some(kube) = kube::Kube::start().await? else { return Ok(None) };
                (vec![kube.address()], Credentials::new(kube.certs())?, Processes::Kube(Box::new(kube)))
            }
            Kind::Kontiki(setup) => {
                let masters = kontiki::Masters::start(setup).await?;
                let servers = masters.servers(setup.clients).await?;
                (servers, Credentials::new(masters.certs())?, Processes::Kontiki(masters))
            }
        };
        let mut peer = Self { servers, credentials, processes, next: Arc::default() };
        for number in 0..peer.servers.len() {
            peer.ready(number).await.with_context(|| peer.tails())?;
        }
        Ok(Some(peer))
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

    fn tails(&self) -> String {
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
        Connection::open(self.servers[number % self.servers.len()], &self.credentials).await
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
        let old = "kontiki".parse::<Kind>().expect("known").built(Path::new("/old")).alone();
        assert_eq!(old, Kind::Kontiki(Setup { bin: Some("/old".into()), masters: 1, clients: Clients::InTurn }));
    }
}
