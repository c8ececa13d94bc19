//! Processes under test: how they are started and ended, what they have used of the machine.
//!
//! Invariants
//! - A [`Daemon`] ends with its value, by its own process id.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long one that was asked to end may take.
const END: Duration = Duration::from_secs(120);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Daemon {
    command: Command,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says goes to the file `log`.
    ///
    /// # Errors
    /// The program is not there, or the file cannot be written.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { command, child, log })
    }

    /// Ends it at once and without a word to it (SIGKILL).
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it in order, if it runs, which keeps whoever asks waiting, and starts it anew.
    ///
    /// # Errors
    /// It does not end, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        }
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(asked.elapsed() < END, "it does not end:\n{}", self.tail(15));
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = self.command.spawn().with_context(|| format!("starting {:?}", self.command))?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// It has ended; the text holds what it said last.
    pub fn running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "it ended with {ended:?}:\n{}", tail(&self.log, 15));
        Ok(())
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

fn tail(log: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    format!("{}:\n  {}", log.display(), all[all.len().saturating_sub(lines)..].join("\n  "))
}

/// User and system seconds of a process, with those of its threads that have ended.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; what follows it starts with the third field.
    let rest = stat.rsplit_once(") ").context("a stat line")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let (user, system): (u64, u64) = (fields[11].parse()?, fields[12].parse()?);
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("clock ticks")?;
    #[expect(clippy::cast_precision_loss, reason = "seconds of one process are far below 2^52 ticks")]
    Ok((user + system) as f64 / ticks as f64)
}

/// Resident bytes, counted page by page: the sum in `status` lags behind by what each thread has not told yet.
///
/// # Errors
/// There is no such process.
pub fn rss(pid: u32) -> Result<u64> {
    bytes(&format!("/proc/{pid}/smaps_rollup"), "Rss:")
}

/// The most bytes that were resident since [`forget_peak`], or since the start.
///
/// # Errors
/// There is no such process.
pub fn peak_rss(pid: u32) -> Result<u64> {
    bytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// From now on the peak is that of what comes.
///
/// # Errors
/// There is no such process, or it is another user's.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("writing {path}"))
}

fn bytes(path: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("{key} in {path}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let pid = std::process::id();
        let before = rss(pid).expect("our own memory");
        forget_peak(pid).expect("our own peak");
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        let grown = peak_rss(pid).expect("our own peak").saturating_sub(before);
        assert!(grown >= 60 << 20, "{grown} bytes after 64 MiB were written");
        assert!(cpu_seconds(pid).expect("our own time") > 0.0);
        assert!(rss(u32::MAX >> 1).is_err());
    }
}
