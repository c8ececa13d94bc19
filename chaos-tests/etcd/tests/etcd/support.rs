//! The store that is told about, and etcdctl.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::{
    binaries,
    group::{Group, Kind},
    wait,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

/// Ours, unless `STORE` names another.
pub fn kind() -> Result<Kind> {
    let Ok(name) = std::env::var("STORE") else { return Ok(Kind::Kontiki) };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    kind.with_context(|| format!("STORE={name}: {:?}", Kind::ALL.map(Kind::name)))
}

pub async fn group(size: usize) -> Result<Group> {
    Group::of(kind()?, size).await
}

/// A group of one of each store that does as the newest etcd.
pub async fn newest() -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for kind in [Kind::Etcd37, Kind::Kontiki] {
        if kind.at_hand()? {
            groups.push(Group::of(kind, 1).await?);
        }
    }
    Ok(groups)
}

/// Which etcdctl.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V34,
    V37,
}

pub struct Etcdctl {
    pub version: Version,
    program: PathBuf,
}

impl Etcdctl {
    /// `None` if it cannot be had here, which has been said.
    pub fn find(version: Version) -> Result<Option<Self>> {
        let found = match version {
            Version::V34 => Some(binaries::etcd34()?),
            Version::V37 => binaries::etcd37()?,
        };
        Ok(found.map(|binaries| Self { version, program: binaries.etcdctl }))
    }

    /// With all of a group's endpoints.
    pub fn of(&self, group: &Group) -> Ctl {
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let certs = &group.certs;
        let flags = vec![file("cacert", &certs.ca), file("cert", &certs.cert), file("key", &certs.key)];
        Ctl { program: self.program.clone(), flags, endpoints: group.endpoints() }
    }

    /// With one member's.
    pub fn at(&self, group: &Group, index: usize) -> Ctl {
        Ctl { endpoints: format!("https://{}", group.members()[index].client), ..self.of(group) }
    }
}

/// etcdctl with a group's endpoints and certificate.
pub struct Ctl {
    program: PathBuf,
    flags: Vec<String>,
    endpoints: String,
}

impl Ctl {
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints)).args(&self.flags).args(args);
        command.arg("--command-timeout=20s");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// What it prints; words are parted by blanks.
    pub async fn run(&self, words: &str) -> Result<String> {
        self.args(&words.split(' ').collect::<Vec<_>>()).await
    }

    pub async fn args(&self, args: &[&str]) -> Result<String> {
        let ended = self.command(args)?.output().await?;
        let (out, error) = (String::from_utf8(ended.stdout)?, String::from_utf8_lossy(&ended.stderr));
        ensure!(ended.status.success(), "etcdctl {args:?}: {}\n{out}{error}", ended.status);
        Ok(out)
    }

    /// Both streams: some commands report their work as if it were an error.
    pub async fn both(&self, words: &str) -> Result<String> {
        let args: Vec<_> = words.split(' ').collect();
        let ended = self.command(&args)?.output().await?;
        let out = String::from_utf8([ended.stdout, ended.stderr].concat())?;
        ensure!(ended.status.success(), "etcdctl {args:?}: {}\n{out}", ended.status);
        Ok(out)
    }

    /// What it complains about.
    pub async fn fails(&self, words: &str) -> Result<String> {
        let ended = self.command(&words.split(' ').collect::<Vec<_>>())?.output().await?;
        ensure!(!ended.status.success(), "etcdctl {words} succeeds: {}", String::from_utf8_lossy(&ended.stdout));
        Ok(String::from_utf8(ended.stderr)?)
    }

    /// What it prints when it reads `input`.
    pub async fn reads(&self, words: &str, input: &str) -> Result<String> {
        let mut command = self.command(&words.split(' ').collect::<Vec<_>>())?;
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("an input")?.write_all(input.as_bytes()).await?;
        let ended = child.wait_with_output().await?;
        let (out, error) = (String::from_utf8(ended.stdout)?, String::from_utf8_lossy(&ended.stderr));
        ensure!(ended.status.success(), "etcdctl {words}: {}\n{out}{error}", ended.status);
        Ok(out)
    }

    /// Something that goes on, such as a watch.
    pub fn starts(&self, words: &str) -> Result<Running> {
        let child = self.command(&words.split(' ').collect::<Vec<_>>())?.spawn()?;
        Ok(Running { child, seen: String::new() })
    }
}

pub struct Running {
    child: Child,
    seen: String,
}

impl Running {
    /// Reads until exactly `text` was printed.
    pub async fn prints(&mut self, text: &str) -> Result<()> {
        let Self { child, seen } = self;
        let out = child.stdout.as_mut().context("an output")?;
        let reading = async {
            while seen.len() < text.len() {
                let mut chunk = [0; 4096];
                let length = out.read(&mut chunk).await?;
                ensure!(length > 0, "it has ended");
                seen.push_str(std::str::from_utf8(&chunk[..length])?);
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(Duration::from_secs(20), reading).await;
        ensure!(matches!(outcome, Ok(Ok(()))) && seen == text, "printed {seen:?} instead of {text:?}: {outcome:?}");
        Ok(())
    }
}

pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    wait::until(what, Duration::from_secs(30), probe).await
}

/// `text` holds `part`.
pub fn holds(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    Ok(())
}

pub fn equal<T: PartialEq + std::fmt::Debug>(have: T, want: T) -> Result<()> {
    ensure!(have == want, "{have:?} instead of {want:?}");
    Ok(())
}
