//! The one thread that writes to the database.
//!
//! Invariants
//! - Jobs reach the disk in the order they were sent. Whatever waits while a write is in progress
//!   goes into the next one: one batch, and one sync if any job of it needs durability.
//! - Nothing is reported durable before the sync that covers it returned.
//! - A full disk is waited out, not reported: raft stays alive, nothing is acknowledged meanwhile,
//!   and new writes are refused by whoever looks at [`BatchWriter`]. Any other error is final.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    disk::db::{Batch, Db, Families, Family},
    disk::entry::{entry_value, log_key},
    rt::{self, Instant},
    types::{LogEntry, LogId, TypeConfig, Vote, WriteRaft as _},
};
use kontiki_state::{
    Revision,
    codec::Writer as Encoder,
    planted::{self, Bug},
    rows::{LeaseRow, MEMBERSHIP_KEY, STATE_KEY, StateRecord, lease_key, lease_value, mark_key, mark_value},
};

/// Jobs that may wait. Beyond it senders wait, which slows proposing down to what the disk takes.
const QUEUE: usize = 4096;
/// Jobs merged into one write.
const BATCH: usize = 1024;
/// Rows that may be left for the next job.
const LANE: usize = 512;
/// Writes between two looks at the size of the database's log.
const STRETCH: u64 = 64;
/// How often a write is tried again while the disk is full.
const FULL_RETRY: Duration = Duration::from_millis(200);

pub(crate) const VOTE_KEY: &[u8] = b"vote";
pub(crate) const PURGED_KEY: &[u8] = b"purged";

type Done = oneshot::Sender<io::Result<()>>;

/// One thing to write.
pub(crate) enum Job {
    /// Log entries; durable when reported.
    Append { entries: Vec<LogEntry>, flushed: IOFlushed<TypeConfig> },
    /// The vote; durable when reported.
    Vote { vote: Vote, done: Done },
    /// Drops log entries from an index on; durable when reported.
    Truncate { from: u64, done: Done },
    /// Drops log entries up to and including one.
    Purge { upto: LogId, done: Done },
    /// What applying entries changed, in order. Not synced: the log can tell it again.
    Apply(Vec<Rows>),
    /// Reports when all before it is written.
    Barrier { done: Done },
}

/// The state machine's part of a write.
pub(crate) struct Rows {
    pub rows: Vec<(Vec<u8>, bytes::Bytes)>,
    pub leases: Vec<LeaseRow>,
    pub record: StateRecord,
    /// The second in which they were applied.
    pub second: u64,
    /// JSON, if the membership changed.
    pub membership: Option<Vec<u8>>,
}

/// Writes batches to the disk, and waits while that is full. What it knows of how the disk does is read by anyone.
pub(crate) struct BatchWriter {
    /// A write failed for lack of space and is being tried again.
    pub full: AtomicBool,
    /// When the write in progress began, if one that must be durable is in progress.
    busy: Mutex<Option<Instant>>,
    /// Told by `shutdown`: give up on a full disk.
    stopping: AtomicBool,
    /// Log entries below this index, of those sent so far, are in the database.
    log_written: AtomicU64,
    /// Rows up to this revision are in the database.
    persisted: watch::Sender<Revision>,
    /// Bytes of all batches.
    bytes: AtomicU64,
    /// Bytes of rows, about, that were deleted.
    deleted: AtomicU64,
}

impl BatchWriter {
    fn new(persisted: Revision) -> Self {
        Self {
            full: AtomicBool::new(false),
            busy: Mutex::new(None),
            stopping: AtomicBool::new(false),
            log_written: AtomicU64::new(0),
            persisted: watch::channel(persisted).0,
            bytes: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
        }
    }

    /// Rows up to this revision are in the database: the writer said so, or a snapshot brought them.
    pub fn set_persisted(&self, revision: Revision) {
        self.persisted.send_replace(revision);
    }

