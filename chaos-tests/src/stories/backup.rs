//! What is left after a loss: a snapshot, or one server of three.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::has;
use crate::{
    cluster::{Cluster, Ended},
    wait,
};

/// Ports of a server beside the cluster, on loopback.
const PORTS: &str = "api_port: 16443\nnode_port: 16444\npeer_port: 12380\netcd_listen: \"\"\n";

pub async fn a_snapshot_becomes_a_new_cluster(c: &Cluster) -> Result<()> {
    let dir = Spare::new(c)?;
    c.kubectl("create configmap kept --from-literal=key=before").await?;
    let file = dir.0.join("snapshot");
    let name = file.display().to_string();
    let saved = c.kontiki(&["snapshot", "save", &name]).await?;
    ensure!(saved.ok, "{}", saved.err);
    has(&saved.out, "revision")?;
    ensure!(!dir.0.join("snapshot.tmp").exists(), "what it was written to is still there");
    c.kubectl("delete configmap kept").await?;
    c.kubectl("create configmap late").await?;

    let told = kontiki(c, &["snapshot", "status", &name, "-o", "json"]).await?;
    let told: Value = serde_json::from_str(&told.out).with_context(|| told.err.clone())?;
    ensure!(told["keys"].as_u64().is_some_and(|keys| keys > 10), "{told}");
    let now = revision(&c.kubectl("get configmap late -o jsonpath={.metadata.resourceVersion}").await?)?;
    ensure!(told["revision"].as_u64().is_some_and(|then| then < now), "{told}, now {now}");

    let config = dir.config("one", c)?;
    let (data, pki) = (dir.0.join("data"), c.dir().join("servers/s1/data/pki").display().to_string());
    let restore = ["snapshot", "restore", &name, "--config", &config, "--pki", &pki];
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.0.join("damaged"), bytes)?;
    let damaged = dir.0.join("damaged").display().to_string();
    for (case, args, expect) in [
        ("a damaged file", &["snapshot", "status", &damaged][..], "checksum is wrong"),
        ("a foreign file", &["snapshot", "status", &config], "not a backup"),
        (
            "restoring a damaged file",
            &["snapshot", "restore", &damaged, "--config", &config, "--pki", &pki],
            "checksum",
        ),
        ("no certificates", &["snapshot", "restore", &name, "--config", &config], "--pki"),
    ] {
        let refused = kontiki(c, args).await?;
        ensure!(!refused.ok && refused.err.lines().count() == 1, "{case}: {}", refused.err);
        has(&refused.err, expect).context(case)?;
        ensure!(!data.join("raft").exists(), "{case} left a store behind");
    }
    let restored = kontiki(c, &restore).await?;
    ensure!(restored.ok, "{}", restored.err);
    let again = kontiki(c, &restore).await?;
    has(&again.err, "nothing was overwritten")?;

    let mut server = dir.start(c, &config)?;
    let kubeconfig = data.join("admin.kubeconfig").display().to_string();
    let kubectl = async |args: &str| {
        let mut all = vec!["--kubeconfig", &kubeconfig, "--request-timeout=30s"];
        all.extend(args.split_whitespace());
        let ended = c.try_kubectl(&all, None).await?;
        ensure!(ended.ok, "kubectl {args}: {}", ended.err);
        anyhow::Ok(ended.out)
    };
    let kept = wait::until("the new cluster answers", wait::PATIENCE, async || {
        kubectl("get configmap kept -o jsonpath={.data.key}").await
    });
    ensure!(kept.await? == "before", "the state is that of the snapshot");
    ensure!(kubectl("get configmap late").await.is_err(), "what came later is not in it");
    kubectl("create configmap new").await?;
    let new = revision(&kubectl("get configmap new -o jsonpath={.metadata.resourceVersion}").await?)?;
    ensure!(new > now + 1_000_000, "revisions were raised: {new} after {now}");
    let path =
        format!("get --raw /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion={now}");
    let watched = kubectl(&path).await;
    let said = watched.as_ref().map_or_else(|error| format!("{error:#}"), String::clone);
    ensure!(
        said.contains("410") || said.contains("Gone") || said.contains("too old"),
        "an old watcher was told {said}"
    );
    server.kill().await?;
    c.kubectl("delete configmap late").await.map(drop)
}

