//! A group of store members as child processes on the loopback, with mTLS for clients and peers.
//!
//! Invariants
//! - Both kinds get the same flags, so that a story or a figure speaks of the store and not of its setup.
//! - Members end with their [`Group`], by their own process id.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kontiki_proto::etcd::{MemberAddRequest, RangeRequest, StatusRequest};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{
    binaries,
    client::{self, Clients},
    pki::{Certs, Pki},
    process::{self, LOOPBACK},
    wait::until,
};

const HEALTHY: Duration = Duration::from_secs(60);
const STOPPED: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's.
    Etcd34,
    /// The newest.
    Etcd37,
    Kontiki,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Etcd34, Self::Etcd37, Self::Kontiki];

    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd34 => "etcd-3.4",
            Self::Etcd37 => "etcd-3.7",
            Self::Kontiki => "kontiki",
        }
    }

    pub fn is_etcd(self) -> bool {
        self != Self::Kontiki
    }

    /// Whether it can be had here; if not, that has been said.
    ///
    /// # Errors
    /// It could be, but something is wrong.
    pub fn at_hand(self) -> Result<bool> {
        Ok(match self {
            Self::Etcd34 | Self::Kontiki => true,
            Self::Etcd37 => binaries::etcd37()?.is_some(),
        })
    }

    fn command(self) -> Result<Command> {
        Ok(match self {
            Self::Etcd34 => Command::new(binaries::etcd34()?.etcd),
            Self::Etcd37 => Command::new(binaries::etcd37()?.context("no Go to build etcd 3.7 with")?.etcd),
            Self::Kontiki => {
                let mut command = Command::new(binaries::kontiki()?);
                command.arg("store");
                command
            }
        })
    }
}

/// What to start. `extra` goes to every member as it stands.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub size: usize,
    pub heartbeat: Duration,
    pub election: Duration,
    pub extra: Vec<String>,
}

impl Options {
    /// etcd's own defaults for the timers.
    pub fn new(kind: Kind, size: usize) -> Self {
        let (heartbeat, election) = (Duration::from_millis(100), Duration::from_secs(1));
        Self { kind, size, heartbeat, election, extra: Vec::new() }
    }

    #[must_use]
    pub fn extra(mut self, args: &[&str]) -> Self {
        self.extra.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

pub struct Group {
    options: Options,
    pki: Pki,
    /// A client's certificate that every member accepts.
    pub certs: Certs,
    members: Vec<Member>,
    dir: TempDir,
}

pub struct Member {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub dir: PathBuf,
    pub log: PathBuf,
    certs: Certs,
    child: Option<Child>,
}

impl Group {
    /// Starts all members and waits until a linearizable read through each of them succeeds.
    ///
    /// # Errors
    /// A member does not start; the text holds the ends of the logs.
    pub async fn start(options: Options) -> Result<Self> {
        let mut group = Self::prepare(options)?;
        let all = group.initial_cluster();
        for index in 0..group.members.len() {
            group.spawn(index, &all, "new")?;
        }
        group.healthy().await?;
        Ok(group)
    }

    /// # Errors
    /// As [`Self::start`].
    pub async fn of(kind: Kind, size: usize) -> Result<Self> {
        Self::start(Options::new(kind, size)).await
    }

    fn prepare(options: Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("kontiki-group-").tempdir()?;
        let pki = Pki::new(&dir.path().join("pki"))?;
        let certs = pki.issue("client", &[])?;
        let mut group = Self { members: Vec::new(), certs, pki, dir, options };
        for _ in 0..group.options.size {
            group.seat()?;
        }
        Ok(group)
    }

    /// Room for one more member: addresses, directory, certificate.
    fn seat(&mut self) -> Result<usize> {
        let name = format!("s{}", self.members.len() + 1);
        let [client, peer] = kontiki_test_ports::free()?;
        let base = self.dir.path();
        let certs = self.pki.issue(&name, &[LOOPBACK])?;
        let (dir, log) = (base.join(&name), base.join(format!("{name}.log")));
        self.members.push(Member { name, client, peer, dir, log, certs, child: None });
        Ok(self.members.len() - 1)
    }

    fn initial_cluster(&self) -> String {
        let one = |member: &Member| format!("{}=https://{}", member.name, member.peer);
        self.members.iter().map(one).collect::<Vec<_>>().join(",")
    }

    fn spawn(&mut self, index: usize, cluster: &str, state: &str) -> Result<()> {
        let options = &self.options;
        let member = &mut self.members[index];
        ensure!(member.child.is_none(), "{} runs already", member.name);
        let log = File::options().create(true).append(true).open(&member.log)?;
        let mut command = options.kind.command()?;
        command.args(member.flags(options, cluster, state)).args(&options.extra);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.child = Some(command.spawn().with_context(|| format!("starting {command:?}"))?);
        Ok(())
    }

    /// # Errors
    /// Some member does not answer a linearizable read in time; the text holds the ends of the logs.
    pub async fn healthy(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].child.is_some() {
                self.answers(index).await?;
            }
        }
        Ok(())
    }