    /// Writes a batch, waiting while the disk is full.
    pub fn write(&self, db: &Db, sync: bool, build: impl for<'a> Fn(&Families<'a>) -> Batch<'a>) -> io::Result<()> {
        self.when_there_is_space(|| {
            db.with(|db| {
                let batch = build(&db);
                self.bytes.fetch_add(batch.size() as u64, Ordering::Relaxed);
                db.write(batch, sync)
            })
        })
    }

    /// Does what writes to the disk, again and again while that is full.
    pub fn when_there_is_space(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let result = loop {
            match write() {
                Err(error) if self.waits_for_space(&error) => thread::sleep(FULL_RETRY),
                result => break result,
            }
        };
        self.written(result)
    }

    /// Rows of so many bytes, about, were deleted.
    pub fn add_deleted(&self, bytes: u64) {
        self.deleted.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of rows, about, that were deleted since the start.
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Bytes written so far, about.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// As `write`, on a simulated disk.
    async fn write_simulated(&self, db: &Db, sync: bool, jobs: &[Job]) -> io::Result<()> {
        let result = loop {
            match db.write_simulated(|db| batch(jobs, db), sync).await {
                Err(error) if self.waits_for_space(&error) => rt::sleep(FULL_RETRY).await,
                result => break result,
            }
        };
        self.written(result)
    }

    /// Whether a write that failed is to be tried again.
    fn waits_for_space(&self, error: &io::Error) -> bool {
        if error.kind() != io::ErrorKind::StorageFull || self.stopping.load(Ordering::Acquire) {
            return false;
        }
        if !self.full.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the disk is full; writes are refused until there is space");
        }
        true
    }

    fn written(&self, result: io::Result<()>) -> io::Result<()> {
        if result.is_ok() && self.full.swap(false, Ordering::AcqRel) {
            tracing::info!("there is space on the disk again");
        }
        result
    }

    /// For how long the write in progress has not become durable.
    pub fn stalled(&self) -> Duration {
        self.busy.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Rows that were left, and the job they go before. One message, or the thread would wake for the
/// rows and write them alone while the job is still on its way.
struct Message {
    rows: Vec<Rows>,
    job: Option<Job>,
}

/// Sends jobs to the thread.
#[derive(Clone)]
pub(crate) struct WriteQueue {
    tx: mpsc::Sender<Message>,
    lane: Arc<Lane>,
    writer: Arc<BatchWriter>,
}

/// Rows that nobody waits for. They go with the next job, so that the thread is not woken for them.
#[derive(Default)]
struct Lane {
    rows: Mutex<Vec<Rows>>,
    /// How many wait for rows to be written after all.
    wanted: AtomicUsize,
}

/// While it lives, rows are written as soon as they come.
pub(crate) struct Wanted(Arc<Lane>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WriteQueue {
    pub fn writer(&self) -> &Arc<BatchWriter> {
        &self.writer
    }

    /// The revision up to which the rows are in the database.
    pub fn persisted(&self) -> watch::Receiver<Revision> {
        self.writer.persisted.subscribe()
    }

    /// Log entries below this index, of those sent so far, are in the database.
    pub fn written(&self) -> u64 {
        self.writer.log_written.load(Ordering::Acquire)
    }

    /// Sends a job, behind all rows that were left before.
    pub async fn send(&self, job: Job) -> io::Result<()> {
        self.post(Some(job)).await
    }

    /// The lane is emptied when there is room for it, and locked until it is sent: rows that are left
    /// later must not overtake these.
    async fn post(&self, job: Option<Job>) -> io::Result<()> {
        let permit = self.tx.reserve().await.map_err(|_| crate::disk::failure::stopped())?;
        let mut lane = self.lane.rows.lock();
        if job.is_some() || !lane.is_empty() {
            permit.send(Message { rows: std::mem::take(&mut lane), job });
        }
        Ok(())
    }

    /// Leaves what applying entries changed, to be written with the next job.
    pub async fn apply(&self, rows: Rows) -> io::Result<()> {
        let many = {
            let mut lane = self.lane.rows.lock();
            lane.push(rows);
            lane.iter().map(|rows| rows.rows.len() + 1).sum::<usize>() > LANE
        };
        if many || self.lane.wanted.load(Ordering::SeqCst) > 0 { self.post(None).await } else { Ok(()) }
    }

    /// Has rows written at once for as long as the answer lives.
    pub async fn want_rows(&self) -> io::Result<Wanted> {
        self.lane.wanted.fetch_add(1, Ordering::SeqCst);
        let wanted = Wanted(Arc::clone(&self.lane));
        self.post(None).await?;
        Ok(wanted)
    }

    /// Sends a job and waits until it is done.
    pub async fn run(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, rx) = oneshot::channel();
        self.send(job(done)).await?;
        rx.await.map_err(|_| crate::disk::failure::stopped())?
    }

    /// Lets a writer that waits for space give up.
    pub fn give_up(&self) {
        self.writer.stopping.store(true, Ordering::Release);
    }
}

/// Starts the thread (in a simulation, a task). It ends when the last queue is dropped.
pub(crate) fn spawn(db: Arc<Db>, persisted: Revision) -> io::Result<WriteQueue> {
    let (tx, rx) = mpsc::channel(QUEUE);
    let writer = Arc::new(BatchWriter::new(persisted));
    let thread = Thread { db, rx, writer: Arc::clone(&writer), failed: None };
    if rt::simulated() {
        rt::spawn(thread.run_simulated());
    } else {
        thread::Builder::new().name("store-writer".to_owned()).spawn(move || thread.run())?;
    }
    Ok(WriteQueue { tx, lane: Arc::default(), writer })
}

struct Thread {
    db: Arc<Db>,
    rx: mpsc::Receiver<Message>,
    writer: Arc<BatchWriter>,
    /// Why nothing is written any more: a write after one that failed would leave a hole.
    failed: Option<(io::ErrorKind, String)>,
}

impl Thread {
    fn run(mut self) {
        for round in 0u64.. {
            let Some(first) = self.rx.blocking_recv() else { return };
            let jobs = self.gather(first);
            let sync = self.begin(&jobs);
            let result = match &self.failed {
                Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
                None => self.writer.write(&self.db, sync, |db| batch(&jobs, db)),
            };
            self.report(jobs, &result);
            if round.is_multiple_of(STRETCH) {
                self.db.stretch_log();
            }
        }
    }

    async fn run_simulated(mut self) {
        while let Some(first) = self.rx.recv().await {
            let jobs = self.gather(first);
            let sync = self.begin(&jobs);
            let result = match &self.failed {
                Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
                None => self.writer.write_simulated(&self.db, sync, &jobs).await,
            };
            self.report(jobs, &result);
        }
    }

    /// What goes into one write: a message and all that wait behind it.
    fn gather(&mut self, first: Message) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(Message { rows, job }) = next {
            jobs.extend((!rows.is_empty()).then_some(Job::Apply(rows)));
            jobs.extend(job);
            next = if jobs.len() < BATCH { self.rx.try_recv().ok() } else { None };
        }
        jobs
    }

    /// Notes the time if the write has to be durable.
    fn begin(&self, jobs: &[Job]) -> bool {
        let sync = jobs.iter().any(Job::wants_sync);
        if sync {
            *self.writer.busy.lock() = Some(Instant::now());
        }
        sync
    }

    fn report(&mut self, jobs: Vec<Job>, result: &io::Result<()>) {
        *self.writer.busy.lock() = None;
        if let Err(error) = result
            && self.failed.is_none()
        {
            if !self.writer.stopping.load(Ordering::Acquire) {
                tracing::error!(%error, "writing to the database failed");
            }
            self.failed = Some((error.kind(), error.to_string()));
        }
        for job in jobs {
            if let (Ok(()), Some(next)) = (result, job.next_index()) {
                self.writer.log_written.store(next, Ordering::Release);
            }
            let result = match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            match job {
                Job::Append { flushed, .. } => flushed.io_completed(result),
                Job::Apply(rows) => {
                    if let (Ok(()), Some(last)) = (&result, rows.last()) {
                        self.writer.set_persisted(last.record.revision);
                    }
                }
                Job::Vote { done, .. }
                | Job::Truncate { done, .. }
                | Job::Purge { done, .. }
                | Job::Barrier { done } => {
                    // The one who asked may have gone; the write stands.
                    let _ = done.send(result);
                }
            }
        }
    }
}

