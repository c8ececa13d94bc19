//! Network namespaces for members and clients around a switch of their own.
//!
//! Nothing is put on the host's interfaces: every veth pair is born between two namespaces of this run,
//! whose names carry its process id. Faults are rules and queues at the switch, so that neither a member
//! nor a client can tell them from a bad cable.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::tool::{run, run_with};

const NAMESPACES: &str = "/run/netns";

/// The namespaces of one run.
pub struct Network {
    name: String,
    slots: usize,
}

impl Network {
    /// Makes the switch, the clients' namespace and one for each member there may ever be.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn create(slots: usize) -> Result<Self> {
        clean()?;
        let network = Self { name: format!("kn{}", std::process::id()), slots };
        let switch = network.switch();
        run(&format!("ip netns add {switch}"))?;
        run(&format!("ip -n {switch} link add br0 type bridge"))?;
        run(&format!("ip -n {switch} link set br0 up"))?;
        network.attach(&network.clients(), "c", Ipv4Addr::new(10, 77, 0, 100))?;
        for slot in 0..slots {
            network.attach(&network.member(slot), &port(slot), address(slot))?;
        }
        Ok(network)
    }

    fn attach(&self, namespace: &str, port: &str, address: Ipv4Addr) -> Result<()> {
        let switch = self.switch();
        run(&format!("ip netns add {namespace}"))?;
        run(&format!("ip link add name eth0 netns {namespace} type veth peer name {port} netns {switch}"))?;
        run(&format!("ip -n {switch} link set {port} master br0 up"))?;
        run(&format!("ip -n {namespace} address add {address}/24 dev eth0"))?;
        run(&format!("ip -n {namespace} link set eth0 up"))?;
        run(&format!("ip -n {namespace} link set lo up"))?;
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    fn clients(&self) -> String {
        format!("{}-c", self.name)
    }

    /// The namespace of a member.
    #[must_use]
    pub fn member(&self, slot: usize) -> String {
        format!("{}-{}", self.name, slot + 1)
    }

    /// Where a member's namespace can be entered.
    #[must_use]
    pub fn path(&self, slot: usize) -> String {
        format!("{NAMESPACES}/{}", self.member(slot))
    }

    /// Moves the calling thread, and those it will start, to where the clients are.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter(&self) -> Result<()> {
        let path = Path::new(NAMESPACES).join(self.clients());
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("entering the clients' namespace")
    }

    /// Drops what `rules` say, and nothing else: a line each, of the bridge's forward chain.
    ///
    /// # Errors
    /// nft refuses them.
    pub fn rules(&self, rules: &[String]) -> Result<()> {
        let chain = format!("type filter hook forward priority 0; policy accept;\n{}", rules.join("\n"));
        let table = format!(
            "table bridge faults\ndelete table bridge faults\ntable bridge faults {{ chain forward {{ {chain}\n}}\n}}\n"
        );
        run_with(&format!("ip netns exec {} nft -f -", self.switch()), Some(&table)).map(drop)
    }

    /// A rule that drops packets from one member to another.
    #[must_use]
    pub fn cut(from: usize, to: usize) -> String {
        format!("iifname \"{}\" oifname \"{}\" drop", port(from), port(to))
    }

    /// A rule that drops some of the packets to a member.
    #[must_use]
    pub fn lose(to: usize, percent: u32) -> String {
        format!("oifname \"{}\" numgen random mod 100 < {percent} drop", port(to))
    }

    /// Pulls a member's cable, or plugs it in.
    ///
    /// # Errors
    /// The link is gone.
    pub fn link(&self, slot: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        run(&format!("ip -n {} link set {} {state}", self.switch(), port(slot))).map(drop)
    }

    /// Lets a member receive no faster than this, with up to 400 ms of packets waiting.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn slow(&self, slot: usize, kilobits: u32) -> Result<()> {
        let (switch, port) = (self.switch(), port(slot));
        run(&format!("tc -n {switch} qdisc replace dev {port} root tbf rate {kilobits}kbit burst 4kb latency 400ms"))
            .map(drop)
    }

    /// Undoes every fault.
    ///
    /// # Errors
    /// A link or the switch is gone.
    pub fn heal(&self) -> Result<()> {
        self.rules(&[])?;
        for slot in 0..self.slots {
            self.link(slot, true)?;
            // Fails where there is none.
            run(&format!("tc -n {} qdisc del dev {} root", self.switch(), port(slot))).ok();
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name).ok();
    }
}

/// The address of a member.
#[must_use]
pub fn address(slot: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(slot + 1).expect("a handful of members"))
}

/// The same, as any address.
#[must_use]
pub fn ip(slot: usize) -> IpAddr {
    IpAddr::V4(address(slot))
}

fn port(slot: usize) -> String {
    format!("m{}", slot + 1)
}

/// Takes away what runs left behind that were killed: only those whose process is gone.
fn clean() -> Result<()> {
    let list = run("ip netns list")?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter_map(|name| name.strip_suffix("-sw")) {
        let pid = name.strip_prefix("kn").and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(name)?;
        }
    }
    Ok(())
}

/// Ends what runs in a run's namespaces, and removes them.
fn remove(name: &str) -> Result<()> {
    let list = run("ip netns list")?;
    let prefix = format!("{name}-");
    let own = list.lines().filter_map(|line| line.split_whitespace().next()).filter(|own| own.starts_with(&prefix));
    for namespace in own {
        let inside =
            if namespace.ends_with("-c") { String::new() } else { run(&format!("ip netns pids {namespace}"))? };
        for pid in inside.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
        run(&format!("ip netns del {namespace}"))?;
    }
    Ok(())
}
