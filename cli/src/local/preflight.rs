//! What must be so before anything is started; each miss is one line that says how to mend it.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use kontiki_net::link::Links;

use super::plan::Saved;

/// Programs and the packages that bring them. `up` itself uses only some; the rest is the agents'.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("busybox", "busybox-static"),
];
const PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
pub const PLUGIN_DIR: &str = "/usr/lib/cni";
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where a program is.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let listed = path.split(':').filter(|dir| !dir.is_empty()).chain(DIRECTORIES);
    listed.map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// Only root may make namespaces.
pub fn root(command: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("`kontiki {command}` makes network namespaces and containers and needs root: run it with sudo")
}

/// All programs are there.
pub fn programs() -> Result<()> {
    let mut packages: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| program(name).is_none()).map(|(_, package)| *package).collect();
    if PLUGINS.iter().any(|plugin| !Path::new(PLUGIN_DIR).join(plugin).exists()) {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    if !packages.is_empty() {
        let list = packages.join(" ");
        bail!("not installed: {list}; run deploy/install.sh, or: apt-get install {list}");
    }
    let busybox = program("busybox").unwrap_or_default();
    if !is_static(&busybox) {
        bail!(
            "{} is not statically linked and cannot run in an image of its own; apt-get install busybox-static",
            busybox.display()
        );
    }
    Ok(())
}

/// A program without an interpreter segment needs no libraries.
fn is_static(program: &Path) -> bool {
    let Ok(bytes) = std::fs::read(program) else { return false };
    let at = |place: usize, size: usize| bytes.get(place..place + size);
    let number = |place: usize, size: usize| {
        at(place, size).map(|b| b.iter().rev().fold(0_usize, |n, byte| (n << 8) | usize::from(*byte)))
    };
    // 64-bit little-endian ELF: program headers from byte 32, their size at 54, their count at 56.
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return false };
    const INTERPRETER: usize = 3;
    at(0, 5) == Some(b"\x7fELF\x02")
        && (0..count).all(|i| number(start.saturating_add(i * size), 4).is_some_and(|kind| kind != INTERPRETER))
}

/// No other interface and no route of the host has addresses of the subnet.
pub async fn subnet(saved: &Saved, links: &Links) -> Result<()> {
    let names = links.names().await?;
    let name_of =
        |index: u32| names.iter().find(|(_, i)| *i == index).map_or("?", |(name, _)| name.as_str()).to_owned();
    for (index, net) in links.networks().await? {
        let overlaps = net.trunc().contains(&saved.subnet.network()) || saved.subnet.contains(&net.network());
        if overlaps && name_of(index) != saved.bridge() {
            bail!("the subnet {} is in use: {} has {net}; choose another with --subnet", saved.subnet, name_of(index));
        }
    }
    for route in links.routes().await? {
        let (Some(range), Some(output)) = (kontiki_net::link::destination(&route), kontiki_net::link::output(&route))
        else {
            continue;
        };
        let inside = range.prefix_len() > 0
            && (range.contains(&saved.subnet.network()) || saved.subnet.contains(&range.network()));
        if inside && range.network() != Ipv4Addr::LOCALHOST && name_of(output) != saved.bridge() {
            bail!(
                "the subnet {} is in use: a route to {range} leaves by {}; choose another with --subnet",
                saved.subnet,
                name_of(output)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        // The running test is dynamically linked; a script is no program at all.
        assert!(!super::is_static(&std::env::current_exe().unwrap()));
        assert!(!super::is_static(std::path::Path::new("/etc/passwd")));
        if let Some(busybox) = super::program("busybox") {
            let expected =
                !String::from_utf8_lossy(&std::process::Command::new("ldd").arg(&busybox).output().unwrap().stdout)
                    .contains("=>");
            assert_eq!(super::is_static(&busybox), expected);
        }
    }
}
