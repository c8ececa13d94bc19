//! The Raft log: openraft's `RaftLogStorage` over the writer thread, with recent entries in memory.
//!
//! Invariants
//! - Every entry that is not in the database yet is in the cache, so an entry can be read as soon
//!   as `append` returned.
//! - The cache is one gap-free run of entries that ends at the last one.
//! - Followers that keep up, and apply, never read the log from disk.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;

use crate::{
    disk::{
        db::{Db, Family},
        entry::{decode_row, index_of, log_key, size},
        history::invalid,
        writer::{Job, PURGED_KEY, VOTE_KEY, WriteQueue},
    },
    raft::witness,
    rt,
    types::{LogEntry, LogId, ReadRaft as _, TypeConfig, Vote},
};
use kontiki_state::{
    codec::Reader,
    planted::{self, Bug},
};

/// Bytes of entries kept in memory for followers that are a little behind.
const CACHE_BYTES: usize = 8 << 20;
/// Entries whose sizes are summed up together.
const SPAN: u64 = 256;
/// Bytes of entries in one replication message, so that big values do not make huge messages.
const MESSAGE_BYTES: usize = 1 << 20;

/// The log of one member; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    db: Arc<Db>,
    queue: WriteQueue,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    cache: VecDeque<LogEntry>,
    bytes: usize,
    /// Bytes of the entries from an index on to the next one here.
    sizes: VecDeque<(u64, u64)>,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl Shared {
    fn append(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            self.bytes += size(entry);
            match self.sizes.back_mut() {
                Some((first, bytes)) if entry.log_id.index < *first + SPAN => *bytes += size(entry) as u64,
                _ => self.sizes.push_back((entry.log_id.index, size(entry) as u64)),
            }
            self.last = Some(entry.log_id);
            self.cache.push_back(entry.clone());
        }
    }

    fn truncate(&mut self, after: Option<LogId>) {
        let from = after.map_or(0, |id| id.index + 1);
        while self.cache.back().is_some_and(|entry| entry.log_id.index >= from) {
            self.drop_entry(VecDeque::pop_back);
        }
        while self.sizes.back().is_some_and(|(first, _)| *first >= from) {
            self.sizes.pop_back();
        }
        self.last = self.last.min(after).max(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        while self.cache.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.drop_entry(VecDeque::pop_front);
        }
        while self.sizes.get(1).is_some_and(|(next, _)| *next <= upto.index + 1) {
            self.sizes.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }

    /// Makes room. Entries below `written` are in the database.
    fn evict(&mut self, written: u64, most: usize) {
        while self.bytes > most && self.cache.front().is_some_and(|entry| entry.log_id.index < written) {
            self.drop_entry(VecDeque::pop_front);
        }
    }

    fn drop_entry(&mut self, pop: fn(&mut VecDeque<LogEntry>) -> Option<LogEntry>) {
        if let Some(entry) = pop(&mut self.cache) {
            self.bytes -= size(&entry);
        }
    }

    /// The cached entries in `from..to`, and the index from which on the cache knows everything.
    fn read(&self, from: u64, to: u64) -> (Vec<LogEntry>, u64) {
        let start = self.cache.front().map_or(u64::MAX, |entry| entry.log_id.index);
        let place =
            |index: u64| usize::try_from(index.saturating_sub(start)).unwrap_or(usize::MAX).min(self.cache.len());
        let from = place(from);
        (self.cache.range(from..place(to).max(from)).cloned().collect(), start)
    }
}

