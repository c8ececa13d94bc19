//! The audit log: one JSON line a record, in files that are rotated by size and forgotten by number and age, as upstream's
//! log backend does it.
//!
//! Invariants
//! - Requests never wait for the disk: records go through a bounded queue to a thread. What finds no room is counted and
//!   not written; the next line that is says how many were lost.
//! - Files are readable by their owner alone: they hold names, and with some policies what was sent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use kontiki_api::audit::Sink;
use kontiki_machinery::{audit::Policy, decode::decode_yaml};
use kontiki_model::metrics::{Kind, single};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::error;

/// Records that wait to be written.
const QUEUE: usize = 10_000;
/// Records that are written before the disk is told.
const BATCH: usize = 256;

/// What is recorded of requests, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditOptions {
    /// File of the policy (`audit.k8s.io/v1`).
    pub policy_file: PathBuf,
    /// File of the log.
    pub log_file: PathBuf,
    /// Megabytes after which a new file is begun.
    #[serde(default = "megabytes")]
    pub max_size: u64,
    /// Older files that are kept.
    #[serde(default = "backups")]
    pub max_backups: usize,
    /// Days after which older files are forgotten; 0: never.
    #[serde(default)]
    pub max_age: u64,
}

fn megabytes() -> u64 {
    100
}

fn backups() -> usize {
    10
}

/// Takes records.
pub struct Log {
    queue: SyncSender<String>,
    written: Arc<AtomicU64>,
    lost: AtomicU64,
}

impl Sink for Log {
    fn record(&self, event: &Value) {
        if self.queue.try_send(event.to_string()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Log {
    /// Writes the series.
    pub fn write(&self, out: &mut String) {
        let (written, lost) = (self.written.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed));
        single(out, "apiserver_audit_event_total", Kind::Counter, "Audit records that were written.", written);
        single(out, "kontiki_audit_lost_total", Kind::Counter, "Audit records for which there was no room.", lost);
    }
}

impl AuditOptions {
    /// The policy, and where records go.
    ///
    /// # Errors
    /// The policy cannot be used, or the log not written.
    pub fn open(&self) -> anyhow::Result<(Policy, Arc<Log>)> {
        let shown = || format!("audit.policy_file: {}", self.policy_file.display());
        let text = fs::read(&self.policy_file).with_context(shown)?;
        let document = decode_yaml(&text).with_context(shown)?.value;
        let policy = Policy::read(document).map_err(anyhow::Error::msg).with_context(shown)?;
        let files = Files::open(self).with_context(|| format!("audit.log_file: {}", self.log_file.display()))?;
        let (queue, records) = sync_channel(QUEUE);
        let written = Arc::new(AtomicU64::new(0));
        let log = Log { queue, written: written.clone(), lost: AtomicU64::new(0) };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || run(files, &records, &written))?;
        Ok((policy, Arc::new(log)))
    }
}

/// Writes until nobody sends any more.
fn run(mut files: Files, records: &Receiver<String>, written: &AtomicU64) {
    let mut failed = false;
    while let Ok(first) = records.recv() {
        let batch: Vec<String> = std::iter::once(first).chain(records.try_iter().take(BATCH - 1)).collect();
        match files.write(&batch, Timestamp::now()) {
            Ok(()) => {
                failed = false;
                written.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            // Once: what fails, fails for every record.
            Err(error) if !failed => {
                failed = true;
                error!(%error, "the audit log cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// The file that is written, and the older ones beside it.
struct Files {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_backups: usize,
    max_age: Option<Duration>,
}

impl Files {
    fn open(options: &AuditOptions) -> io::Result<Self> {
        let file = append(&options.log_file)?;
        Ok(Self {
            path: options.log_file.clone(),
            size: file.metadata()?.len(),
            file,
            max_size: options.max_size.max(1) << 20,
            max_backups: options.max_backups,
            max_age: (options.max_age > 0).then(|| Duration::from_secs(options.max_age * 86_400)),
        })
    }

    fn write(&mut self, lines: &[String], now: Timestamp) -> io::Result<()> {
        for line in lines {
            let length = line.len() as u64 + 1;
            if self.size > 0 && self.size + length > self.max_size {
                self.rotate(now)?;
            }
            self.file.write_all(format!("{line}\n").as_bytes())?;
            self.size += length;
        }
        Ok(())
    }

    /// Begins a new file. The old one is called after the time.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let (stem, extension) = self.parts();
        let time = now.strftime("%Y-%m-%dT%H-%M-%S.%6f");
        fs::rename(&self.path, self.path.with_file_name(format!("{stem}-{time}{extension}")))?;
        (self.file, self.size) = (append(&self.path)?, 0);
        self.forget(now)
    }

    /// `audit` and `.log` of `/var/log/audit.log`.
    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let extension = text(self.path.extension()).map(|extension| format!(".{extension}")).unwrap_or_default();
        (text(self.path.file_stem()).unwrap_or_default(), extension)
    }

    /// Removes the oldest files beyond those that are kept.
    fn forget(&self, now: Timestamp) -> io::Result<()> {
        let (stem, extension) = self.parts();
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut older = Vec::new();
        for entry in fs::read_dir(parent)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if let Some(time) = time.and_then(time_of) {
                older.push((time, parent.join(name)));
            }
        }
        older.sort();
        let surplus = older.len().saturating_sub(self.max_backups);
        let old = |time: Timestamp| self.max_age.is_some_and(|age| now.duration_since(time).unsigned_abs() > age);
        for (at, (time, path)) in older.iter().enumerate() {
            if at < surplus || old(*time) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// The time in the name of an older file.
fn time_of(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T')?;
    format!("{day}T{}Z", time.replacen('-', ":", 2)).parse().ok()
}

fn append(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    // One that was there before may be open to others.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, max_backups: usize, max_age: u64) -> Files {
        let options = AuditOptions {
            policy_file: PathBuf::new(),
            log_file: dir.join("audit.log"),
            max_size: 1,
            max_backups,
            max_age,
        };
        Files::open(&options).expect("opened")
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).expect("read").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_rotated_by_size_and_forgotten_by_number_and_age() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("audit-of-somebody.log"), "x").expect("written");
        let day = |day: u32| format!("2026-01-0{day}T00:00:00Z").parse::<Timestamp>().expect("time");
        let half = "x".repeat(600 << 10);
        let mut log = files(dir.path(), 2, 0);
        for at in 1..=4 {
            log.write(std::slice::from_ref(&half), day(at)).expect("written");
        }
        let kept = [
            "audit-2026-01-03T00-00-00.000000.log",
            "audit-2026-01-04T00-00-00.000000.log",
            "audit-of-somebody.log",
            "audit.log",
        ];
        assert_eq!(names(dir.path()), kept, "each begins when the one before is full");
        assert_eq!(fs::metadata(dir.path().join("audit.log")).expect("there").permissions().mode() & 0o777, 0o600);
        // Goes on where it was, and forgets what is older than a day.
        let mut log = files(dir.path(), 2, 1);
        log.write(&[half], day(5)).expect("written");
        assert_eq!(
            names(dir.path()),
            [
                "audit-2026-01-04T00-00-00.000000.log",
                "audit-2026-01-05T00-00-00.000000.log",
                "audit-of-somebody.log",
                "audit.log"
            ]
        );
    }
}
