//! What a kind of volume is.
//!
//! Invariants
//! - [`Plugin::set_up`] may be called again at any time; what is in place already stays as its users have it.
//! - All that a plugin leaves on the machine lies in the volume's own directory, or is its user's (hostPath).

use std::{
    io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::sync::Mutex;

use super::{credentials::Credentials, mount};
use crate::node::Node;

/// One kind of volume.
pub(super) trait Plugin: Sync {
    /// As upstream names it, without its domain: `empty-dir`.
    fn name(&self) -> &'static str;

    /// Whether the volume is of this kind.
    fn can_support(&self, volume: &Volume) -> bool;

    /// Whether containers may only read it, whatever they ask for.
    fn read_only(&self) -> bool {
        false
    }

    /// Whether what is in it changes with the objects it is made from, so that it is set up again while it is used.
    fn requires_remount(&self) -> bool {
        false
    }

    /// Where its content lies, for a volume whose directory is `dir`.
    fn path(&self, _: &Volume, dir: &Path) -> PathBuf {
        dir.to_owned()
    }

    /// Puts it in place. An error is for the `FailedMount` event.
    fn set_up<'a>(&'a self, mounter: &'a Mounter<'a>) -> BoxFuture<'a, Result<(), String>>;

    /// Removes the volume's directory with what is mounted there. The pod's definition may be gone by now.
    fn tear_down(&self, dir: &Path) -> io::Result<()> {
        mount::unmount(dir)?;
        remove(dir)
    }
}

/// One volume of one pod that is being put in place.
pub(super) struct Mounter<'a> {
    pub(super) node: &'a Node,
    pub(super) pod: &'a Pod,
    pub(super) volume: &'a Volume,
    /// The volume's own directory.
    pub(super) dir: PathBuf,
    /// The pod's addresses.
    pub(super) ips: &'a [IpAddr],
    pub(super) credentials: &'a Mutex<Credentials>,
}

impl Mounter<'_> {
    /// The group that owns the pod's volumes, if one is asked for.
    pub(super) fn fs_group(&self) -> Option<u32> {
        let group = self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
        u32::try_from(group).ok()
    }
}

/// The directory of volumes of a kind below `volumes/` in the pod's directory, as kubelet names it.
pub(super) fn dir_name(plugin: &dyn Plugin) -> String {
    format!("kubernetes.io~{}", plugin.name())
}

/// Work on the disk.
pub(super) async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Makes a directory, unless it is there.
pub(super) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
