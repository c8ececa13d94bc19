//! Takes a snapshot over: reads it, as it comes, into files beside the database and a state beside the one that is
//! shown, and then switches over.
//!
//! Invariants
//! - Until the switch, which is one durable write, nothing of it can be read; what an attempt left behind that did not
//!   get there is removed by the next one, or at the next start.
//! - It is switched to only if it is whole: all rows there, and the state that they make the one it was taken of.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::{
    disk::{
        db::{Batch, Db, Families, Family},
        directory::INCOMING,
        history::{decode, invalid, state_record},
        sorted,
        stream::{read_bytes, read_format, read_signed, read_varint, swept_value},
        writer::BatchWriter,
    },
    world::Owned,
};
use kontiki_state::{
    Revision,
    codec::Malformed,
    planted::{self, Bug},
    rows::{LeaseRow, MEMBERSHIP_KEY, STATE_KEY, SWEPT_KEY, StateRecord, lease_key, lease_span, lease_value, row_key},
    state::State,
};

/// Bytes of rows in one file.
const FILE: usize = 32 << 20;

type Rows = Vec<(Vec<u8>, Bytes)>;

/// The content of a snapshot.
pub enum SnapshotData {
    /// Being read from the database, as of when it was taken.
    Live(mpsc::Receiver<io::Result<Bytes>>),
    /// Received whole and verified, and ready to be switched to.
    Staged(Box<Staged>),
    /// Received whole, in a simulation.
    Whole(Owned<Bytes>),
}

/// A snapshot that was read whole.
pub(crate) struct Staged {
    /// The sender's, under the epoch that the rows have here.
    record: StateRecord,
    swept: Revision,
    leases: Vec<LeaseRow>,
    state: State,
    files: Files,
    /// The last rows, and all where the disk has no files.
    rest: Rows,
}

/// Files of rows, removed unless they were taken in.
#[derive(Default)]
struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = sorted::remove(path) {
                tracing::debug!(%error, "a part of a snapshot could not be removed");
            }
        }
    }
}

/// Reads a snapshot. Blocks.
///
/// # Errors
/// It is not whole, or the disk failed.
pub(crate) fn stage(db: &Db, writer: &BatchWriter, input: &mut impl Read) -> io::Result<Staged> {
    read_format(input)?;
    let theirs = StateRecord::decode(read_bytes(input)?.into()).map_err(invalid)?;
    let swept = Revision(read_varint(input)?);
    let epoch = db.with(|families| state_record(&families))?.epoch + 1;
    let record = StateRecord { epoch, ..theirs };
    let mut state = State::empty(record.revision, record.compacted, 0);
    state.restore_level(record.level);
    let mut leases = Vec::new();
    for _ in 0..read_varint(input)? {
        let (id, ttl) = (read_signed(input)?, Some(read_signed(input)?));
        let row = LeaseRow { id, ttl, granted: read_varint(input)? };
        state.restore_lease(row);
        leases.push(row);
    }
    let mut staged = Staged { record, swept, leases, state, files: Files::default(), rest: Vec::new() };
    staged.read_rows(db, writer, input)?;
    if record.sum.is_some_and(|sum| sum != staged.state.sum()) && !planted::is(Bug::SnapshotBeforeRows) {
        return Err(invalid(Malformed("snapshot whose rows are not those that it was made of")));
    }
    Ok(staged)
}

impl Staged {
    fn read_rows(&mut self, db: &Db, writer: &BatchWriter, input: &mut impl Read) -> io::Result<()> {
        let (mut count, mut size) = (0u64, 0);
        loop {
            let short = read_bytes(input)?;
            if short.is_empty() {
                let whole = read_varint(input)? == count;
                return if whole { Ok(()) } else { Err(invalid(Malformed("snapshot with missing rows"))) };
            }
            let key = [&self.record.epoch.to_be_bytes()[..], &short].concat();
            let value = read_bytes(input)?;
            size += key.len() + value.len();
            count += 1;
            let value = Bytes::from(value);
            let row = decode(&key, value.clone())?;
            self.state.restore(row.kind, row.entry);
            self.rest.push((key, value));
            if size >= FILE && !db.is_simulated() {
                self.write_file(db, writer)?;
                size = 0;
            }
        }
    }

    fn write_file(&mut self, db: &Db, writer: &BatchWriter) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = db.dir().join(format!("{INCOMING}{}.sst", COUNT.fetch_add(1, Ordering::Relaxed)));
        self.files.0.push(path.clone());
        sorted::write(writer, &path, &self.rest)?;
        self.rest.clear();
        Ok(())
    }
}

/// Makes a snapshot the state. `record` is the one that it replaces, but for the applied entry, which is the snapshot's.
/// Blocks.
pub(crate) fn install(
    db: &Db,
    writer: &BatchWriter,
    data: SnapshotData,
    record: StateRecord,
    membership: &[u8],
) -> io::Result<(State, StateRecord)> {
    let mut staged = match data {
        SnapshotData::Staged(staged) => *staged,
        SnapshotData::Live(rx) => stage(db, writer, &mut Pieces::new(rx))?,
        SnapshotData::Whole(bytes) => stage(db, writer, &mut Bytes::clone(&bytes).reader())?,
    };
    let (old_epoch, epoch) = (record.epoch, staged.record.epoch);
    if epoch != old_epoch + 1 {
        return Err(io::Error::other("another snapshot was installed meanwhile"));
    }
    let record = StateRecord { applied: record.applied, ..staged.record };
    staged.state.enter(record.applied.map_or(0, |id| id.index));
    // What an interrupted attempt left behind.
    writer.write(db, false, |db| epoch_removal(db, epoch))?;
    for path in std::mem::take(&mut staged.files.0) {
        writer.when_there_is_space(|| db.with(|families| families.ingest(Family::Rows, &path)))?;
    }
    writer.write(db, true, |db| {
        let mut batch = epoch_removal(db, old_epoch);
        staged.rest.iter().for_each(|(key, value)| batch.put(Family::Rows, key, value));
        for lease in &staged.leases {
            let value = lease_value(lease.ttl.unwrap_or_default(), lease.granted);
            batch.put(Family::Rows, lease_key(epoch, lease.id), value);
        }
        batch.put(Family::Rows, STATE_KEY, record.encode());
        batch.put(Family::Rows, MEMBERSHIP_KEY, membership);
        batch.put(Family::Rows, SWEPT_KEY, swept_value(epoch, staged.swept));
        batch
    })?;
    Ok((staged.state, record))
}

fn epoch_removal<'a>(db: &Families<'a>, epoch: u32) -> Batch<'a> {
    let mut batch = db.batch();
    batch.delete_range(Family::Rows, row_key(epoch, Revision(0), b""), row_key(epoch + 1, Revision(0), b""));
    let (from, to) = lease_span(epoch);
    batch.delete_range(Family::Rows, from, to);
    batch
}

/// A stream of pieces as something to read from. For threads that may block.
pub(crate) struct Pieces {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Pieces {
    pub fn new(rx: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { rx, current: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.rx.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}