    /// Waits for one member's linearizable read.
    ///
    /// # Errors
    /// As [`Self::healthy`].
    pub async fn answers(&mut self, index: usize) -> Result<()> {
        let certs = self.certs.clone();
        let member = &mut self.members[index];
        let mut kv = Clients::new(client::connect(member.client, &certs)?).kv;
        let what = format!("{} answers", member.name);
        let probing = until(&what, HEALTHY, async || {
            if let Some(status) = member.ended()? {
                // Waiting on would only hide why: a dead process answers no read.
                return Ok(Err(anyhow::anyhow!("{} ended: {status}", member.name)));
            }
            let read = RangeRequest { key: "health".into(), ..RangeRequest::default() };
            let read = tokio::time::timeout(Duration::from_secs(2), kv.range(read)).await;
            read.context("a read takes over 2 s")??;
            anyhow::Ok(Ok(()))
        });
        match probing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => Err(error.context(self.tails(15))),
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The member does not run.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGKILL)?;
        self.members[index].child.take().context("a member that runs")?.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until the process has ended.
    ///
    /// # Errors
    /// The member does not end in time, or not with success.
    pub async fn stop(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGTERM)?;
        let member = &mut self.members[index];
        let name = format!("{} stops", member.name);
        let status =
            until(&name, STOPPED, async || member.ended()?.with_context(|| format!("{} runs", member.name))).await?;
        member.child = None;
        // etcd ends by the signal itself after it has cleaned up.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGTERM as i32);
        ensure!(status.success() || by_signal, "{} ended with {status}", self.members[index].name);
        Ok(())
    }

    /// Starts a member that was killed or stopped, on its own data.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let all = self.initial_cluster();
        self.spawn(index, &all, "existing")
    }

    /// Adds a member by the Cluster API and starts it; it may still be catching up. Gives its index.
    ///
    /// # Errors
    /// The group refuses, or the process cannot be started.
    pub async fn join(&mut self) -> Result<usize> {
        let mut cluster = self.clients(0)?.cluster;
        let index = self.seat()?;
        let peer = format!("https://{}", self.members[index].peer);
        let request = MemberAddRequest { peer_ur_ls: vec![peer], is_learner: false };
        // etcd wants its members to have seen each other for five seconds.
        until("a new member's seat", HEALTHY, async || match cluster.member_add(request.clone()).await {
            Err(status) if status.code() == tonic::Code::Unavailable => Err(status.message().to_owned()),
            other => Ok(other),
        })
        .await??;
        self.restart(index)?;
        Ok(index)
    }

    /// # Errors
    /// The member does not run.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.members[index].pid()?.cast_signed()), signal)?)
    }

    pub fn kind(&self) -> Kind {
        self.options.kind
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Members whose process was started and not ended by us.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|index| self.members[*index].child.is_some())
    }

    /// Addresses as `etcdctl --endpoints` takes them.
    pub fn endpoints(&self) -> String {
        let one = |member: &Member| format!("https://{}", member.client);
        self.members.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// A new connection to one member.
    ///
    /// # Errors
    /// The certificate's files cannot be read.
    pub fn channel(&self, index: usize) -> Result<Channel> {
        client::connect(self.members[index].client, &self.certs)
    }

    /// # Errors
    /// As [`Self::channel`].
    pub fn clients(&self, index: usize) -> Result<Clients> {
        Ok(Clients::new(self.channel(index)?))
    }

    /// The member that leads, once a majority of those asked agrees on it.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn leader(&self) -> Result<usize> {
        until("a leader", HEALTHY, async || {
            let mut votes = std::collections::BTreeMap::new();
            for index in self.running() {
                let mut asked = self.clients(index)?.maintenance;
                let status = tokio::time::timeout(Duration::from_secs(1), asked.status(StatusRequest {})).await;
                let Ok(Ok(status)) = status else { continue };
                let status = status.into_inner();
                let own = status.header.map_or(0, |header| header.member_id);
                let seat = votes.entry(status.leader).or_insert((0, None));
                seat.0 += 1;
                if own == status.leader {
                    seat.1 = Some(index);
                }
            }
            let quorum = self.members.len() / 2 + 1;
            let agreed = votes.values().find(|(count, _)| *count >= quorum).and_then(|(_, index)| *index);
            agreed.with_context(|| format!("members name {votes:?}"))
        })
        .await
    }

    /// The last lines of each member's log.
    pub fn tails(&self, lines: usize) -> String {
        let mut out = String::new();
        for member in &self.members {
            let text = String::from_utf8_lossy(&fs::read(&member.log).unwrap_or_default()).into_owned();
            let all: Vec<&str> = text.lines().collect();
            // What it died of says more than the stacks that follow.
            let died = all.iter().position(|line| line.starts_with("panic:") || line.contains("panicked at"));
            let start = died.unwrap_or(all.len().saturating_sub(lines));
            let end = all[start..all.len().min(start + lines)].join("\n  ");
            out.push_str(&format!("{} ({}):\n  {end}\n", member.name, self.options.kind.name()));
        }
        out
    }

    /// Processor seconds of all members together.
    ///
    /// # Errors
    /// A member has ended.
    pub fn cpu(&self) -> Result<f64> {
        self.running().map(|index| self.members[index].cpu()).sum()
    }
}

