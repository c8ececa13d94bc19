//! Processes of the local cluster: starting them in a namespace, finding them again, stopping them.
//!
//! Invariants
//! - A pid file alone proves nothing: the process must have the argument that names its own
//!   configuration, which no other process has. So a reused pid is never taken for ours.
//! - A process is started by exec of one binary in one namespace; nothing of `up` lives on in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::progress::{Seen, wait};

/// Longest that a process may take to give back its memory on a busy machine.
const BURIAL: Duration = Duration::from_secs(60);
/// The kernel's mark of a thread that ends.
const EXITING: u32 = 4;
/// The signal in a mask of signals.
const SIGKILL: u64 = 1 << 8;

/// A daemon as `up` knows it.
pub struct Daemon {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub pid_file: PathBuf,
    pub log: PathBuf,
    /// The argument that tells it from every other process.
    pub mark: String,
    /// Path of its network namespace.
    pub space: PathBuf,
    /// For messages.
    pub what: String,
}

impl Daemon {
    /// Its pid, if it runs and has not been killed.
    pub fn pid(&self) -> Option<Pid> {
        let pid = self.recorded()?;
        (is(pid.as_raw(), &self.mark) && life(pid) == Life::Runs).then_some(pid)
    }

    fn recorded(&self) -> Option<Pid> {
        fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// Waits for the end of one that was killed: until its last thread has gone, files are locked and ports taken.
    pub async fn buried(&self) -> Result<()> {
        let Some(pid) = self.recorded() else { return Ok(()) };
        wait(&format!("the end of {} that was killed", self.what), BURIAL, async || {
            Ok(match life(pid) {
                Life::Leaves => Seen::NotYet(format!("process {pid} is still ending")),
                Life::Runs | Life::Gone => Seen::Yes(()),
            })
        })
        .await
    }

    /// Starts it, unless it runs. The second value is whether it was started now.
    pub fn ensure(&self) -> Result<bool> {
        if self.pid().is_some() {
            return Ok(false);
        }
        // A pid file can be lost while the process lives (a crash of `up` between the two).
        if let Some(pid) = find(&self.mark) {
            self.record(pid)?;
            return Ok(false);
        }
        let pid = self.spawn().with_context(|| format!("starting {}", self.what))?;
        self.record(pid)?;
        Ok(true)
    }

    fn record(&self, pid: i32) -> Result<()> {
        fs::write(&self.pid_file, format!("{pid}\n")).with_context(|| format!("writing {}", self.pid_file.display()))
    }

    /// Starts it. When this returns, its arguments can be read, or it has ended.
    fn spawn(&self) -> Result<i32> {
        let space =
            File::open(&self.space).with_context(|| format!("opening the namespace {}", self.space.display()))?;
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        let _ = writeln!(log, "--- kontiki up: {} {}", self.program.display(), self.args.join(" "));
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        let fd = space.as_raw_fd();
        // SAFETY: only async-signal-safe calls (setns, setsid) between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // Away from the terminal: its signals are for `up`, not for the cluster.
                libc::setsid();
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("running {}", self.program.display()))?;
        let pid = i32::try_from(child.id()).context("a pid")?;
        // While others are started as well, one is reported a moment before its arguments can be read.
        while arguments(pid).is_none() && !gone(Pid::from_raw(pid)) {
            std::thread::yield_now();
        }
        Ok(pid)
    }

    /// An error that says why it is not running, if it is not.
    pub fn check(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        anyhow::bail!("{} stopped: {} (log: {})", self.what, last_words(&self.log), self.log.display())
    }
}

/// The last line of a log that says anything, without its time stamp's noise.
pub fn last_words(log: &Path) -> String {
    let tail = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--- kontiki up"));
    // The line that the process ended with, if it is ours; else whatever came last.
    lines()
        .rfind(|line| line.starts_with("kontiki: "))
        .or_else(|| lines().next_back())
        .unwrap_or("its log is empty")
        .to_owned()
}

/// Whether the process has `mark` among its arguments (and is not dead but unburied).
fn is(pid: i32, mark: &str) -> bool {
    arguments(pid).is_some_and(|args| args.iter().any(|arg| arg == mark))
}

/// A process's arguments; none for kernel threads and zombies.
pub fn arguments(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let args: Vec<String> = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    (!args.iter().all(String::is_empty)).then_some(args)
}

/// All processes.
pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn find(mark: &str) -> Option<i32> {
    pids().into_iter().find(|pid| is(*pid, mark) && life(Pid::from_raw(*pid)) == Life::Runs)
}

/// How far a process is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Runs,
    /// It has been killed, and some thread of it still holds what it had.
    Leaves,
    /// Nothing of it is left, but that its parent has not noticed.
    Gone,
}

fn life(pid: Pid) -> Life {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    // In this order: the mark of ending comes before the signal is no longer pending.
    match (read("status"), read("stat")) {
        (Ok(status), Ok(stat)) => life_of(&stat, &status, threads),
        _ => Life::Gone,
    }
}

