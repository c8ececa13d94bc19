//! Where the programs under test come from.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, anyhow, ensure};

/// Debian's etcd 3.4, unpacked and not installed: the package would start a service. The lock is for
/// test programs that run at the same time.
const FETCH: &str = "mkdir -p ~/.cache/kontiki && cd ~/.cache/kontiki && exec 9>etcd.lock && flock 9 &&
  { test -x etcd/usr/bin/etcdctl || {
  rm -rf etcd.new && mkdir etcd.new && cd etcd.new &&
  apt() { apt-get -qq -o APT::Sandbox::User=root \"$@\"; } &&
  fetch() { apt download etcd-server etcd-client; } &&
  { fetch || { apt update && fetch; }; } &&
  for deb in *.deb; do dpkg -x \"$deb\" . || exit 1; done &&
  cd .. && rm -rf etcd && mv etcd.new etcd; }; } 1>&2 && realpath etcd/usr/bin";

#[derive(Clone, Debug)]
pub struct EtcdBinaries {
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
}

/// Debian's etcd, fetched on first use.
///
/// # Errors
/// The package cannot be fetched.
pub fn etcd() -> Result<EtcdBinaries> {
    static FETCHED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = FETCHED.get_or_init(|| fetch().map_err(|error| format!("{error:#}")));
    let dir = dir.as_ref().map_err(|error| anyhow!("{error}"))?;
    Ok(EtcdBinaries { etcd: dir.join("etcd"), etcdctl: dir.join("etcdctl") })
}

fn fetch() -> Result<PathBuf> {
    let fetched = Command::new("sh").args(["-c", FETCH]).output().context("starting sh")?;
    ensure!(fetched.status.success(), "fetching etcd: {}", String::from_utf8_lossy(&fetched.stderr));
    Ok(PathBuf::from(String::from_utf8(fetched.stdout)?.trim()))
}

/// `$KONTIKI_BIN`, or the debug build.
///
/// # Errors
/// There is no such file.
pub fn kontiki() -> Result<PathBuf> {
    let path = match std::env::var_os("KONTIKI_BIN") {
        Some(path) => PathBuf::from(path),
        None => target()?.join("debug/kontiki"),
    };
    ensure!(path.is_file(), "{} is missing: cargo build --workspace --bins", path.display());
    Ok(path)
}

fn target() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_TARGET_DIR nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/kontiki/target"))
}
