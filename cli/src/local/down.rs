//! `kontiki down`: in order while things work, by force where they do not.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use super::{
    DownArgs, containerd, network,
    plan::{Member, Role, Saved},
    preflight,
    process::{Daemon, stop},
    progress::{Step, note},
    sweep::{self, Outside},
    up,
};

/// Long enough for a server to hand leadership over.
const SERVERS: Duration = Duration::from_secs(10);
const AGENTS: Duration = Duration::from_secs(5);
const PODS: Duration = Duration::from_secs(15);

pub async fn down(args: DownArgs) -> Result<ExitCode> {
    preflight::root("down")?;
    let dir = up::absolute(&args.dir)?;
    let saved = match (Saved::load(&dir)?, &args.name) {
        (Some(saved), Some(name)) if saved.name != *name => {
            bail!("--name: the cluster in {} is {}, not {name}", dir.display(), saved.name)
        }
        (Some(saved), _) => Saved { dir, ..saved },
        (None, Some(name)) => Saved::by_name(name)?.map_or_else(|| Saved::nameless(Some(name), dir), Ok)?,
        (None, None) => elsewhere(Saved::nameless(None, dir)?)?,
    };
    let lock = up::lock(&saved)?;
    let agents = sweep::agents(&saved);
    // Before the pods are stopped: then their bundles, which name these, are gone.
    let outside = sweep::outside(&agents);
    stop_all(&saved, &agents).await?;
    let step = Step::begin("network");
    clean(&saved, &agents, outside).await?;
    step.done("removed");
    let _ = fs::remove_file(up::lock_path(&saved));
    drop(lock);
    // Shared with other clusters: it goes only when it is empty.
    let _ = fs::remove_dir("/run/kontiki");
    if args.purge {
        purge(&saved)?;
    } else if saved.dir.join("cluster.yaml").exists() {
        note(
            "data",
            &format!("kept in {} (`kontiki up` goes on with it, `down --purge` deletes it)", saved.dir.display()),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A directory without a cluster must not bring down the one of the default name that lives elsewhere.
pub fn elsewhere(nameless: Saved) -> Result<Saved> {
    match Saved::by_name(&nameless.name)? {
        Some(other) if other.dir != nameless.dir => bail!(
            "{} holds no cluster; the one named {} lives in {}: kontiki down --dir {}",
            nameless.dir.display(),
            other.name,
            other.dir.display(),
            other.dir.display()
        ),
        _ => Ok(nameless),
    }
}

pub async fn stop_all(saved: &Saved, agents: &[Member]) -> Result<()> {
    let step = Step::begin("agents");
    stop(running(agents.iter().map(|agent| up::daemon(saved, agent))), AGENTS).await.context("stopping the agents")?;
    step.done("stopped");
    let step = Step::begin("pods");
    let emptied = tokio::time::timeout(
        PODS,
        futures::future::join_all(
            agents.iter().filter(|agent| containerd::daemon(agent).pid().is_some()).map(containerd::empty),
        ),
    );
    match emptied.await {
        Ok(results) if results.iter().all(Result::is_ok) => step.done("stopped"),
        // The rest is taken down by force below.
        Ok(_) | Err(_) => step.done("some did not stop in order; removing them by force"),
    }
    let step = Step::begin("servers");
    let containerds = running(agents.iter().map(containerd::daemon));
    let servers =
        running(saved.members().iter().filter(|m| m.role == Role::Server).map(|server| up::daemon(saved, server)));
    stop([containerds, servers].concat(), SERVERS).await.context("stopping the servers")?;
    step.done("stopped");
    Ok(())
}

fn running(daemons: impl Iterator<Item = Daemon>) -> Vec<Pid> {
    daemons.filter_map(|daemon| daemon.pid()).collect()
}

/// Removes whatever is left of the cluster on this machine, except its data.
pub async fn clean(saved: &Saved, agents: &[Member], mut outside: Outside) -> Result<()> {
    outside.extend(sweep::outside(agents));
    sweep::processes(saved, &outside).await?;
    sweep::unmount(saved)?;
    sweep::remove(&outside).await?;
    network::remove(saved).await?;
    let run = saved.run();
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("removing {}", run.display()))?;
    }
    for member in saved.members().iter().chain(agents) {
        for file in [member.pid_file(), member.containerd_dir().join("pid")] {
            let _ = fs::remove_file(file);
        }
    }
    Ok(())
}

fn purge(saved: &Saved) -> Result<()> {
    if !saved.dir.join("cluster.yaml").exists() {
        return Ok(()); // never delete a directory that is not a cluster's
    }
    fs::remove_dir_all(&saved.dir).with_context(|| format!("deleting {}", saved.dir.display()))?;
    note("data", &format!("{} deleted", saved.dir.display()));
    Ok(())
}
