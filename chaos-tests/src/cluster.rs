//! A local cluster under test: starting it, talking to it, and hurting its processes.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::wait;

/// How long a cluster may take to start on a busy 2-core machine.
const UP_LIMIT: Duration = Duration::from_secs(480);
/// A kubectl call that takes longer hangs: longer than any that waits by itself.
const KUBECTL_LIMIT: Duration = Duration::from_secs(240);

/// One running local cluster, with a name and subnet of its own beside any the user has.
pub struct Cluster {
    bin: PathBuf,
    dir: PathBuf,
    name: String,
    subnet: String,
}

/// The end of a command.
pub struct Ended {
    /// Exit code 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A kubectl that runs on.
pub struct Follow {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Follow {
    /// Reads lines up to the first that holds `part`.
    ///
    /// # Errors
    /// It ends or is silent before that.
    pub async fn line_with(&mut self, part: &str) -> Result<String> {
        loop {
            let line = timeout(KUBECTL_LIMIT, self.out.next_line()).await.with_context(|| self.what.clone())??;
            let line = line.with_context(|| format!("{} ended without a line with {part:?}", self.what))?;
            if line.contains(part) {
                return Ok(line);
            }
        }
    }

    /// Waits for its end, which must come within `limit`.
    ///
    /// # Errors
    /// It runs on.
    pub async fn ended(mut self, limit: Duration) -> Result<Ended> {
        let mut out = String::new();
        let rest = async {
            while let Some(line) = self.out.next_line().await? {
                out += &line;
                out.push('\n');
            }
            self.child.wait_with_output().await
        };
        let Ok(end) = timeout(limit, rest).await else {
            bail!("{} did not end within {} s", self.what, limit.as_secs())
        };
        let end = end?;
        Ok(Ended { ok: end.status.success(), out, err: String::from_utf8_lossy(&end.stderr).into_owned() })
    }
}

impl Cluster {
    /// A cluster called `name`, with its files in a fresh directory. Nothing is started yet.
    ///
    /// # Errors
    /// Not root, or no built `kontiki` binary.
    pub fn new(name: &str, subnet: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "these stories run containers and need root");
        let bin = match std::env::var_os("KONTIKI_BIN") {
            Some(path) => PathBuf::from(path),
            // tests/cluster.rs runs from <target>/debug/deps
            None => std::env::current_exe()?
                .ancestors()
                .nth(2)
                .map(|debug| debug.join("kontiki"))
                .context("the test has no parent directory")?,
        };
        ensure!(bin.exists(), "{} is missing: run `make build`", bin.display());
        let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { bin, dir, name: name.to_owned(), subnet: subnet.to_owned() })
    }

    /// The registry host that nodes look for at an address of this machine: name, and host:port.
    #[must_use]
    pub fn mirror(&self) -> (&'static str, String) {
        let network = self.subnet.rsplit_once('.').map_or(self.subnet.as_str(), |(network, _)| network);
        ("mirror.test", format!("{network}.1:5055"))
    }

    /// The `kontiki` binary under test.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The cluster's directory (`--dir`).
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kubeconfig that points at the virtual IP.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The containerd socket of an agent.
    #[must_use]
    pub fn socket(&self, agent: &str) -> PathBuf {
        PathBuf::from(format!("/run/kontiki/{}/{agent}/containerd.sock", self.name))
    }

    /// The network namespace of a server or agent.
    #[must_use]
    pub fn namespace(&self, process: &str) -> String {
        format!("{}-{process}", self.name)
    }

