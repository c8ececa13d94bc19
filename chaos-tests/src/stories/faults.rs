//! What breaks, and what must not.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Scratch, has, holders, untainted};
use crate::{cluster::Cluster, cluster::members, wait};

pub async fn a_second_start_leaves_everything_alone(c: &Cluster) -> Result<()> {
    let processes = [("servers", "s1"), ("servers", "s2"), ("servers", "s3"), ("agents", "a1"), ("agents", "a2")];
    let pids = |c: &Cluster| processes.map(|(role, name)| c.pid(role, name).ok());
    let before = pids(c);
    c.up(&[]).await?;
    ensure!(pids(c) == before, "processes were restarted");
    Ok(())
}

pub async fn wrong_starts_are_refused_with_one_line(c: &Cluster) -> Result<()> {
    let servers = c.servers().await?;
    let (_, address) = servers.first().context("a server")?;
    let token = async || {
        let made = c.kontiki(&["token", "create", "--server", "-o", "json"]).await?;
        ensure!(made.ok, "token create: {}", made.err);
        Ok(serde_json::from_str::<serde_json::Value>(&made.out)?)
    };
    let (good, expired) = (token().await?, token().await?);
    let [hash, good, expired] =
        [&good["caHash"], &good["token"], &expired["token"]].map(|text| text.as_str().unwrap_or_default());
    let id = expired.split('.').next().unwrap_or_default();
    let past = r#"{"stringData":{"expiration":"2001-01-01T00:00:00Z"}}"#;
    let secret = format!("bootstrap-token-{id}");
    let patched = c.try_kubectl(&["-n", "kube-system", "patch", "secret", &secret, "-p", past], None).await?;
    ensure!(patched.ok, "{}", patched.err);

    let dir = c.dir().join("spare");
    let join = |token: &str, hash: &str| {
        format!("join: {{servers: [\"{address}:6444\"], token: {token}, ca_hash: \"{hash}\"}}")
    };
    for (case, name, origin, expect) in [
        ("a wrong token", "spare", join("abcdef.0123456789abcdef", hash), "token is not valid"),
        ("an expired token", "spare", join(expired, hash), "token is not valid"),
        ("a wrong CA hash", "spare", join(good, &format!("sha256:{}", "0".repeat(64))), "CA"),
        ("a name that is taken", "s1", join(good, hash), "is a member already"),
    ] {
        refused(c, name, &dir, 16443, &origin, expect).await.context(case)?;
        ensure!(!dir.join("raft").exists(), "{case} left a store behind");
    }

    let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
    let busy = listener.local_addr()?.port();
    refused(c, "spare", &dir, busy, BOOTSTRAP, "Address already in use").await.context("a busy port")?;
    fs::remove_dir_all(&dir)?;

    fs::create_dir(&dir)?;
    fs::write(dir.join("precious"), "untouched")?;
    refused(c, "spare", &dir, 16443, BOOTSTRAP, "not a Kontiki server's").await.context("a foreign directory")?;
    let left: Vec<_> = fs::read_dir(&dir)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left == ["precious"] && fs::read(dir.join("precious"))? == b"untouched", "left in it: {left:?}");
    fs::remove_dir_all(&dir)?;

    fs::create_dir(&dir)?;
    shell(&format!("mount -t tmpfs -o size=64k tmpfs {}", dir.display())).await?;
    let told = refused(c, "spare", &dir, 16443, BOOTSTRAP, "No space left on device").await;
    shell(&format!("umount {0} && rmdir {0}", dir.display())).await?;
    told.context("a full disk")?;

    c.kill("servers", "s3").await?;
    shell(&format!("cp -a {}/servers/s3/data {}", c.dir().display(), dir.display())).await?;
    refused(c, "spare", &dir, 16443, "", "belongs to server \"s3\"").await.context("another server's directory")?;
    let damage = "printf damage | dd bs=1 seek=20 conv=notrunc status=none of=\"$(echo DIR/raft/db/MANIFEST-*)\"";
    shell(&damage.replace("DIR", &dir.display().to_string())).await?;
    refused(c, "s3", &dir, 16443, "", "is damaged").await.context("a damaged directory")?;
    fs::remove_dir_all(&dir)?;
    c.up(&["--no-demo"]).await.map(drop)
}

const BOOTSTRAP: &str = "bootstrap: true";

