//! What a local cluster consists of: names, addresses and paths, all derived from four values.
//!
//! Pure, except for reading and writing `cluster.yaml`.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::{Hash as _, Hasher as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use kontiki_files::{Readers, replace};
use serde::{Deserialize, Serialize};

use super::UpArgs;
use crate::status::Known;

const DEFAULT_NAME: &str = "kontiki";
const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 24);
/// Interface names end at 15 bytes; the longest is `NAME-a100`.
const LONGEST_NAME: usize = 10;
const FILE: &str = "cluster.yaml";

/// What `up` was asked for, kept in `cluster.yaml` so that it need not be said again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    pub name: String,
    pub subnet: Ipv4Net,
    pub servers: u8,
    pub agents: u8,
    pub egress: bool,
    /// Registry host to URLs.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// The demo was shown once, or is not wanted; whoever deletes it does not want it back.
    #[serde(default)]
    pub demo_shown: bool,
    /// Absolute path of the cluster's directory.
    pub dir: PathBuf,
}

/// What kind of member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Agent,
}

/// One server or agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub role: Role,
    /// `s1`, `a1`.
    pub name: String,
    pub ip: Ipv4Addr,
    /// Name of its network namespace and of its port on the bridge.
    pub space: String,
    pub dir: PathBuf,
    /// Sockets and state that a reboot clears.
    pub run: PathBuf,
}

impl Member {
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Where the namespace is bound.
    pub fn space_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.space)
    }

    /// The member belongs to the cluster and needs no token to come back.
    pub fn has_data(&self) -> bool {
        let proof = match self.role {
            Role::Server => "server.json",
            Role::Agent => "pki/node.crt",
        };
        self.data().join(proof).exists()
    }
}