    /// Runs `kontiki SUBCOMMAND --name … --dir …`.
    ///
    /// # Errors
    /// The binary could not be run or did not end in time.
    pub async fn kontiki(&self, args: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.bin);
        command.args(args).arg("--dir").arg(&self.dir);
        run(&mut command, None, UP_LIMIT).await
    }

    /// Starts whatever is not running.
    ///
    /// # Errors
    /// With all that `kontiki up` printed.
    pub async fn up(&self, more: &[&str]) -> Result<String> {
        let (host, address) = self.mirror();
        let mirror = format!("{host}=http://{address}");
        let mut args = vec!["up", "--name", &self.name, "--subnet", &self.subnet, "--no-egress", "--mirror", &mirror];
        args.extend(more);
        let ended = self.kontiki(&args).await?;
        ensure!(ended.ok, "kontiki up failed:\n{}{}", ended.out, ended.err);
        Ok(ended.out)
    }

    /// Stops everything.
    ///
    /// # Errors
    /// With what `kontiki down` printed.
    pub async fn down(&self) -> Result<()> {
        let ended = self.kontiki(&["down", "--name", &self.name]).await?;
        ensure!(ended.ok, "kontiki down failed:\n{}{}", ended.out, ended.err);
        Ok(())
    }

    /// `kontiki status -o json`.
    ///
    /// # Errors
    /// No server answers, or the answer is not JSON.
    pub async fn status(&self) -> Result<Value> {
        let ended = self.kontiki(&["status", "-o", "json"]).await?;
        serde_json::from_str(&ended.out).with_context(|| format!("status said {:?} {:?}", ended.out, ended.err))
    }

    /// The leader's name, once there is one that answers.
    ///
    /// # Errors
    /// None within [`wait::PATIENCE`].
    pub async fn leader(&self) -> Result<String> {
        wait::until("a leader", wait::PATIENCE, async || {
            let status = self.status().await?;
            members(&status)
                .find(|m| m["role"] == "leader" && m["reachable"] == true)
                .and_then(|m| m["name"].as_str().map(str::to_owned))
                .ok_or_else(|| anyhow!("{status}"))
        })
        .await
    }

    /// Waits until all members answer and have applied all but a few entries.
    ///
    /// # Errors
    /// Not within [`wait::PATIENCE`]; with the last status.
    pub async fn healthy(&self) -> Result<()> {
        wait::until("all members caught up", wait::PATIENCE, async || {
            let status = self.status().await?;
            let good = members(&status).count() > 0
                && members(&status).all(|m| m["reachable"] == true && m["lag"].as_u64().is_some_and(|lag| lag < 100))
                && members(&status).any(|m| m["role"] == "leader");
            if good { Ok(()) } else { Err(anyhow!("{status}")) }
        })
        .await
    }

    /// The process id of `servers/s1` and the like.
    ///
    /// # Errors
    /// No pid file.
    pub fn pid(&self, role: &str, name: &str) -> Result<Pid> {
        let path = self.dir.join(role).join(name).join("pid");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let first = text.split_whitespace().next().unwrap_or_default();
        Ok(Pid::from_raw(first.parse().with_context(|| format!("{} holds {text:?}", path.display()))?))
    }

    /// Sends a signal to a server or agent.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, role: &str, name: &str, signal: Signal) -> Result<()> {
        let pid = self.pid(role, name)?;
        kill(pid, signal).with_context(|| format!("{signal} to {name} ({pid})"))
    }

    /// Kills a server or agent, and waits until nothing of it is left: its files and ports are free then.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub async fn kill(&self, role: &str, name: &str) -> Result<()> {
        let pid = self.pid(role, name)?;
        self.signal(role, name, Signal::SIGKILL)?;
        wait::until("the end of a process", wait::PATIENCE, async || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let buried = state.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']));
            if buried && threads <= 1 { Ok(()) } else { Err(anyhow!("{threads} threads, {state}")) }
        })
        .await
    }

    /// Runs a program in a process's network namespace.
    ///
    /// # Errors
    /// It could not be run, or ended badly; with its output.
    pub async fn inside(&self, process: &str, program: &[&str]) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(process)]).args(program);
        let ended = run(&mut command, None, KUBECTL_LIMIT).await?;
        ensure!(ended.ok, "{program:?} in {process}: {}{}", ended.out, ended.err);
        Ok(ended.out)
    }

    /// Cuts a process off the cluster's network, or lets it back.
    ///
    /// # Errors
    /// The link could not be changed.
    pub async fn link(&self, process: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let links = self.inside(process, &["ip", "-o", "link", "show", "up"]).await.unwrap_or_default();
        let all = self.inside(process, &["ip", "-o", "link"]).await?;
        let name = uplink(&all).with_context(|| format!("no uplink in {process}: {all} (up: {links})"))?;
        self.inside(process, &["ip", "link", "set", &name, state]).await.map(drop)
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// kubectl could not be run or hangs.
    pub async fn try_kubectl<S: AsRef<OsStr>>(&self, args: &[S], stdin: Option<&str>) -> Result<Ended> {
        run(self.kubectl_command().args(args), stdin, KUBECTL_LIMIT).await
    }

    /// `kubectl edit` with an editor that is a shell command; the file's path is appended to it.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn edit(&self, args: &str, editor: &str) -> Result<String> {
        let mut command = self.kubectl_command();
        command.env("KUBE_EDITOR", editor).arg("edit").args(args.split_whitespace());
        let ended = run(&mut command, None, KUBECTL_LIMIT).await?;
        ensure!(ended.ok, "kubectl edit {args}: {}{}", ended.out, ended.err);
        Ok(ended.out)
    }

    /// Starts a kubectl that runs on, like `get -w`.
    ///
    /// # Errors
    /// kubectl could not be run.
    pub fn follow(&self, args: &str) -> Result<Follow> {
        let mut command = self.kubectl_command();
        command.args(args.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("starting kubectl")?;
        let out = child.stdout.take().context("kubectl has no output")?;
        Ok(Follow { child, out: BufReader::new(out).lines(), what: format!("kubectl {args}") })
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(std::env::var_os("KONTIKI_KUBECTL").unwrap_or_else(|| "kubectl".into()));
        // A home of its own keeps cached discovery of other clusters away.
        command.env("HOME", &self.dir).env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs kubectl, which must succeed; a string is split at blanks.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn kubectl(&self, args: &str) -> Result<String> {
        self.kubectl_in(args, None).await
    }

    /// The same with standard input.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn kubectl_in(&self, args: &str, stdin: Option<&str>) -> Result<String> {
        let split: Vec<&str> = args.split_whitespace().collect();
        let ended = self.try_kubectl(&split, stdin).await?;
        ensure!(ended.ok, "kubectl {args}: {}{}", ended.out, ended.err);
        Ok(ended.out)
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl_in("apply -f -", Some(manifest)).await
    }

    /// A client through the virtual IP, as people use it.
    ///
    /// # Errors
    /// The kubeconfig is unusable.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config().await?)?)
    }

    async fn config(&self) -> Result<Config> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
    }

    /// A client that soon gives up, for who counts how long nobody answers: through the virtual IP, or straight to one
    /// server (`host`), and then without the client's own retries and their waiting.
    ///
    /// # Errors
    /// The kubeconfig is unusable.
    pub async fn hasty_client(&self, host: Option<&str>) -> Result<Client> {
        let mut config = self.config().await?;
        if let Some(host) = host {
            config.cluster_url = format!("https://{host}:6443").parse()?;
            config.default_retry = false;
        }
        config.connect_timeout = Some(Duration::from_millis(500));
        config.read_timeout = Some(Duration::from_secs(5));
        Ok(Client::try_from(config)?)
    }

    /// The addresses of the servers, by name.
    ///
    /// # Errors
    /// No server answers, or the status holds none.
    pub async fn servers(&self) -> Result<Vec<(String, IpAddr)>> {
        let status = wait::until("a status", wait::PATIENCE, async || self.status().await).await?;
        members(&status)
            .map(|m| {
                let name = m["name"].as_str().context("a member without name")?;
                let address = m["address"].as_str().context("a member without address")?;
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                Ok((name.to_owned(), host.parse()?))
            })
            .collect()
    }

    /// The last lines of every process's log, for a failed story.
    #[must_use]
    pub fn tails(&self, lines: usize) -> String {
        let mut out = String::new();
        for role in ["servers", "agents"] {
            for entry in fs::read_dir(self.dir.join(role)).into_iter().flatten().flatten() {
                let log = fs::read_to_string(entry.path().join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(lines).collect();
                out += &format!("--- {}\n", entry.path().join("log").display());
                for line in tail.iter().rev() {
                    out += line;
                    out.push('\n');
                }
            }
        }
        out
    }
}

/// The members of a status document.
pub fn members(status: &Value) -> impl Iterator<Item = &Value> {
    status["members"].as_array().into_iter().flatten()
}

/// The veth of `ip -o link` that leads to the cluster's bridge: the only one that is not a pod's, the agent's own,
/// a loopback, a bridge or an overlay.
fn uplink(links: &str) -> Option<String> {
    links.lines().find_map(|line| {
        let name = line.split(": ").nth(1)?.split('@').next()?;
        let other = ["lo", "cni", "vxlan", "flannel", "kontiki-", "tunl", "sit", "gre", "veth"];
        (!other.iter().any(|prefix| name.starts_with(prefix))).then(|| name.to_owned())
    })
}

async fn run(command: &mut Command, stdin: Option<&str>, limit: Duration) -> Result<Ended> {
    let shown = format!("{:?}", command.as_std());
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).await?;
    }
    let Ok(output) = timeout(limit, child.wait_with_output()).await else {
        bail!("{shown} did not end within {} s", limit.as_secs());
    };
    let output = output?;
    Ok(Ended {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
