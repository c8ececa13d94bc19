//! Mounts: tmpfs, sharing, and taking everything below a directory down.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};

/// Whether something is mounted on `dir`.
pub(super) fn is_mount(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    Ok(std::fs::metadata(dir)?.dev() != std::fs::metadata(parent)?.dev())
}

/// Whether something is mounted on `dir`, of the same file system perhaps.
pub(super) fn is_mount_point(dir: &Path) -> io::Result<bool> {
    match dir.canonicalize() {
        Ok(dir) => Ok(mount_points()?.contains(&dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Mounts a tmpfs on `dir` unless there is one.
pub(super) fn tmpfs(dir: &Path, size: Option<u64>) -> io::Result<()> {
    if is_mount(dir)? {
        return Ok(());
    }
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(sys_mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// Mounts layers of an image on `dir`: nothing there can be changed, run or taken for a device.
pub(super) fn layers(dir: &Path, kind: &str, source: &str, options: &[String]) -> io::Result<()> {
    let safe = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if kind == "bind" {
        bind(Path::new(source), dir)?;
        let again = safe | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        return Ok(sys_mount(None::<&str>, dir, None::<&str>, again, None::<&str>)?);
    }
    let data: Vec<&str> = options.iter().map(String::as_str).filter(|option| !matches!(*option, "ro" | "rw")).collect();
    Ok(sys_mount(Some(source), dir, Some(kind), safe, Some(data.join(",").as_str()))?)
}

/// Makes `dir` a mount of its own that passes mounts on: containers with mount propagation and
/// volumes need it, and the root file system is often private.
///
/// # Errors
/// The kernel's.
pub(crate) fn share(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    if !mount_points()?.contains(&dir) {
        sys_mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    }
    Ok(sys_mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?)
}

/// Binds `source` (a path that may be a descriptor in /proc) onto `target`.
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(sys_mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Takes down every mount below `dir`.
pub(super) fn unmount_below(dir: &Path) -> io::Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    unmount_all(|point| point != dir && point.starts_with(&dir))
}

/// Takes down every mount on and below `dir`.
pub(super) fn unmount(dir: &Path) -> io::Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    unmount_all(|point| point.starts_with(&dir))
}

/// Deepest first. An error if one is left.
fn unmount_all(chosen: impl Fn(&Path) -> bool) -> io::Result<()> {
    let chosen = || Ok::<_, io::Error>(mount_points()?.into_iter().filter(|point| chosen(point)).collect::<Vec<_>>());
    let mut points = chosen()?;
    if points.is_empty() {
        return Ok(());
    }
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH) {
            // Propagation may have taken it down with another.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match chosen()?.first() {
        None => Ok(()),
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
    }
}

/// Mount points strictly below `dir`.
///
/// # Errors
/// If the kernel's list cannot be read.
pub fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(mount_points()?.into_iter().filter(|p| p != dir && p.starts_with(dir)).collect())
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect())
}

/// The kernel writes blanks and backslashes in octal.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}