pub async fn one_server_of_three_goes_on_alone(c: &Cluster) -> Result<()> {
    let dir = Spare::new(c)?;
    c.kubectl("create configmap kept --from-literal=key=before").await?;
    c.healthy().await?;
    // The last of three, as a copy: the cluster itself goes on for the other stories.
    let busy = c.dir().join("servers/s3/data").display().to_string();
    let refused = kontiki(c, &["recover", "--from-survivor", "--data-dir", &busy, "--yes"]).await?;
    has(&refused.err, "in use by another process")?;
    c.kill("servers", "s3").await?;
    let data = dir.0.join("data").display().to_string();
    let copied = Command::new("cp").args(["-a", &busy, &data]).status().await?;
    c.up(&["--no-demo"]).await?;
    ensure!(copied.success(), "copying {busy}");
    c.kubectl("delete configmap kept").await?;

    without_address(&dir.0.join("data/server.json"))?;
    let config = dir.config("s3", c)?;
    let recover = ["recover", "--from-survivor", "--data-dir", &data];
    let unasked = kontiki(c, &recover).await?;
    has(&unasked.err, "say --yes")?;
    let recovered = kontiki(c, &[&recover[..], &["--yes"]].concat()).await?;
    ensure!(recovered.ok, "{}", recovered.err);
    has(&recovered.err, "It forgets s")?;
    let mut server = dir.start(c, &config)?;
    let kubeconfig = format!("{data}/admin.kubeconfig");
    wait::until("it takes writes", wait::PATIENCE, async || {
        let args = ["--kubeconfig", &kubeconfig, "--request-timeout=30s", "label", "configmap", "kept", "alone=yes"];
        let ended = c.try_kubectl(&args, None).await?;
        if ended.ok { Ok(()) } else { Err(anyhow!(ended.err)) }
    })
    .await?;
    server.kill().await?;
    // The old group, which it shares certificates with, is none the wiser.
    c.healthy().await?;
    let kept = c.try_kubectl(&["get", "configmap", "kept"], None).await?;
    ensure!(!kept.ok, "the old group has what only the survivor had: {}", kept.out);
    Ok(())
}

/// Takes the virtual address away: the cluster that holds it is still there.
fn without_address(file: &Path) -> Result<()> {
    let mut state: Value = serde_json::from_slice(&fs::read(file)?)?;
    state["cluster"].as_object_mut().context("settings of the cluster")?.remove("vip");
    fs::write(file, serde_json::to_vec(&state)?).context("writing server.json")
}

fn revision(text: &str) -> Result<u64> {
    text.trim().parse().with_context(|| format!("{text:?} is not a revision"))
}

async fn kontiki(c: &Cluster, args: &[&str]) -> Result<Ended> {
    let ended = Command::new(c.bin()).args(args).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(wait::PATIENCE, ended).await.context("it hangs")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended { ok: ended.status.success(), out: text(ended.stdout), err: text(ended.stderr) })
}

/// A directory for one server more, removed in the end.
struct Spare(PathBuf);

impl Spare {
    fn new(c: &Cluster) -> Result<Self> {
        let dir = c.dir().join("spare-backup");
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Writes the configuration of a server on loopback, with the networks of the cluster.
    fn config(&self, name: &str, c: &Cluster) -> Result<String> {
        let settings = fs::read(c.dir().join("servers/s1/data/server.json"))?;
        let settings: Value = serde_json::from_slice(&settings)?;
        let mut text = format!(
            "name: {name}\ndata_dir: {}\nadvertise_address: 127.0.0.1\nlog_level: info\n{PORTS}",
            self.0.join("data").display()
        );
        for key in ["pod_cidr", "service_cidr", "cluster_domain"] {
            text += &format!("{key}: {}\n", settings["cluster"][key].as_str().context("a setting")?);
        }
        let file = self.0.join("server.yaml");
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }

    /// Runs the server until the answer is dropped.
    fn start(&self, c: &Cluster, config: &str) -> Result<Child> {
        let log = fs::File::create(self.0.join("log"))?;
        let mut server = Command::new(c.bin());
        server.args(["server", "--config", config]).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        server.spawn().context("starting a server")
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("KONTIKI_KEEP").is_some() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.0) {
            println!("      {} could not be removed: {error}", self.0.display());
        }
    }
}
