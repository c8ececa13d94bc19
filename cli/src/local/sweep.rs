//! Removing what crashes left behind: processes, mounts, control groups, runtime files.
//!
//! Invariants
//! - A process is ours if it lives in one of our network namespaces or names one of our
//!   directories among its arguments; nothing else is touched.
//! - What belongs to a pod is found by the pod's bundle (containerd's state directory), which is
//!   ours by path. So this goes before the bundles are removed.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    network::{mounts, spaces_of},
    plan::{Member, Role, Saved},
    process::{arguments, gone, pids},
    progress::{Seen, wait},
};

/// Files of a pod outside our directories, noted before its bundle goes.
#[derive(Default, Debug)]
pub struct Outside {
    /// Control groups, as runc names them.
    cgroups: BTreeSet<String>,
    /// Sockets of containerd's shims.
    sockets: BTreeSet<PathBuf>,
    /// Ids of containers, by which CNI caches results.
    ids: BTreeSet<String>,
}

impl Outside {
    /// Directories of the control groups in every hierarchy.
    fn places(&self) -> Vec<(PathBuf, &Path)> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let hierarchies =
            if unified { vec![PathBuf::from("/sys/fs/cgroup")] } else { entries(Path::new("/sys/fs/cgroup")) };
        let groups =
            || self.cgroups.iter().map(|group| Path::new(group.trim_start_matches('/'))).filter(|g| is_plain(g));
        hierarchies.into_iter().flat_map(|hierarchy| groups().map(move |group| (hierarchy.clone(), group))).collect()
    }

    /// Processes in the control groups.
    fn pids(&self) -> BTreeSet<i32> {
        fn collect(dir: &Path, pids: &mut BTreeSet<i32>) {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            entries(dir).iter().filter(|path| path.is_dir()).for_each(|child| collect(child, pids));
        }
        let mut pids = BTreeSet::new();
        self.places().iter().for_each(|(hierarchy, group)| collect(&hierarchy.join(group), &mut pids));
        pids
    }

    pub fn extend(&mut self, other: Self) {
        self.cgroups.extend(other.cgroups);
        self.sockets.extend(other.sockets);
        self.ids.extend(other.ids);
    }
}

/// Agents' directories that exist, whatever `cluster.yaml` says.
pub fn agents(saved: &Saved) -> Vec<Member> {
    let named = |dir: PathBuf| {
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
    };
    let names: BTreeSet<String> = named(saved.run()).chain(named(saved.dir.join("agents"))).collect();
    let numbers = names.iter().filter_map(|name| name.strip_prefix('a')?.parse::<u8>().ok());
    let highest = numbers.max().unwrap_or_default().max(saved.agents);
    Saved { agents: highest, ..saved.clone() }.members().into_iter().filter(|m| m.role == Role::Agent).collect()
}

/// Looks at the bundles and the agents' pod directories.
pub fn outside(agents: &[Member]) -> Outside {
    let mut found = Outside::default();
    for agent in agents {
        let tasks = agent.containerd_state().join("io.containerd.runtime.v2.task/k8s.io");
        for bundle in entries(&tasks) {
            found.ids.extend(bundle.file_name().and_then(|name| name.to_str()).map(str::to_owned));
            if let Ok(address) = fs::read_to_string(bundle.join("address")) {
                found.sockets.insert(address.trim().trim_start_matches("unix://").into());
            }
            let spec: Value = fs::read(bundle.join("config.json"))
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
                .unwrap_or_default();
            found.cgroups.extend(spec["linux"]["cgroupsPath"].as_str().map(str::to_owned));
        }
        for pod in entries(&agent.data().join("pods")) {
            let Some(uid) = pod.file_name().and_then(|name| name.to_str()) else { continue };
            for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
                found.cgroups.insert(format!("/{class}/pod{uid}"));
            }
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Kills every process of the cluster, and the ones those start meanwhile.
pub async fn processes(saved: &Saved, found: &Outside) -> Result<()> {
    let mut spaces: Vec<PathBuf> = spaces_of(saved);
    // Pods' namespaces are bound in containerd's state directory.
    spaces.extend(mounts().into_iter().map(PathBuf::from).filter(|mount| mount.starts_with(saved.run())));
    let inodes: BTreeSet<(u64, u64)> = spaces.iter().filter_map(|path| identity(path)).collect();
    let host = identity(Path::new("/proc/self/ns/net"));
    let mine = |pid: i32| {
        if pid == i32::try_from(std::process::id()).unwrap_or_default() {
            return false;
        }
        let space = identity(Path::new(&format!("/proc/{pid}/ns/net")));
        space.is_some_and(|space| Some(space) != host && inodes.contains(&space))
            || arguments(pid).is_some_and(|args| names_us(saved, &args))
    };
    wait("killing what is left", Duration::from_secs(15), async || {
        let grouped = found.pids();
        let mine = |pid: &i32| (grouped.contains(pid) || mine(*pid)) && !gone(Pid::from_raw(*pid));
        let left: Vec<i32> = pids().into_iter().filter(mine).collect();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("processes {left:?} do not die")) })
    })
    .await
}

