//! Facts about the machine that do not change while the agent runs.

use std::path::Path;

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    /// `containerd://1.6.20`, once known.
    pub(crate) runtime: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A line `key: 123 kB` of /proc/meminfo, in bytes.
pub(crate) fn meminfo(key: &str) -> Option<u64> {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Size and free bytes of the file system that holds `path`, and its inodes.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    Some(Disk {
        size: stat.blocks() * block,
        free: stat.blocks_available() * block,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// A file system's figures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    pub(crate) free: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl Host {
    /// Looks around.
    pub(crate) fn probe() -> Self {
        let release = read("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo("MemTotal").unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            runtime: String::new(),
        }
    }
}

/// The machine's architecture, as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// CPU time of the machine since its start, idle time left out.
pub(crate) fn cpu_nanoseconds() -> u64 {
    const TICK: u64 = 10_000_000; // USER_HZ is 100 wherever Linux shows it to programs
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let busy = ticks.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, t)| t).sum::<u64>();
    busy * TICK
}