/// By what `/proc/PID/stat` and `status` say of its first thread.
fn life_of(stat: &str, status: &str, threads: usize) -> Life {
    let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    let buried = fields.next().is_none_or(|state| ["Z", "X", "x"].contains(&state));
    let flags: u32 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or_default();
    let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    let killed = pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & SIGKILL != 0);
    match (buried, flags & EXITING != 0 || killed) {
        (true, _) if threads <= 1 => Life::Gone,
        (true, _) | (_, true) => Life::Leaves,
        (false, false) => Life::Runs,
    }
}

/// Whether a process is gone. One that only waits for its parent to notice counts as gone.
pub fn gone(pid: Pid) -> bool {
    life(pid) == Life::Gone
}

/// Asks processes to end, then makes them. Frozen ones are woken, or they would never hear it.
pub async fn stop(pids: Vec<Pid>, patience: Duration) -> Result<()> {
    for pid in &pids {
        let _ = kill(*pid, Signal::SIGTERM);
        let _ = kill(*pid, Signal::SIGCONT);
    }
    let left = || pids.iter().copied().filter(|pid| !gone(*pid)).collect::<Vec<_>>();
    let all_gone = async || {
        let left = left();
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("still running: {left:?}")) })
    };
    if wait("processes ending", patience, &all_gone).await.is_ok() {
        return Ok(());
    }
    for pid in left() {
        let _ = kill(pid, Signal::SIGKILL);
    }
    wait("processes ending after SIGKILL", Duration::from_secs(10), &all_gone).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path, number: u32) -> Daemon {
        let mark = format!("{}.{number}", 3600 + std::process::id());
        Daemon {
            program: super::super::preflight::program("sleep").unwrap(),
            args: vec![mark.clone()],
            pid_file: dir.join(format!("pid{number}")),
            log: dir.join("log"),
            mark,
            space: "/proc/self/ns/net".into(),
            what: "a long sleep".into(),
        }
    }

    #[test]
    fn who_was_killed_leaves_until_its_last_thread_is_gone() {
        let masks = |private: &str, shared: &str| format!("Name:\ts\nSigPnd:\t{private}\nShdPnd:\t{shared}\n");
        let (none, kill) = ("0000000000000000", "0000000000000100");
        for (name, stat, status, threads, expect) in [
            ("it runs", "7 (a) b) S 1 7 7 0 -1 4194560 1", masks(none, none), 9, Life::Runs),
            ("it is frozen", "7 (s) T 1 7 7 0 -1 4194560 1", masks(none, none), 9, Life::Runs),
            ("the signal has not been noticed", "7 (s) S 1 7 7 0 -1 4194560 1", masks(kill, none), 9, Life::Leaves),
            ("nor this one", "7 (s) S 1 7 7 0 -1 4194560 1", masks(none, kill), 9, Life::Leaves),
            ("it gives its memory back", "7 (s) R 1 7 7 0 -1 4194564 1", masks(none, none), 1, Life::Leaves),
            ("other threads do", "7 (s) Z 1 7 7 0 -1 4227084 1", masks(none, none), 3, Life::Leaves),
            ("nobody has noticed its end", "7 (s) Z 1 7 7 0 -1 4227084 1", masks(none, none), 1, Life::Gone),
        ] {
            assert_eq!(life_of(stat, &status, threads), expect, "{name}");
        }
    }

    #[tokio::test]
    async fn who_was_killed_a_moment_ago_is_started_again() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to enter a network namespace");
            return;
        }
        let dir = std::env::temp_dir().join(format!("kontiki-again-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let daemon = sleeper(&dir, 9);
        for turn in 0..100 {
            daemon.buried().await.unwrap();
            assert!(daemon.ensure().unwrap(), "it was started, {turn}");
            daemon.check().expect("it runs");
            kill(daemon.recorded().expect("a pid"), Signal::SIGKILL).unwrap();
            assert_eq!(daemon.pid(), None, "{turn}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_was_started_is_seen_to_run_at_once() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to enter a network namespace");
            return;
        }
        let dir = std::env::temp_dir().join(format!("kontiki-process-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let story = |number| {
            let daemon = sleeper(&dir, number);
            for _ in 0..500 {
                let pid = daemon.spawn().unwrap();
                let seen = is(pid, &daemon.mark);
                let pid = Pid::from_raw(pid);
                kill(pid, Signal::SIGKILL).unwrap();
                nix::sys::wait::waitpid(pid, None).unwrap();
                assert!(seen, "{pid} runs");
            }
        };
        // Side by side: one start in some thousands was reported too early, and never one alone.
        std::thread::scope(|scope| (1..=4).for_each(|number| drop(scope.spawn(move || story(number)))));
        fs::remove_dir_all(&dir).unwrap();
    }
}