/// Shims carry our socket, servers and agents our configuration file. The `kontiki` tools that a
/// person runs name the directory as well, so only these forms count.
fn names_us(saved: &Saved, args: &[String]) -> bool {
    let run = format!("{}/", saved.run().display());
    let shim =
        args.first().is_some_and(|arg| arg.contains("containerd-shim")) && args.iter().any(|arg| arg.starts_with(&run));
    let folders = ["servers", "agents"].map(|folder| format!("{}/", saved.dir.join(folder).display()));
    let config = args
        .windows(2)
        .any(|pair| pair[0] == "--config" && folders.iter().any(|folder| pair[1].starts_with(folder.as_str())));
    shim || config
}

/// A namespace is known by device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Unmounts everything beneath the cluster's directories, the latest first.
pub fn unmount(saved: &Saved) -> Result<()> {
    let roots = [saved.run(), saved.dir.clone()];
    let ours: Vec<String> =
        mounts().into_iter().filter(|mount| roots.iter().any(|root| Path::new(mount).starts_with(root))).collect();
    for mount in ours.iter().rev() {
        match umount2(mount.as_str(), MntFlags::MNT_DETACH) {
            // Gone with a mount that was on top of it.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {mount}")),
        }
    }
    Ok(())
}

/// Removes what was noted, and parents that are empty then.
pub async fn remove(found: &Outside) -> Result<()> {
    // A group can be removed a moment after its last process is gone, not at once.
    wait("removing control groups", Duration::from_secs(5), async || {
        let left = remove_cgroups(found);
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("in use: {}", left.join(", "))) })
    })
    .await?;
    remove_files(found);
    Ok(())
}

/// Paths of the groups that are still there.
fn remove_cgroups(found: &Outside) -> Vec<String> {
    let mut left = Vec::new();
    for (hierarchy, group) in found.places() {
        remove_cgroup(&hierarchy, group);
        let path = hierarchy.join(group);
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    left
}

fn remove_files(found: &Outside) {
    for socket in &found.sockets {
        let _ = fs::remove_file(socket);
    }
    for cache in ["/var/lib/cni/results", "/var/lib/cni/cache/results"] {
        for path in entries(Path::new(cache)) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if found.ids.iter().any(|id| name.contains(id.as_str())) {
                let _ = fs::remove_file(&path);
            }
        }
    }
    // containerd makes these for its shims; they are shared, so only when nothing is in them.
    for dir in ["/run/containerd/s", "/run/containerd"] {
        let _ = fs::remove_dir(dir);
    }
}

/// A path beneath a hierarchy, and not the hierarchy itself.
fn is_plain(group: &Path) -> bool {
    let mut parts = group.components();
    parts.next().is_some() && group.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// A group and what is beneath it, then parents up to the hierarchy while they are empty. What
/// cannot be removed is in use by somebody else.
fn remove_cgroup(hierarchy: &Path, relative: &Path) {
    fn beneath(dir: &Path) {
        for child in entries(dir).into_iter().filter(|path| path.is_dir()) {
            beneath(&child);
        }
        let _ = fs::remove_dir(dir);
    }
    beneath(&hierarchy.join(relative));
    for parent in relative.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        if fs::remove_dir(hierarchy.join(parent)).is_err() && hierarchy.join(parent).exists() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_of_this_cluster_are_named() {
        let saved = Saved::nameless(Some("lab"), "/d/.kontiki".into()).unwrap();
        for (line, ours) in [
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id x -address /run/kontiki/lab/a1/containerd.sock",
                true,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id x -address /run/kontiki/lab2/a1/containerd.sock",
                false,
            ),
            ("/usr/bin/containerd-shim-runc-v2 -namespace moby -id x -address /run/containerd/containerd.sock", false),
            ("/k/kontiki server --config /d/.kontiki/servers/s1/config.yaml", true),
            ("containerd --config /d/.kontiki/agents/a1/containerd/config.toml", true),
            ("tail -f /d/.kontiki/servers/s1/log", false),
            ("/k/kontiki down --dir /d/.kontiki", false),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(names_us(&saved, &args), ours, "{line}");
        }
    }
}