impl LogStore {
    /// Reads back what the log was when the member stopped.
    pub fn open(db: Arc<Db>, queue: WriteQueue) -> io::Result<Self> {
        let shared = db.with(|families| {
            let meta = |key| families.get(Family::Meta, key);
            let vote = meta(VOTE_KEY)?.map(|bytes| Reader::new(bytes.into()).vote()).transpose().map_err(invalid)?;
            let purged = meta(PURGED_KEY)?.map(|bytes| Reader::new(bytes.into()).log_id()).transpose();
            let purged = purged.map_err(invalid)?.flatten();
            let last = match families.last(Family::Log)? {
                Some((key, value)) => Some(decode_row(&key, value.into_vec().into()).map_err(invalid)?.log_id),
                None => None,
            };
            let last = last.max(purged);
            Ok(Shared { last, purged, vote, ..Shared::default() })
        })?;
        Ok(Self { db, queue, shared: Arc::new(Mutex::new(shared)) })
    }

    /// The vote and all entries, as the disk has them.
    pub fn on_disk(&self) -> io::Result<(Option<Vote>, Vec<LogEntry>)> {
        Ok((self.shared.lock().vote, read_rows(&self.db, 0, u64::MAX)?))
    }

    /// Bytes of the entries that are in the log, about: what was appended since the start, at most.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().sizes.iter().map(|(_, size)| size).sum()
    }

    /// The last entry that has more than `keep` bytes of log behind it.
    pub fn beyond(&self, keep: u64) -> Option<u64> {
        let shared = self.shared.lock();
        let mut behind = 0;
        for (first, size) in shared.sizes.iter().rev() {
            behind += size;
            if behind > keep {
                return first.checked_sub(1).filter(|upto| shared.purged.is_none_or(|purged| *upto > purged.index));
            }
        }
        None
    }

    /// Gives back the memory of entries that are in the database.
    pub fn shrink(&self) {
        let mut shared = self.shared.lock();
        shared.evict(self.queue.written(), 0);
        shared.cache.shrink_to_fit();
    }

    /// The last entry's index.
    pub fn last_index(&self) -> u64 {
        self.shared.lock().last.map_or(0, |id| id.index)
    }

    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<LogEntry>> {
        let (cached, cache_start) = self.shared.lock().read(from, to);
        if from >= cache_start || from >= to {
            return Ok(cached);
        }
        let (db, to) = (Arc::clone(&self.db), to.min(cache_start));
        let read = rt::blocking(move || read_rows(&db, from, to));
        let mut entries = read.await??;
        entries.extend(cached);
        Ok(entries)
    }
}

fn read_rows(db: &Db, from: u64, to: u64) -> io::Result<Vec<LogEntry>> {
    db.with(|families| {
        let start = log_key(from);
        let mut entries = Vec::new();
        for row in families.scan(Family::Log, &start)? {
            let (key, value) = row?;
            if index_of(&key).is_none_or(|index| index >= to) {
                break;
            }
            entries.push(decode_row(&key, value.into_vec().into()).map_err(invalid)?);
        }
        Ok(entries)
    })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let mut entries = self.read(start, end).await?;
        if entries.first().is_some_and(|first| first.log_id.index != start) {
            // Purged while a slow stream was still at it. What is left does not follow what the other
            // side has; openraft takes nothing for a heartbeat, and its next plan is a snapshot.
            entries.clear();
        }
        let mut total = 0;
        let fit = entries.iter().take_while(|entry| {
            let before = total;
            total += size(entry);
            before < MESSAGE_BYTES
        });
        let fit = fit.count();
        entries.truncate(fit);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        if !planted::is(Bug::VoteNotPersisted) {
            self.queue.run(|done| Job::Vote { vote, done }).await?;
        }
        witness::voted(&vote);
        self.shared.lock().vote = Some(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        witness::appended(&entries);
        {
            let mut shared = self.shared.lock();
            shared.append(&entries);
            shared.evict(self.queue.written(), CACHE_BYTES);
        }
        self.queue.send(Job::Append { entries, flushed: callback }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        witness::truncated(from);
        if !planted::is(Bug::LostTruncate) {
            self.queue.run(|done| Job::Truncate { from, done }).await?;
        }
        self.shared.lock().truncate(last_log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.queue.run(|done| Job::Purge { upto: log_id, done }).await?;
        self.shared.lock().purge(log_id);
        Ok(())
    }
}
