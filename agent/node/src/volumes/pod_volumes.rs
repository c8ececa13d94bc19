//! All volumes of one pod: put in place, brought up to date, taken down.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::Mutex;

use super::{
    credentials::Credentials,
    empty_dir::EmptyDir,
    mount,
    plugin::{Mounter, Plugin, create_dir, dir_name, remove},
    plugins,
};
use crate::node::Node;

const VOLUMES: &str = "volumes";
/// Where `subPath` mounts are bound.
pub(super) const SUBPATHS: &str = "volume-subpaths";

/// Why a volume is not in place.
#[derive(Debug)]
pub(crate) struct MountFailure {
    pub(crate) volume: String,
    pub(crate) message: String,
}

/// Directory of a volume below its pod's.
pub(super) fn volume_dir(pod_dir: &Path, plugin: &dyn Plugin, volume: &str) -> PathBuf {
    pod_dir.join(VOLUMES).join(dir_name(plugin)).join(volume)
}

/// Puts all volumes of a pod in place.
///
/// # Errors
/// The first volume that cannot be, and why.
pub(crate) async fn set_up(
    node: &Node,
    pod: &Pod,
    ips: &[IpAddr],
    credentials: &Mutex<Credentials>,
) -> Result<(), MountFailure> {
    let pod_dir = pod_dir(node, pod);
    for dir in [VOLUMES, "containers", "plugins"] {
        let path = pod_dir.join(dir);
        create_dir(&path, 0o750)
            .map_err(|e| MountFailure { volume: String::new(), message: format!("{}: {e}", path.display()) })?;
    }
    each(node, pod, ips, credentials, |_| true).await
}

/// Brings those up to date whose content changes while they are used.
///
/// # Errors
/// The first volume that cannot be, and why.
pub(crate) async fn refresh(
    node: &Node,
    pod: &Pod,
    ips: &[IpAddr],
    credentials: &Mutex<Credentials>,
) -> Result<(), MountFailure> {
    each(node, pod, ips, credentials, Plugin::requires_remount).await
}

async fn each(
    node: &Node,
    pod: &Pod,
    ips: &[IpAddr],
    credentials: &Mutex<Credentials>,
    chosen: impl Fn(&'static dyn Plugin) -> bool,
) -> Result<(), MountFailure> {
    let pod_dir = pod_dir(node, pod);
    for volume in pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).into_iter().flatten() {
        let failed = |message| MountFailure { volume: volume.name.clone(), message };
        let plugin = plugins::of(volume).map_err(failed)?;
        if chosen(plugin) {
            let dir = volume_dir(&pod_dir, plugin, &volume.name);
            plugin.set_up(&Mounter { node, pod, volume, dir, ips, credentials }).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Where an emptyDir volume of a pod lies.
pub(crate) fn empty_dir(pod_dir: &Path, volume: &str) -> PathBuf {
    volume_dir(pod_dir, &EmptyDir, volume)
}

fn pod_dir(node: &Node, pod: &Pod) -> PathBuf {
    node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Takes down all volumes of a pod, whatever its definition was.
///
/// # Errors
/// If a mount cannot be removed; what lies below it stays.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let (subpaths, volumes) = (pod_dir.join(SUBPATHS), pod_dir.join(VOLUMES));
    mount::unmount_below(&subpaths)?;
    remove(&subpaths)?;
    for kind in children(&volumes) {
        let name = kind.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(plugin) = plugins::by_dir_name(&name) {
            children(&kind).iter().try_for_each(|dir| plugin.tear_down(dir))?;
        }
    }
    mount::unmount_below(pod_dir)?;
    remove(&volumes)
}

fn children(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes the pod's directory with all that is left in it.
///
/// # Errors
/// If a mount is left below it, or the disk refuses.
pub(crate) fn remove_pod_dir(pod_dir: &Path) -> io::Result<()> {
    mount::unmount_below(pod_dir)?;
    remove(pod_dir)
}

/// Where the content of a volume lies, and whether containers may only read it.
pub(super) fn content(pod_dir: &Path, volume: &Volume) -> Result<(PathBuf, bool), String> {
    let plugin = plugins::of(volume)?;
    let dir = volume_dir(pod_dir, plugin, &volume.name);
    Ok((plugin.path(volume, &dir), plugin.read_only()))
}
