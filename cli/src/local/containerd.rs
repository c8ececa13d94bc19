//! The containerd of one agent: configuration, start, images, and emptying it.
//!
//! Several containerds live side by side on one machine, so each gets its own root, state,
//! sockets, runtime root and place for pod namespaces; then all of it is found by path.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ListPodSandboxRequest, RemovePodSandboxRequest, StatusRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use kontiki_agent::archive::{Entry, Image};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    plan::Member,
    preflight,
    process::Daemon,
    progress::{Seen, wait},
};

pub const PAUSE: &str = "localhost/kontiki/pause:1";
pub const DEMO: &str = "localhost/kontiki/demo:1";
/// Where CRI keeps its containers and images.
const NAMESPACE: &str = "k8s.io";
const CAP_SYS_RESOURCE: u32 = 24;

impl Member {
    pub fn containerd_dir(&self) -> PathBuf {
        self.dir.join("containerd")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// containerd's state: pods' bundles, mounts and namespaces.
    pub fn containerd_state(&self) -> PathBuf {
        self.run.join("state")
    }

    pub fn cni_dir(&self) -> PathBuf {
        self.dir.join("cni")
    }

    pub fn certs_dir(&self) -> PathBuf {
        self.dir.join("certs.d")
    }
}

/// The daemon, as it is started and found.
pub fn daemon(agent: &Member) -> Daemon {
    let config = agent.containerd_dir().join("config.toml").display().to_string();
    Daemon {
        program: preflight::program("containerd").unwrap_or_else(|| "containerd".into()),
        args: vec!["--config".into(), config.clone()],
        pid_file: agent.containerd_dir().join("pid"),
        log: agent.containerd_dir().join("log"),
        mark: config,
        space: agent.space_path(),
        what: format!("containerd of {}", agent.name),
    }
}

/// Starts the agent's containerd, unless it runs, and waits until it answers.
pub async fn ensure(agent: &Member) -> Result<()> {
    for dir in [agent.containerd_dir(), agent.cni_dir(), agent.certs_dir(), agent.containerd_state()] {
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let daemon = daemon(agent);
    if daemon.pid().is_none() {
        daemon.buried().await?;
        let path = agent.containerd_dir().join("config.toml");
        fs::write(&path, config(agent, may_lower_oom_score()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    daemon.ensure()?;
    wait(&daemon.what, Duration::from_secs(60), async || {
        daemon.check()?;
        Ok(match status(agent).await {
            Ok(()) => Seen::Yes(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// runc lowers the score of the pause container, for which it needs a capability that machines in
/// a sandbox of their own may lack.
fn may_lower_oom_score() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps >> CAP_SYS_RESOURCE & 1 == 1)
}

fn config(agent: &Member, may_lower_oom_score: bool) -> String {
    let quote = |path: PathBuf| format!("{:?}", path.display().to_string());
    let root = quote(agent.containerd_dir().join("root"));
    let state = quote(agent.containerd_state());
    let socket = quote(agent.containerd_socket());
    let ttrpc = quote(agent.run.join("containerd.sock.ttrpc"));
    let cni = quote(agent.cni_dir());
    let certs = quote(agent.certs_dir());
    let runc = quote(agent.run.join("runc"));
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        r#"# Written by `kontiki up`.
version = 2
root = {root}
state = {state}
[grpc]
address = {socket}
[ttrpc]
address = {ttrpc}
[{cri}]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = {restrict}
stream_server_address = "127.0.0.1"
stream_server_port = "0"
netns_mounts_under_state_dir = true
[{cri}.cni]
bin_dir = "{plugins}"
conf_dir = {cni}
[{cri}.registry]
config_path = {certs}
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
Root = {runc}
"#,
        restrict = !may_lower_oom_score,
        plugins = preflight::PLUGIN_DIR,
    )
}

pub async fn connect(agent: &Member) -> Result<RuntimeServiceClient<Channel>> {
    let socket = agent.containerd_socket();
    // The address is only a name here; the connector decides.
    let channel = Endpoint::from_static("http://containerd")
        .timeout(Duration::from_secs(20))
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await?;
    Ok(RuntimeServiceClient::new(channel))
}

async fn status(agent: &Member) -> Result<()> {
    connect(agent).await?.status(StatusRequest::default()).await?;
    Ok(())
}

/// Stops and removes every pod, so that namespaces, mounts and addresses are given back in order.
pub async fn empty(agent: &Member) -> Result<()> {
    let client = connect(agent).await.context("reaching containerd")?;
    let sandboxes = client.clone().list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let removals = sandboxes.into_iter().map(|sandbox| {
        let mut client = client.clone();
        async move {
            let id = sandbox.id;
            client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
            anyhow::Ok(())
        }
    });
    let results = futures::future::join_all(removals).await;
    results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}

/// Brings the images that no registry has, unless they are there.
pub fn import_images(agent: &Member) -> Result<()> {
    let ctr = |args: &[&str]| {
        let mut command = Command::new(preflight::program("ctr").unwrap_or_else(|| "ctr".into()));
        command.arg("--address").arg(agent.containerd_socket()).args(["--namespace", NAMESPACE]).args(args);
        command
    };
    let output = ctr(&["images", "list", "-q"]).output().context("running ctr")?;
    let present = String::from_utf8_lossy(&output.stdout).into_owned();
    let busybox = preflight::program("busybox").context("busybox is missing")?;
    let bytes = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    for (reference, archive) in [(PAUSE, kontiki_agent::pause::archive(PAUSE)), (DEMO, demo(&bytes).archive())] {
        if present.lines().any(|line| line == reference) {
            continue;
        }
        // A file, not a pipe: ctr reads an archive twice.
        let path = agent.run.join("image.tar");
        fs::write(&path, archive).with_context(|| format!("writing {}", path.display()))?;
        let output = ctr(&["images", "import", &path.display().to_string()]).stdin(Stdio::null()).output()?;
        let _ = fs::remove_file(&path);
        if !output.status.success() {
            bail!("importing {reference}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

/// A web server that tells which pod it is.
fn demo(busybox: &[u8]) -> Image<'_> {
    const TOOLS: &[&str] = &[
        "sh", "ash", "cat", "cp", "date", "dd", "df", "du", "echo", "env", "false", "find", "free", "grep", "head",
        "hostname", "httpd", "id", "ip", "kill", "ls", "md5sum", "mkdir", "mount", "mv", "nc", "netstat", "nslookup",
        "ping", "printf", "ps", "pwd", "rm", "route", "sed", "seq", "sleep", "sort", "stat", "tail", "tar", "tee",
        "test", "timeout", "top", "touch", "tr", "true", "uname", "uptime", "vi", "wc", "wget", "which", "xargs",
        "yes",
    ];
    const FILES: &[(&str, &str)] = &[("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")];
    let mut entries: Vec<Entry<'_>> =
        ["bin", "etc", "root", "tmp", "www", "dev", "proc", "sys", "var"].map(Entry::Dir).into();
    entries.push(Entry::Program("bin/busybox", busybox));
    entries.extend(TOOLS.iter().map(|tool| Entry::Link { path: format!("bin/{tool}"), to: "busybox" }));
    entries.extend(FILES.iter().map(|(path, text)| Entry::File(path, text.as_bytes())));
    Image {
        reference: DEMO,
        entries,
        entrypoint: &[],
        command: &[
            "/bin/sh",
            "-c",
            "echo \"Hello from $(hostname)\" > /www/index.html; exec httpd -f -v -p 8080 -h /www",
        ],
        user: "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::Saved;

    #[test]
    fn everything_of_a_containerd_lies_in_its_own_directories() {
        let saved = Saved { agents: 1, ..Saved::nameless(Some("lab"), "/d".into()).unwrap() };
        let agent = &saved.agents()[0];
        let text = config(agent, false);
        for expect in [
            "root = \"/d/agents/a1/containerd/root\"",
            "address = \"/run/kontiki/lab/a1/containerd.sock\"",
            "Root = \"/run/kontiki/lab/a1/runc\"",
            "restrict_oom_score_adj = true",
            "conf_dir = \"/d/agents/a1/cni\"",
        ] {
            assert!(text.contains(expect), "{expect} in\n{text}");
        }
    }
}
