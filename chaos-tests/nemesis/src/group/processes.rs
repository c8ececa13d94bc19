//! The members' processes: started, signalled, ended, and what they said.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::{CLIENT_PORT, DISK, Group, POLL, Store, name, peer_url};
use crate::{disk::Disk, network::address};

/// After SIGTERM.
const STOP: Duration = Duration::from_secs(20);
/// Of a log's line, in characters.
const LINE: usize = 240;

impl Group {
    /// Starts a member that is not running.
    ///
    /// # Errors
    /// Its disk cannot be mounted, or the program not be started.
    pub fn run(&mut self, slot: usize) -> Result<()> {
        if self.slots[slot].child.is_some() {
            return Ok(());
        }
        if self.slots[slot].disk.is_none() {
            self.slots[slot].disk = Some(Disk::create(self.files.path(), &name(slot), DISK)?);
        }
        self.disk(slot)?.mount()?;
        let data = self.data(slot);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log(slot))?;
        self.slots[slot].log_start = log.metadata()?.len();
        let mut command = self.command(slot, &data)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.slots[slot].child = Some(command.spawn().with_context(|| format!("starting {}", name(slot)))?);
        self.slots[slot].excused = false;
        Ok(())
    }

    fn command(&self, slot: usize, data: &Path) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network.path(slot)));
        if let Some(shim) = &self.shim {
            let file = self.clock_file(slot);
            if !file.exists() {
                fs::write(&file, 0_i64.to_ne_bytes())?;
            }
            command.arg("env").arg(format!("LD_PRELOAD={}", shim.display()));
            command.arg(format!("NEMESIS_CLOCK={}", file.display()));
        }
        let program = &self.slots[slot].program;
        command.arg(&program.binary);
        if self.setup.store == Store::Kontiki {
            command.arg("store");
        }
        let (certs, (cluster, state)) = (&self.slots[slot].certs, &self.slots[slot].start);
        let client = format!("https://{}:{CLIENT_PORT}", address(slot));
        let peer = peer_url(slot);
        command.args(["--name", &name(slot)]).arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", cluster, "--initial-cluster-state", state]);
        for side in ["", "peer-"] {
            command.arg(format!("--{side}trusted-ca-file")).arg(&certs.ca);
            command.arg(format!("--{side}cert-file")).arg(&certs.cert);
            command.arg(format!("--{side}key-file")).arg(&certs.key);
            command.arg(format!("--{side}client-cert-auth"));
        }
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        command.args(&program.args).envs(program.env.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }

    /// Sends a signal to a member that runs.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, slot: usize, signal: Signal) -> Result<()> {
        let child = self.slots[slot].child.as_ref().with_context(|| format!("{} does not run", name(slot)))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", name(slot)))
    }

    /// kill -9, and waits for the end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self, slot: usize) -> Result<()> {
        self.note_death(slot);
        if let Some(mut child) = self.slots[slot].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(&mut self, slot: usize) -> Result<()> {
        self.note_death(slot);
        let Some(mut child) = self.slots[slot].child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop within {} s of SIGTERM", name(slot), STOP.as_secs());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until a member ends by itself, as it is meant to.
    ///
    /// # Errors
    /// It still runs after `limit`, or was not running.
    pub async fn ends(&mut self, slot: usize, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let child = self.slots[slot].child.as_mut();
            let ended = child.with_context(|| format!("{} does not run", name(slot)))?.try_wait()?;
            if let Some(status) = ended {
                self.slots[slot].child = None;
                return Ok(status);
            }
            let text = || format!("{} runs on after {} s:\n{}", name(slot), limit.as_secs(), self.tail(slot, 12));
            ensure!(Instant::now() < deadline, text());
            sleep(POLL).await;
        }
    }

    pub(super) fn note_death(&mut self, slot: usize) {
        let ended = self.slots[slot].child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let Some(status) = ended else { return };
        self.slots[slot].child = None;
        if !self.slots[slot].excused {
            self.deaths.push(format!("{} ended by itself ({status}):\n{}", name(slot), self.tail(slot, 12)));
        }
    }

    /// What a member has said since its last start.
    #[must_use]
    pub fn said(&self, slot: usize) -> String {
        let log = fs::read(self.log(slot)).unwrap_or_default();
        let start = usize::try_from(self.slots[slot].log_start).unwrap_or(usize::MAX).min(log.len());
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    /// The last lines of a member's log.
    #[must_use]
    pub fn tail(&self, slot: usize, lines: usize) -> String {
        let log = fs::read(self.log(slot)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut tail: Vec<String> =
            log.lines().rev().take(lines).map(|line| line.chars().take(LINE).collect()).collect();
        tail.reverse();
        tail.join("\n")
    }
}
