//! `subPath` mounts, safe against links that containers plant in their volumes.
//!
//! Invariants
//! - The kernel resolves the path beneath the volume's root; no link leads out of it.
//! - What is bound is the opened file itself, so nothing can be swapped in afterwards.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, mkdirat},
};

use super::mount;

/// Binds `path` beneath `root` to `target`, creating directories that are missing.
///
/// # Errors
/// If the path leads out of the volume, or the kernel refuses.
pub(super) fn bind(root: &Path, path: &str, target: &Path) -> io::Result<PathBuf> {
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = resolve(&root, path)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let is_dir = std::fs::metadata(&source)?.is_dir();
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A leftover of an earlier attempt at the same container.
    let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::write(target, [])?;
    }
    mount::bind(&source, target)?;
    Ok(target.to_owned())
}

fn beneath(root: &impl AsFd, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn resolve(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    match beneath(root, path) {
        Ok(file) => return Ok(file),
        Err(nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut at = root.try_clone()?;
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        at = match beneath(&at, part) {
            Ok(next) => next,
            Err(nix::errno::Errno::ENOENT) => {
                mkdirat(&at, part, Mode::from_bits_truncate(0o750))?;
                beneath(&at, part)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at)
}
