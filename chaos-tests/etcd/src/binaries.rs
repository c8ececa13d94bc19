//! Where the programs under test come from.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};

/// A script of the checkout that Cargo runs this in: several may share what was built. Without Cargo the one it was
/// built in.
fn script(name: &str) -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.join("../../deploy").join(name)
}

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

/// How `deploy/get-etcd.sh` and its like end where there is no Go.
const WITHOUT_GO: i32 = 3;

#[derive(Clone, Debug)]
pub struct EtcdBinaries {
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
}

impl EtcdBinaries {
    fn of(dir: &Path) -> Self {
        Self { etcd: dir.join("etcd"), etcdctl: dir.join("etcdctl") }
    }
}

/// Debian's etcd, fetched on first use.
///
/// # Errors
/// The package cannot be fetched.
pub fn etcd34() -> Result<EtcdBinaries> {
    static FETCHED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let fetch = || fetched(&Command::new("sh").args(["-c", FETCH]).output().context("starting sh")?);
    let dir = FETCHED.get_or_init(|| fetch().map_err(|error| format!("{error:#}")));
    Ok(EtcdBinaries::of(dir.as_ref().map_err(|error| anyhow!("{error}"))?))
}

/// etcd 3.7, built on first use; `None` where there is no Go that could build it.
///
/// # Errors
/// It cannot be built.
pub fn etcd37() -> Result<Option<EtcdBinaries>> {
    static BUILT: OnceLock<Result<Option<PathBuf>, String>> = OnceLock::new();
    let dir = BUILT.get_or_init(|| build("get-etcd.sh", &[]).map_err(|error| format!("{error:#}")));
    Ok(dir.as_ref().map_err(|error| anyhow!("{error}"))?.as_deref().map(EtcdBinaries::of))
}

/// A command of Kubernetes, `kube-apiserver` say, built on first use; `None` where there is no Go that could build it.
///
/// # Errors
/// It cannot be built.
pub fn kubernetes(command: &str) -> Result<Option<PathBuf>> {
    Ok(build("get-kubernetes.sh", &[command])?.map(|dir| dir.join(command)))
}

/// What a script of ours has built, or `None` where there is no Go for it.
fn build(script_name: &str, arguments: &[&str]) -> Result<Option<PathBuf>> {
    let script = script(script_name);
    let built =
        Command::new(&script).args(arguments).output().with_context(|| format!("starting {}", script.display()))?;
    if built.status.code() == Some(WITHOUT_GO) {
        // Past what the test harness captures: a skip is to be seen.
        std::io::stderr().write_all(&[b"skipped: ", &built.stderr[..]].concat())?;
        return Ok(None);
    }
    fetched(&built).map(Some)
}

/// The folder that a command has printed.
fn fetched(ended: &Output) -> Result<PathBuf> {
    ensure!(ended.status.success(), "fetching: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(PathBuf::from(std::str::from_utf8(&ended.stdout)?.trim()))
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

/// `$KONTIKI_OLDER_BIN`, or the store as an earlier commit of this repository has it, built on first use. It knows
/// `store` and nothing else. `None`, with the reason on standard error, where the history does not go back so far.
///
/// # Errors
/// It cannot be built; or, where `CI=true`, the history lacks it.
pub fn older() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("KONTIKI_OLDER_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "KONTIKI_OLDER_BIN: {} is missing", path.display());
        return Ok(Some(path));
    }
    // Builds it where it was not built before; says what it does on standard error.
    let script = script("older.sh");
    let name = script.display();
    let built = Command::new(&script).stderr(Stdio::inherit()).output().with_context(|| format!("starting {name}"))?;
    ensure!(built.status.success(), "{name}: {}", built.status);
    let path = String::from_utf8(built.stdout)?.trim().to_owned();
    Ok((!path.is_empty()).then(|| path.into()))
}

fn target() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_TARGET_DIR nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/kontiki/target"))
}
