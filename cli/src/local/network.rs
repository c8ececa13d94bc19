//! The wires: a bridge on the host, a namespace per member, a cable between.
//!
//! Invariants
//! - A namespace is bound at `/run/netns/NAME`, as `ip netns` does, so that tool works on it.
//! - The host's end of a member's cable has the namespace's own name: `ip link set kontiki-s1 down`
//!   unplugs s1.
//! - Host and namespaces hold `unreachable` routes for pods and Services.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use kontiki_net::link::{GUARD_METRIC, Links};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{
    POD_CIDR, SERVICE_CIDR,
    plan::{Member, Role, Saved},
    preflight,
};

const SPACES: &str = "/run/netns";

/// Makes what is missing of the whole network.
pub async fn ensure(saved: &Saved) -> Result<()> {
    let links = Links::new().context("opening a netlink socket")?;
    let bridge = links.ensure_bridge(&saved.bridge(), None).await.context("making the bridge")?;
    let address = Ipv4Net::new(saved.gateway(), saved.subnet.prefix_len()).context("the prefix came from a network")?;
    links.ensure_address(bridge, address).await.context("addressing the bridge")?;
    links.up(bridge).await.context("raising the bridge")?;
    for range in [POD_CIDR, SERVICE_CIDR] {
        links.unreachable(range, saved.metric()).await.context("adding the host's guard routes")?;
    }
    firewall(saved)?;
    for member in saved.members() {
        plug(saved, &links, bridge, &member).await.with_context(|| format!("wiring {}", member.name))?;
    }
    Ok(())
}

async fn plug(saved: &Saved, host: &Links, bridge: u32, member: &Member) -> Result<()> {
    ensure_space(&member.space)?;
    let space = File::open(member.space_path())?;
    let inside = Links::in_namespace(&member.space_path())?;
    if inside.index("eth0").await?.is_none() {
        // A cable whose other end is elsewhere is of an earlier namespace.
        host.remove(&member.space).await?;
        let end = format!("{}-t", member.space);
        host.ensure_veth(&member.space, &end).await.context("making a cable")?;
        let far = host.index(&end).await?.context("a cable has two ends")?;
        host.move_to(far, &space, "eth0").await.context("moving an end of the cable")?;
    }
    let near = host.index(&member.space).await?.with_context(|| format!("the cable {} is cut", member.space))?;
    host.attach(near, bridge).await?;
    host.up(near).await?;
    for name in ["lo", "eth0"] {
        let index = inside.index(name).await?.with_context(|| format!("{name} is missing"))?;
        inside.up(index).await?;
        if name == "eth0" {
            inside.ensure_address(index, Ipv4Net::new(member.ip, saved.subnet.prefix_len())?).await?;
        }
    }
    for range in [POD_CIDR, SERVICE_CIDR] {
        inside.unreachable(range, GUARD_METRIC).await?;
    }
    // Only agents pull images and only pods have business outside.
    if saved.egress && member.role == Role::Agent {
        inside.default_route(saved.gateway()).await?;
    }
    Ok(())
}

/// Makes a namespace that stays without a process in it.
fn ensure_space(name: &str) -> Result<()> {
    share_spaces()?;
    let path = Path::new(SPACES).join(name);
    if is_mounted(&path) {
        return Ok(());
    }
    OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("making {}", path.display()))?;
    // A thread of its own: only it enters the new namespace, and it ends here.
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            })
            .join()
    });
    match made {
        Ok(result) => result.with_context(|| format!("making the network namespace {name}")),
        Err(_) => bail!("the thread that makes the network namespace {name} died"),
    }
}

/// As `ip netns add`: a mount point of its own, so that unmounting reaches other mount namespaces.
/// Like there it stays when it is empty, and is locked meanwhile: other clusters of this machine come
/// and go at the same time, and a second mount would hide the namespaces in the first.
fn share_spaces() -> Result<()> {
    fs::create_dir_all(SPACES)?;
    let path = Path::new(SPACES);
    let directory = File::open(path).context("opening /run/netns")?;
    let _lock =
        Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error).context("locking /run/netns")?;
    if !is_mounted(path) {
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .context("binding /run/netns")?;
    }
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
        .context("sharing /run/netns")
}

/// Mount points of this mount namespace, in the order they were made.
pub fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// mountinfo writes blanks and the like as `\ooo`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            None => out.push_str(part),
        }
    }
    out
}

pub fn is_mounted(path: &Path) -> bool {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    mounts().iter().any(|mount| Path::new(mount) == path)
}

/// A directory as a shared mount of its own: containers' mounts in it reach the host and back.
pub fn share(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    if is_mounted(dir) {
        return Ok(());
    }
    mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .and_then(|()| mount(None::<&str>, dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>))
        .with_context(|| format!("making {} a shared mount", dir.display()))
}