impl Saved {
    /// The cluster of a directory, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        Self::read(&dir.join(FILE))
    }

    /// The cluster of a name, if it runs or ran since the machine started.
    pub fn by_name(name: &str) -> Result<Option<Self>> {
        Self::read(&run_dir(name).join(FILE))
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let saved = serde_yaml_ng::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(saved))
    }

    /// Remembers the cluster, in its directory and under its name.
    pub fn save(&self) -> Result<()> {
        let text = serde_yaml_ng::to_string(self).context("plain data")?;
        for dir in [self.dir.clone(), run_dir(&self.name)] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            let path = dir.join(FILE);
            replace(&path, text.as_bytes(), Readers::All).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Just a name, for `down` where nothing else is known.
    pub fn nameless(name: Option<&str>, dir: PathBuf) -> Result<Self> {
        let name = name.unwrap_or(DEFAULT_NAME);
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            subnet: DEFAULT_SUBNET,
            servers: 0,
            agents: 0,
            egress: false,
            mirrors: BTreeMap::new(),
            demo_shown: true,
            dir,
        })
    }

    /// What is wanted: the flags, else what was wanted before, else the defaults.
    pub fn wanted(args: &UpArgs, before: Option<Self>, dir: PathBuf) -> Result<Self> {
        let mirrors = parse_mirrors(&args.mirrors)?;
        let Some(before) = before else {
            let name = args.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
            check_name(&name)?;
            let subnet = args.subnet.unwrap_or(DEFAULT_SUBNET).trunc();
            check_subnet(subnet)?;
            return Ok(Self {
                name,
                subnet,
                servers: args.servers.unwrap_or(3),
                agents: args.agents.unwrap_or(2),
                egress: !args.no_egress,
                mirrors,
                demo_shown: args.no_demo,
                dir,
            });
        };
        fixed("--name", args.name.as_ref(), &before.name, &dir)?;
        fixed("--subnet", args.subnet.map(|s| s.trunc()).as_ref(), &before.subnet, &dir)?;
        for (flag, asked, has) in
            [("--servers", args.servers, before.servers), ("--agents", args.agents, before.agents)]
        {
            if asked.is_some_and(|asked| asked < has) {
                bail!(
                    "{flag}: the cluster in {} has {has}; it can grow but not shrink (`kontiki down --purge` starts over)",
                    dir.display()
                );
            }
        }
        Ok(Self {
            servers: args.servers.unwrap_or(before.servers),
            agents: args.agents.unwrap_or(before.agents),
            egress: before.egress && !args.no_egress,
            demo_shown: before.demo_shown || args.no_demo,
            mirrors: if mirrors.is_empty() { before.mirrors } else { mirrors },
            dir,
            ..before
        })
    }

    fn host(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + number)
    }

    /// The host's own address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// The control plane's virtual address.
    pub fn vip(&self) -> Ipv4Addr {
        self.host(10)
    }

    pub fn bridge(&self) -> String {
        format!("{}0", self.name)
    }

    /// Name of the host's firewall table.
    pub fn table(&self) -> String {
        format!("kontiki-{}", self.name)
    }

    /// Metric of the host's guard routes: one per cluster, so that each removes its own only.
    pub fn metric(&self) -> u32 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        4_000_000_001 + u32::try_from(hasher.finish() % 200_000_000).unwrap_or_default()
    }

    pub fn run(&self) -> PathBuf {
        run_dir(&self.name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn member(&self, role: Role, number: u8) -> Member {
        let (letter, folder, first) = match role {
            Role::Server => ('s', "servers", 10),
            Role::Agent => ('a', "agents", 20),
        };
        let name = format!("{letter}{number}");
        Member {
            role,
            ip: self.host(first + u32::from(number)),
            space: format!("{}-{name}", self.name),
            dir: self.dir.join(folder).join(&name),
            run: self.run().join(&name),
            name,
        }
    }

    pub fn servers(&self) -> Vec<Member> {
        (1..=self.servers).map(|n| self.member(Role::Server, n)).collect()
    }

    pub fn agents(&self) -> Vec<Member> {
        (1..=self.agents).map(|n| self.member(Role::Agent, n)).collect()
    }

    pub fn members(&self) -> Vec<Member> {
        self.servers().into_iter().chain(self.agents()).collect()
    }

    /// For `kontiki status`.
    pub fn known_servers(&self) -> Vec<Known> {
        self.servers().into_iter().map(|s| Known { address: format!("{}:6443", s.ip), name: Some(s.name) }).collect()
    }
}

/// Directory of what a reboot clears.
pub fn run_dir(name: &str) -> PathBuf {
    Path::new("/run/kontiki").join(name)
}

fn fixed<T: PartialEq + std::fmt::Display>(flag: &str, asked: Option<&T>, has: &T, dir: &Path) -> Result<()> {
    match asked {
        Some(asked) if asked != has => {
            bail!(
                "{flag}: the cluster in {} has {has}, not {asked}; use another --dir, or `kontiki down --purge` to start over",
                dir.display()
            )
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !fits {
        bail!(
            "--name: {name:?} must be 1 to {LONGEST_NAME} lower-case letters and digits, a letter first (it becomes part of interface names)"
        );
    }
    Ok(())
}

fn check_subnet(subnet: Ipv4Net) -> Result<()> {
    if subnet.prefix_len() > 24 {
        bail!("--subnet: {subnet} is too small, the prefix must be /24 or shorter");
    }
    for (what, range) in [("pods", super::POD_CIDR), ("Services", super::SERVICE_CIDR)] {
        if subnet.contains(&range.network()) || range.contains(&subnet.network()) {
            bail!("--subnet: {subnet} overlaps the addresses of {what}, {range}");
        }
    }
    Ok(())
}

fn parse_mirrors(texts: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((host, url)) if !host.is_empty() && (url.starts_with("http://") || url.starts_with("https://")) => {
                mirrors.entry(host.to_owned()).or_default().push(url.to_owned());
            }
            _ => bail!("--mirror: {text:?} must look like docker.io=http://HOST:PORT"),
        }
    }
    Ok(mirrors)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Wrapped {
        #[command(flatten)]
        args: UpArgs,
    }

    fn wanted(flags: &str, before: Option<&str>) -> Result<Saved> {
        let args = |flags: &str| Wrapped::try_parse_from(flags.split_whitespace()).map(|w| w.args);
        let before = before.map(|flags| Saved::wanted(&args(flags)?, None, "/d".into())).transpose()?;
        Saved::wanted(&args(flags)?, before, "/d".into())
    }

    #[test]
    fn everything_follows_from_the_name_and_the_subnet() {
        let saved = wanted("--name lab --subnet 10.9.1.0/24", None).unwrap();
        let shown: Vec<String> =
            saved.members().iter().map(|m| format!("{} {} {}", m.space, m.ip, m.config().display())).collect();
        assert_eq!(
            shown,
            [
                "lab-s1 10.9.1.11 /d/servers/s1/config.yaml",
                "lab-s2 10.9.1.12 /d/servers/s2/config.yaml",
                "lab-s3 10.9.1.13 /d/servers/s3/config.yaml",
                "lab-a1 10.9.1.21 /d/agents/a1/config.yaml",
                "lab-a2 10.9.1.22 /d/agents/a2/config.yaml",
            ]
        );
        assert_eq!((saved.bridge().as_str(), saved.vip().to_string().as_str()), ("lab0", "10.9.1.10"));
    }

    #[test]
    fn a_second_up_remembers_the_first() {
        for (before, flags, expect) in [
            ("--servers 1 --agents 1", "", Ok((1, 1))),
            ("--servers 1 --agents 1", "--agents 3", Ok((1, 3))),
            ("--agents 2", "--agents 1", Err("can grow but not shrink")),
            ("--name a", "--name b", Err("has a, not b")),
            ("--subnet 10.9.1.0/24", "--subnet 10.9.2.0/24", Err("has 10.9.1.0/24")),
            ("", "--mirror docker.io", Err("must look like")),
        ] {
            let got = wanted(flags, Some(before)).map(|s| (s.servers, s.agents)).map_err(|e| e.to_string());
            match expect {
                Ok(pair) => assert_eq!(got, Ok(pair), "{before} then {flags}"),
                Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{before} then {flags}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_demo_that_was_not_wanted_is_not_shown_later() {
        for (before, flags, shown) in [("", "", false), ("--no-demo", "", true), ("", "--no-demo", true)] {
            assert_eq!(wanted(flags, Some(before)).unwrap().demo_shown, shown, "{before:?} then {flags:?}");
        }
        assert!(wanted("--no-demo", None).unwrap().demo_shown);
    }

    #[test]
    fn names_and_subnets_are_checked() {
        for (flags, part) in [
            ("--name Lab", "lower-case"),
            ("--name averylongname", "1 to 10"),
            ("--subnet 10.244.7.0/24", "overlaps the addresses of pods"),
            ("--subnet 10.0.0.0/8", "overlaps"),
            ("--subnet 10.9.1.0/25", "too small"),
        ] {
            let error = wanted(flags, None).unwrap_err().to_string();
            assert!(error.contains(part), "{flags}: {error}");
        }
    }
}