impl Job {
    /// Where the log in the database ends after this job, if it moves the end.
    fn next_index(&self) -> Option<u64> {
        match self {
            Self::Append { entries, .. } => entries.last().map(|entry| entry.log_id.index + 1),
            Self::Truncate { from, .. } => Some(*from),
            _ => None,
        }
    }

    fn wants_sync(&self) -> bool {
        match self {
            Self::Append { .. } => !planted::is(Bug::AckBeforeSync),
            Self::Vote { .. } | Self::Truncate { .. } => true,
            _ => false,
        }
    }
}

fn batch<'a>(jobs: &[Job], db: &Families<'a>) -> Batch<'a> {
    let mut batch = db.batch();
    for job in jobs {
        match job {
            Job::Append { entries, .. } => {
                for entry in entries {
                    batch.put(Family::Log, log_key(entry.log_id.index), entry_value(entry));
                }
            }
            Job::Vote { vote, .. } => {
                let mut out = Encoder::default();
                out.vote(vote);
                batch.put(Family::Meta, VOTE_KEY, out.finish());
            }
            Job::Truncate { from, .. } => batch.delete_range(Family::Log, log_key(*from), log_key(u64::MAX)),
            Job::Purge { upto, .. } => {
                batch.delete_range(Family::Log, log_key(0), log_key(upto.index + 1));
                let mut out = Encoder::default();
                out.log_id(Some(upto));
                batch.put(Family::Meta, PURGED_KEY, out.finish());
            }
            Job::Apply(all) => all.iter().for_each(|rows| add_rows(&mut batch, rows)),
            Job::Barrier { .. } => {}
        }
    }
    batch
}