/// What the host does with packets of the cluster: masquerade them, or keep them in.
fn rules(saved: &Saved) -> String {
    let (table, bridge, subnet) = (saved.table(), saved.bridge(), saved.subnet);
    let guard = format!("ip daddr {{ {POD_CIDR}, {SERVICE_CIDR} }} oifname != \"{bridge}\" iifname \"{bridge}\" drop");
    let way_out = if saved.egress {
        format!(
            "chain out {{ type nat hook postrouting priority 100; ip saddr {subnet} oifname != \"{bridge}\" masquerade\n }}"
        )
    } else {
        format!(
            "chain keep {{ type filter hook forward priority 0; iifname \"{bridge}\" oifname != \"{bridge}\" drop\n }}"
        )
    };
    format!(
        "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n chain guard {{ type filter hook forward priority -10; {guard}\n }}\n {way_out}\n}}\n"
    )
}

fn firewall(saved: &Saved) -> Result<()> {
    nft(&rules(saved)).context("loading the host's packet rules")?;
    if saved.egress {
        let path = "/proc/sys/net/ipv4/ip_forward";
        if fs::read_to_string(path)?.trim() != "1" {
            fs::write(path, "1").with_context(|| format!("setting {path}"))?;
            // So that `down` knows to set it back.
            fs::write(saved.run().join("forwarding-was-off"), "")?;
        }
    }
    open_forwarding(saved)
}

/// A host whose FORWARD chain drops (Docker's does) would drop between our namespaces too, for
/// bridged packets pass it. The rule is at its head and names the bridge.
fn open_forwarding(saved: &Saved) -> Result<()> {
    if !forwarding_drops() {
        return Ok(());
    }
    for side in ["-i", "-o"] {
        let rule = ["FORWARD", side, &saved.bridge(), "-j", "ACCEPT"];
        if iptables(&["-C"], &rule).is_err() {
            iptables(&["-I"], &rule).context("letting the bridge's packets through the host's FORWARD chain")?;
        }
    }
    Ok(())
}

fn forwarding_drops() -> bool {
    iptables(&["-S"], &["FORWARD"]).is_ok_and(|text| text.lines().any(|line| line == "-P FORWARD DROP"))
}

fn iptables(verb: &[&str], rule: &[&str]) -> Result<String> {
    let program = preflight::program("iptables").context("iptables is missing")?;
    let output = Command::new(program).arg("-w").args(verb).args(rule).output()?;
    if !output.status.success() {
        bail!("iptables: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nft(script: &str) -> Result<()> {
    let program = preflight::program("nft").context("nft is missing; apt-get install nftables")?;
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin was asked for")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Unplugs everything of a cluster and removes its namespaces, whatever exists of it.
pub async fn remove(saved: &Saved) -> Result<()> {
    for path in spaces_of(saved) {
        // Again as often as it is mounted: `ip netns add` binds the directory onto itself.
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    let links = Links::new().context("opening a netlink socket")?;
    for (name, _) in links.names().await? {
        if is_of(saved, &name) {
            links.remove(&name).await.with_context(|| format!("removing {name}"))?;
        }
    }
    links.remove(&saved.bridge()).await.context("removing the bridge")?;
    for range in [POD_CIDR, SERVICE_CIDR] {
        links.remove_unreachable(range, saved.metric()).await.context("removing the host's guard routes")?;
    }
    close_firewall(saved)?;
    Ok(())
}

fn close_firewall(saved: &Saved) -> Result<()> {
    if preflight::program("nft").is_some() {
        let table = saved.table();
        nft(&format!("add table ip {table}\ndelete table ip {table}\n")).context("removing the host's packet rules")?;
    }
    for side in ["-i", "-o"] {
        // As often as it is there; it fails when it is not.
        while forwarding_drops() && iptables(&["-D"], &["FORWARD", side, &saved.bridge(), "-j", "ACCEPT"]).is_ok() {}
    }
    if saved.run().join("forwarding-was-off").exists() && others(saved).is_empty() {
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").context("switching forwarding off again")?;
    }
    Ok(())
}

/// Other local clusters of this machine.
fn others(saved: &Saved) -> Vec<String> {
    let entries = fs::read_dir("/run/kontiki").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| *name != saved.name && !name.starts_with('.'))
        .collect()
}

/// `NAME-s1`, `NAME-a2`, and the far end of a cable that was never moved.
pub fn is_of(saved: &Saved, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(&saved.name).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let rest = rest.strip_suffix("-t").unwrap_or(rest);
    let number = rest.strip_prefix(['s', 'a']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
}

/// Paths of the namespaces of a cluster that exist.
pub fn spaces_of(saved: &Saved) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(SPACES).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| is_of(saved, name)))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_match() {
        let saved = Saved::nameless(Some("lab"), "/d".into()).unwrap();
        for (name, ours) in [
            ("lab-s1", true),
            ("lab-a12", true),
            ("lab-a1-t", true),
            ("lab-s", false),
            ("lab2-s1", false),
            ("lab-x1", false),
            ("lab0", false),
            ("lab-s1x", false),
        ] {
            assert_eq!(is_of(&saved, name), ours, "{name}");
        }
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape("/plain"), "/plain");
    }
}
