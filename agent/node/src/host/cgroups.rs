//! The cgroup of a pod as a whole. The runtime makes it with the first container and never
//! removes it.

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::PodSpec;
use kontiki_agent_plan::resources::{self, Qos};

const ROOT: &str = "/sys/fs/cgroup";

/// Every place where a cgroup of this name may be: one per controller, or the one of version 2.
fn places(cgroup: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let relative = cgroup.trim_start_matches('/');
    let mut out = vec![root.join(relative)];
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        out.push(entry.path().join(relative));
    }
    out.retain(|path| path.is_dir());
    out
}

/// Gives the pod its share of the CPU, and the limits that it declares as a whole. Best effort: without its share pods
/// share equally.
pub(crate) fn set_resources(spec: &PodSpec, uid: &str) {
    let files = files(spec);
    for place in places(&Qos::of(spec).cgroup_parent(uid)) {
        for (file, value) in &files {
            let path = place.join(file);
            if path.exists()
                && let Err(error) = std::fs::write(&path, value)
            {
                tracing::debug!(path = %path.display(), %error, "a resource of the pod was not set");
            }
        }
    }
}

/// Files of either version, and what is written to them.
fn files(spec: &PodSpec) -> Vec<(&'static str, String)> {
    let shares = resources::pod_shares(spec);
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    let mut out = vec![("cpu.shares", shares.to_string()), ("cpu.weight", weight.to_string())];
    if let Some(cpu) = resources::pod_limit(spec, "cpu").map(resources::quota) {
        out.extend([("cpu.cfs_quota_us", cpu.to_string()), ("cpu.max", format!("{cpu} {}", resources::PERIOD))]);
    }
    if let Some(bytes) = resources::pod_limit(spec, "memory").map(kontiki_model::Quantity::units) {
        out.extend([("memory.limit_in_bytes", bytes.to_string()), ("memory.max", bytes.to_string())]);
    }
    out
}

/// Removes the pod's cgroup and all below it.
///
/// # Errors
/// If a process is still in it.
pub fn remove(uid: &str) -> io::Result<()> {
    for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
        for place in places(&class.cgroup_parent(uid)) {
            remove_tree(&place)?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
