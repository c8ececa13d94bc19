//! Facts about the machine that do not change while the agent runs.

use std::path::Path;

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub cpus: u64,
    pub memory: u64,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
    pub swap: u64,
    /// `containerd://1.6.20`, once known.
    pub runtime: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A line `key: 123 kB` of /proc/meminfo, in bytes.
#[must_use]
pub fn meminfo(key: &str) -> Option<u64> {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Size and free bytes of the file system that holds `path`, and its inodes.
#[must_use]
pub fn disk(path: &Path) -> Option<Disk> {
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
pub struct Disk {
    pub size: u64,
    pub free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Host {
    /// Looks around.
    #[must_use]
    pub fn probe() -> Self {
        let release = read("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo("MemTotal").unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            swap: meminfo("SwapTotal").unwrap_or(0),
            runtime: String::new(),
        }
    }
}

/// The machine's architecture, as Go names it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