fn add_rows(batch: &mut Batch<'_>, rows: &Rows) {
    for (key, value) in &rows.rows {
        batch.put(Family::Rows, key, value);
    }
    if !rows.rows.is_empty() {
        batch.put(Family::Rows, mark_key(rows.second), mark_value(rows.record.revision));
    }
    for lease in &rows.leases {
        let key = lease_key(rows.record.epoch, lease.id);
        match lease.ttl {
            Some(ttl) => batch.put(Family::Rows, key, lease_value(ttl, lease.granted)),
            None => batch.delete(Family::Rows, key),
        }
    }
    if let Some(membership) = &rows.membership {
        batch.put(Family::Rows, MEMBERSHIP_KEY, membership);
    }
    batch.put(Family::Rows, STATE_KEY, rows.record.encode());
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use super::*;
    use crate::Config;
    use kontiki_state::{EntryId, Term};

    pub(crate) fn writer() -> BatchWriter {
        BatchWriter::new(Revision(1))
    }

    #[tokio::test]
    async fn nothing_is_written_after_a_write_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&Config::unconnected(1, dir.path()), "test").unwrap());
        let (tx, rx) = mpsc::channel(QUEUE);
        let writer = Arc::new(BatchWriter::new(Revision(1)));
        let mut thread = Thread { db: Arc::clone(&db), rx, writer: Arc::clone(&writer), failed: None };
        thread.report(Vec::new(), &Err(io::Error::other("the disk is gone")));
        let thread = thread::spawn(move || thread.run());
        let queue = WriteQueue { tx, lane: Arc::default(), writer };
        let error = queue.run(|done| Job::Vote { vote: Vote::new(1, 1), done }).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is gone");
        drop(queue);
        thread.join().unwrap();
        assert_eq!(db.with(|db| db.get(Family::Meta, VOTE_KEY)).unwrap(), None);
        db.close();
    }

    #[tokio::test]
    #[ignore = "needs root: mounts a small file system"]
    async fn what_a_full_disk_held_up_is_written_when_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &str| {
            let args = args.replace("DIR", &dir.path().display().to_string());
            Command::new(program).args(args.split_whitespace()).output().unwrap().status.success()
        };
        assert!(run("mount", "-t tmpfs -o size=64m kontiki-test DIR"), "mounting needs root");
        let config = Config::unconnected(1, dir.path());
        let db = Arc::new(Db::open(&config, "test").unwrap());
        let queue = spawn(Arc::clone(&db), Revision(1)).unwrap();
        assert!(!run("dd", "if=/dev/zero of=DIR/ballast bs=1M"), "the disk is full");
        for row in 0..40u8 {
            let record =
                StateRecord { applied: Some(EntryId { term: Term(1), index: row.into() }), ..StateRecord::default() };
            let rows = vec![(vec![row], vec![row; 1 << 20].into())];
            let rows = Rows { rows, leases: Vec::new(), record, second: 0, membership: None };
            queue.send(Job::Apply(vec![rows])).await.unwrap();
        }
        let vote = tokio::spawn({
            let queue = queue.clone();
            async move { queue.run(|done| Job::Vote { vote: Vote::new(1, 1), done }).await }
        });
        let waited = Instant::now();
        while !queue.writer().full.load(Ordering::Acquire) {
            assert!(waited.elapsed() < Duration::from_secs(10), "the disk was not full");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!vote.is_finished(), "acknowledged before it was durable");
        assert!(run("rm", "DIR/ballast"));
        let freed = Instant::now();
        tokio::time::timeout(Duration::from_secs(30), vote).await.expect("resumes by itself").unwrap().unwrap();
        eprintln!("resumed after {:?}", freed.elapsed());
        db.close();
        drop((queue, db));
        let db = Db::open(&config, "test").unwrap();
        for row in 0..40u8 {
            let value = db.with(|db| db.get(Family::Rows, [row])).unwrap();
            assert_eq!(value, Some(vec![row; 1 << 20]));
        }
        db.close();
        assert!(run("umount", "--lazy DIR"));
    }
}
