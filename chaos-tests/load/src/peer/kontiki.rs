//! Masters of ours without nodes and without a virtual address: `kontiki server` needs no more than ports for that.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kontiki_etcd_tests::{
    binaries,
    pki::Certs,
    process::{Daemon, LOOPBACK},
    wait::until,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{Clients, Setup};

/// Until a master has joined.
const JOINED: Duration = Duration::from_secs(120);
const LOG_LINES: usize = 15;
/// Room for as many nodes as anybody lists.
const PODS: &str = "10.128.0.0/10";
const KUBECONFIG: &str = "admin.kubeconfig";

pub struct Masters {
    masters: Vec<Master>,
    admin: Certs,
    bin: PathBuf,
    dir: TempDir,
}

struct Master {
    process: Daemon,
    api: SocketAddr,
    node: SocketAddr,
}

impl Masters {
    /// Starts the first, then those that join it, and waits until all vote.
    ///
    /// # Errors
    /// One does not start.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let bin = setup.bin.clone().map_or_else(binaries::kontiki, Ok)?;
        let dir = tempfile::Builder::new().prefix("kontiki-masters-").tempdir()?;
        let mut first = Master::start(&bin, dir.path(), "s1", &["--bootstrap"])?;
        let kubeconfig = dir.path().join("s1").join(KUBECONFIG);
        until("the first master's kubeconfig", JOINED, async || {
            first.process.running()?;
            ensure!(kubeconfig.is_file(), "{}", first.process.tail(LOG_LINES));
            anyhow::Ok(())
        })
        .await?;
        let admin = administrator(&kubeconfig, dir.path())?;
        let mut masters = Self { masters: vec![first], admin, bin, dir };
        for number in 2..=setup.masters {
            masters.join(number).await?;
        }
        Ok(masters)
    }

    async fn join(&mut self, number: usize) -> Result<()> {
        // The cluster takes tokens only once it serves.
        let token = until("a token", JOINED, async || self.kontiki(&["token", "create", "--server"])).await?;
        let text = |key: &str| token[key].as_str().with_context(|| format!("{key} of a token"));
        let server = self.masters[0].node.to_string();
        let how = ["--join-servers", &server, "--join-token", text("token")?, "--join-ca-hash", text("caHash")?];
        let mut master = Master::start(&self.bin, self.dir.path(), &format!("s{number}"), &how)?;
        let joined = until("a master that has joined", JOINED, async || {
            master.process.running()?;
            self.all_vote(number)
        });
        let joined = joined.await;
        joined.with_context(|| master.process.tail(LOG_LINES))?;
        self.masters.push(master);
        Ok(())
    }

    fn all_vote(&self, masters: usize) -> Result<()> {
        let status = self.kontiki(&["status"])?;
        let votes = |member: &&Value| {
            member["reachable"] == true && ["leader", "follower"].iter().any(|role| member["role"] == *role)
        };
        let voters = status["members"].as_array().into_iter().flatten().filter(votes).count();
        ensure!(voters == masters, "{status}");
        Ok(())
    }

    /// Asks the first master by the command line, whose answer is JSON.
    fn kontiki(&self, command: &[&str]) -> Result<Value> {
        let kubeconfig = self.dir.path().join("s1").join(KUBECONFIG);
        let ended =
            Command::new(&self.bin).args(command).args(["-o", "json", "--kubeconfig"]).arg(kubeconfig).output()?;
        // `status` says with its exit code how the cluster is.
        let answer = serde_json::from_slice(&ended.stdout);
        answer.with_context(|| format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr)))
    }

    /// Whom clients are to speak to.
    ///
    /// # Errors
    /// Nobody leads.
    pub async fn servers(&self, clients: Clients) -> Result<Vec<SocketAddr>> {
        if clients == Clients::InTurn {
            return Ok(self.masters.iter().map(|master| master.api).collect());
        }
        Ok(vec![self.masters[self.leader().await?].api])
    }

    /// Which of them leads, and so runs the controllers.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn leader(&self) -> Result<usize> {
        let leader = until("a leader", JOINED, async || {
            let status = self.kontiki(&["status"])?;
            let name = status["leader"].as_str().context("nobody leads")?;
            let number: usize = name.trim_start_matches('s').parse()?;
            ensure!((1..=self.masters.len()).contains(&number), "{name} leads, which was not started here");
            anyhow::Ok(number - 1)
        });
        leader.await
    }

    pub fn pid(&self, number: usize) -> u32 {
        self.masters[number].process.pid()
    }

    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.masters[number].process.kill()
    }

    /// Starts one that was killed and waits until all vote.
    ///
    /// # Errors
    /// It cannot be started, or is not taken back.
    pub async fn mend(&mut self, number: usize) -> Result<()> {
        self.masters[number].process.restart()?;
        until("all masters vote again", JOINED, async || self.all_vote(self.masters.len())).await
    }

    pub fn certs(&self) -> &Certs {
        &self.admin
    }

    /// Ends the first in order and starts it anew.
    ///
    /// # Errors
    /// It does not end, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.masters[0].process.restart()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.masters.iter().map(|master| master.process.pid()).collect()
    }

    /// # Errors
    /// One has ended.
    pub fn running(&mut self) -> Result<()> {
        self.masters.iter_mut().try_for_each(|master| master.process.running())
    }

    pub fn tails(&self) -> String {
        self.masters.iter().map(|master| master.process.tail(LOG_LINES) + "\n").collect()
    }
}

impl Master {
    fn start(bin: &Path, dir: &Path, name: &str, how: &[&str]) -> Result<Self> {
        let [api, node, peer] = kontiki_test_ports::free()?;
        let loopback = LOOPBACK.to_string();
        let ports = [api, node, peer].map(|address| address.port().to_string());
        let data = dir.join(name).display().to_string();
        let mut command = Command::new(bin);
        command.arg("server").args(["--name", name, "--data-dir", &data, "--pod-cidr", PODS, "--etcd-listen", ""]);
        command.args(["--advertise-address", &loopback, "--listen-address", &loopback]);
        command.args(["--api-port", &ports[0], "--node-port", &ports[1], "--peer-port", &ports[2]]).args(how);
        let process = Daemon::start(command, dir.join(format!("{name}.log")))?;
        Ok(Self { process, api, node })
    }
}

/// The certificates that a kubeconfig of ours holds, as files.
fn administrator(kubeconfig: &Path, dir: &Path) -> Result<Certs> {
    let text = fs::read_to_string(kubeconfig)?;
    let file = |key: &str, name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        let path = dir.join(name);
        fs::write(&path, STANDARD.decode(line.with_context(|| format!("{key} in the kubeconfig"))?)?)?;
        anyhow::Ok(path)
    };
    Ok(Certs {
        ca: file("certificate-authority-data", "ca.crt")?,
        cert: file("client-certificate-data", "administrator.crt")?,
        key: file("client-key-data", "administrator.key")?,
    })
}