/// Starts a server that must give up, with `expect` in the only line about it.
async fn refused(c: &Cluster, name: &str, data: &Path, port: u16, origin: &str, expect: &str) -> Result<()> {
    let config = format!(
        "name: {name}\ndata_dir: {}\nadvertise_address: 127.0.0.1\napi_port: {port}\nnode_port: 16444\n\
         peer_port: 12380\nlog_level: error\n{origin}\n",
        data.display()
    );
    let file = c.dir().join("spare.yaml");
    fs::write(&file, config)?;
    let run = Command::new(c.bin()).args(["server", "--config"]).arg(&file).kill_on_drop(true).output();
    let ended = tokio::time::timeout(wait::PATIENCE, run).await.context("it runs on")??;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(!ended.status.success(), "it was accepted: {said}");
    ensure!(said.lines().count() == 1, "more than one line:\n{said}");
    has(&said, expect)
}

async fn shell(script: &str) -> Result<()> {
    let ended = Command::new("sh").args(["-c", script]).output().await?;
    ensure!(ended.status.success(), "{script}: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

pub async fn an_agent_restart_leaves_pods_alone(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-agent").await?;
    untainted(c, "a1").await?;
    s.sleepers("web", 2).await?;
    let path = "get pods -o jsonpath={.items[*].status.containerStatuses[0].containerID}";
    let before = s.kubectl(path).await?;
    c.signal("agents", "a1", Signal::SIGKILL)?;
    c.up(&["--no-demo"]).await?;
    wait::until("exec works through the new agent", wait::PATIENCE, async || {
        let pods = s.kubectl("get pods -o jsonpath={.items[?(@.spec.nodeName==\"a1\")].metadata.name}").await?;
        let pod = pods.split_whitespace().next().ok_or_else(|| anyhow!("no pod on a1"))?;
        s.kubectl(&format!("exec {pod} -- /bin/busybox true")).await
    })
    .await?;
    let after = s.kubectl(path).await?;
    ensure!(before == after, "containers changed: {before} -> {after}");
    s.kubectl("set env deployment/web A=1").await?;
    s.kubectl("rollout status deployment/web --timeout=180s").await?;
    s.done().await
}

pub async fn a_cut_off_node_loses_its_pods_and_gives_them_up_on_return(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-cut").await?;
    untainted(c, "a1").await?;
    s.sleepers("web", 2).await?;
    let on_a1 = s.kubectl("get pods -o jsonpath={.items[?(@.spec.nodeName==\"a1\")].metadata.name}").await?;
    ensure!(!on_a1.is_empty(), "a pod runs on a1");
    c.link("a1", false).await?;
    let cut = Instant::now();
    let replaced = wait::until("two pods run on a2", wait::PATIENCE, async || {
        let pods = s.kubectl("get pods -o wide --no-headers").await?;
        let running = pods.lines().filter(|line| line.contains(" Running ") && line.contains(" a2 ")).count();
        if running >= 2 { Ok(cut.elapsed()) } else { Err(anyhow!(pods)) }
    })
    .await;
    c.link("a1", true).await?;
    let replaced = replaced?;
    println!("      replaced after {:.1} s", replaced.as_secs_f32());
    let back = Instant::now();
    wait::until("the old pods are gone", wait::PATIENCE, async || {
        let pods = s.kubectl("get pods -o name").await?;
        let old = on_a1.split_whitespace().any(|pod| pods.contains(pod));
        if old { Err(anyhow!(pods)) } else { Ok(()) }
    })
    .await?;
    println!("      gone {:.1} s after the return", back.elapsed().as_secs_f32());
    c.kubectl("wait --for=condition=Ready node/a1 --timeout=180s").await?;
    untainted(c, "a1").await?;
    s.done().await
}

/// How long two servers may have the virtual address: their kernels take it away by themselves, 3 s after it was last
/// given. The rest is for asking them.
const TWO_HOLDERS: Duration = Duration::from_secs(8);

/// Waits until one server has the address that is not `lost`; returns until when two had it.
async fn alone(c: &Cluster, servers: &[&str], vip: &str, lost: &str) -> Result<Duration> {
    let start = Instant::now();
    let two = AtomicU64::new(0);
    wait::until("another holder of the address", wait::PATIENCE, async || {
        let now = holders(c, servers, vip).await?;
        if now.len() > 1 {
            two.store(u64::try_from(start.elapsed().as_millis())?, Ordering::Relaxed);
        }
        if now.len() == 1 && now[0] != lost { Ok(()) } else { Err(anyhow!("{now:?}")) }
    })
    .await?;
    Ok(Duration::from_millis(two.into_inner()))
}

pub async fn a_killed_frozen_or_cut_off_leader_loses_the_address(c: &Cluster) -> Result<()> {
    let vip = c.kubectl("config view -o jsonpath={.clusters[0].cluster.server}").await?;
    let vip = vip.trim_start_matches("https://").split(':').next().unwrap_or_default().to_owned();
    for fault in ["killed", "frozen", "cut off"] {
        c.healthy().await?;
        let (leader, servers) = (c.leader().await?, c.servers().await?);
        let servers: Vec<&str> = servers.iter().map(|(name, _)| name.as_str()).collect();
        // Opened before the fault: it must not be fooled by a dead connection.
        let start = Instant::now();
        match fault {
            "killed" => c.signal("servers", &leader, Signal::SIGKILL)?,
            "frozen" => c.signal("servers", &leader, Signal::SIGSTOP)?,
            _ => c.link(&leader, false).await?,
        }
        let write = wait::until("a write through the virtual IP", wait::PATIENCE, async || {
            let name = format!("vip-{}", start.elapsed().as_millis());
            c.kubectl(&format!("create configmap {name} --request-timeout=5s")).await.map(|_| start.elapsed())
        });
        let (gap, two) = tokio::join!(write, alone(c, &servers, &vip, &leader));
        match fault {
            "killed" => c.up(&["--no-demo"]).await.map(drop)?,
            "frozen" => c.signal("servers", &leader, Signal::SIGCONT)?,
            _ => c.link(&leader, true).await?,
        }
        let (gap, two) = (gap?.as_secs_f32(), two?);
        println!(
            "      leader {fault}: a write after {gap:.1} s; two had the address until {:.1} s",
            two.as_secs_f32()
        );
        ensure!(two < TWO_HOLDERS, "two had the address for {two:?}");
        c.healthy().await?;
        wait::until("one holder of the address", wait::PATIENCE, async || {
            let holders = holders(c, &servers, &vip).await?;
            if holders.len() == 1 { Ok(()) } else { Err(anyhow!("{holders:?}")) }
        })
        .await?;
    }
    let maps = c.kubectl("get configmaps -o name").await?;
    for map in maps.lines().filter(|map| map.starts_with("configmap/vip-")) {
        c.kubectl(&format!("delete {map}")).await?;
    }
    Ok(())
}

pub async fn without_quorum_reads_and_pods_go_on(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-quorum").await?;
    s.sleepers("web", 1).await?;
    let leader = c.leader().await?;
    let servers = c.servers().await?;
    let (survivor, address) = servers.iter().find(|(name, _)| *name != leader).context("a follower")?.clone();
    for (name, _) in servers.iter().filter(|(name, _)| *name != survivor) {
        c.signal("servers", name, Signal::SIGKILL)?;
    }
    let server = format!("--server=https://{address}:6443");
    let start = Instant::now();
    let write = c.try_kubectl(&[&server, "create", "configmap", "late", "--request-timeout=30s"], None).await?;
    let bounded = start.elapsed();
    let path = "/api/v1/namespaces/story-quorum/pods?resourceVersion=0";
    let read = wait::until("resourceVersion=0 reads go on", wait::PATIENCE, async || {
        let read = c.try_kubectl(&[&server, "get", "--raw", path], None).await?;
        has(&read.out, "\"web-").map_err(|error| error.context(read.err))
    })
    .await;
    let seen = wait::until("status tells who is left", wait::PATIENCE, async || {
        let seen = c.status().await?;
        let left = members(&seen).filter(|member| member["reachable"] == true).count();
        if left == 1 { Ok(()) } else { Err(anyhow!("{seen}")) }
    })
    .await;
    c.up(&["--no-demo"]).await?;
    c.healthy().await?;
    ensure!(!write.ok, "a write without quorum was acknowledged");
    // The server answers 503 within 3 s; kubectl itself tries ten times.
    ensure!(bounded < wait::PATIENCE, "the refusal took {bounded:?}");
    read?;
    seen?;
    let restarts = s.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[0].restartCount}").await?;
    ensure!(restarts == "0", "the pod ran on: {restarts}");
    s.done().await
}