impl Member {
    fn flags(&self, options: &Options, cluster: &str, state: &str) -> Vec<String> {
        let (client, peer) = (format!("https://{}", self.client), format!("https://{}", self.peer));
        let file = |path: &Path| path.display().to_string();
        let (ca, cert, key) = (file(&self.certs.ca), file(&self.certs.cert), file(&self.certs.key));
        let (dir, name) = (file(&self.dir), self.name.clone());
        let heartbeat = options.heartbeat.as_millis().to_string();
        let election = options.election.as_millis().to_string();
        let pairs = [
            ("name", name.as_str()),
            ("data-dir", &dir),
            ("listen-client-urls", &client),
            ("advertise-client-urls", &client),
            ("listen-peer-urls", &peer),
            ("initial-advertise-peer-urls", &peer),
            ("initial-cluster", cluster),
            ("initial-cluster-state", state),
            ("trusted-ca-file", &ca),
            ("cert-file", &cert),
            ("key-file", &key),
            ("peer-trusted-ca-file", &ca),
            ("peer-cert-file", &cert),
            ("peer-key-file", &key),
            ("heartbeat-interval", &heartbeat),
            ("election-timeout", &election),
        ];
        let flags = pairs.iter().flat_map(|(flag, value)| [format!("--{flag}"), (*value).to_owned()]);
        flags.chain(["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()]).collect()
    }

    /// # Errors
    /// The member does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.id())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().context("a member that runs")?.try_wait()?)
    }

    /// User and system seconds of all its threads, the ended ones too.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    /// Resident bytes.
    ///
    /// # Errors
    /// The process has ended.
    pub fn rss(&self) -> Result<u64> {
        process::rss(self.pid()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill(); // it may have ended by itself
                let _ = child.wait();
            }
        }
        if std::env::var_os("KONTIKI_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            println!("kept: {}", self.dir.path().display());
        }
    }
}
