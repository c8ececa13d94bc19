//! A whole state machine as a stream of bytes, for members that cannot catch up from the log.
//!
//! Layout: format, state record, sweep mark, number of leases, leases (id, seconds, entry), then rows (key
//! without epoch, value), then an empty key and the number of rows. The transport adds a checksum over all of it.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::PathBuf,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Revision,
    codec::{Malformed, Writer},
    db::{Batch, Db, Families, Family, Pair},
    history::{decode, invalid, scan_leases},
    planted::{self, Bug},
    rows::{
        LeaseRow, MEMBERSHIP_KEY, STATE_KEY, SWEPT_KEY, StateRecord, decode_lease, lease_key, lease_span, lease_value,
        row_key,
    },
    rt,
    state::State,
    writer::Health,
};

pub(crate) const FORMAT: u64 = 2;
/// Bytes in one piece of the stream.
const CHUNK: usize = 256 << 10;
/// Pieces that may wait for the network.
const AHEAD: usize = 8;
/// No key or value is larger: what claims to be is damaged.
const LARGEST: u64 = 64 << 20;
/// Bytes of rows written at a time while installing.
const BATCH: usize = 4 << 20;

/// The content of a snapshot.
pub enum SnapshotData {
    /// Being read from the database, as of when it was taken.
    Live(mpsc::Receiver<io::Result<Bytes>>),
    /// Received whole and verified; removed when dropped.
    File(Received),
    /// Received whole, in a simulation.
    Whole(Bytes),
}

/// A received snapshot on disk.
pub struct Received(pub(crate) PathBuf);

impl Drop for Received {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "a received snapshot could not be removed");
        }
    }
}

/// Starts reading the rows as they are now. The caller sees to it that they match `record`.
pub(crate) async fn dump(db: Arc<Db>, record: StateRecord) -> io::Result<SnapshotData> {
    let (tx, rx) = mpsc::channel(AHEAD);
    if rt::simulated() {
        dump_simulated(&db, &record, tx);
        return Ok(SnapshotData::Live(rx));
    }
    let (ready_tx, ready_rx) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let ready = || {
            let _ = ready_tx.send(());
        };
        let result =
            db.with(|families| write_dump(&families, &record, ready, |piece| tx.blocking_send(Ok(piece)).is_ok()));
        if let Err(error) = result {
            // Nobody may be there to hear it.
            let _ = tx.blocking_send(Err(error));
        }
    });
    // Without an answer the reader failed; the stream says how.
    let _ = ready_rx.await;
    Ok(SnapshotData::Live(rx))
}

/// Nothing blocks in a simulation: the rows are read at once and handed out by a task.
fn dump_simulated(db: &Db, record: &StateRecord, tx: mpsc::Sender<io::Result<Bytes>>) {
    let mut pieces = Vec::new();
    let result = db.with(|families| {
        write_dump(
            &families,
            record,
            || {},
            |piece| {
                pieces.push(Ok(piece));
                true
            },
        )
    });
    pieces.extend(result.err().map(Err));
    rt::spawn(async move {
        for piece in pieces {
            if tx.send(piece).await.is_err() {
                return;
            }
        }
    });
}

/// Calls `ready` when applying may go on, and `send` with each piece until it says that nobody listens.
fn write_dump(
    db: &Families<'_>,
    record: &StateRecord,
    ready: impl FnOnce(),
    mut send: impl FnMut(Bytes) -> bool,
) -> io::Result<()> {
    let start = row_key(record.epoch, Revision(0), b"");
    // An iterator shows the database as of its creation: from here on applying may go on.
    let rows = db.scan(Family::Rows, &start)?;
    let swept = swept(db, record.epoch)?;
    let mut leases = Vec::new();
    scan_leases(db, record.epoch, |key, value| {
        leases.push(decode_lease(key, value).map_err(invalid)?);
        Ok(())
    })?;
    ready();
    let mut out = Writer::with_capacity(CHUNK + CHUNK / 4);
    out.varint(FORMAT);
    out.bytes(&record.encode());
    out.varint(swept.0);
    out.varint(leases.len() as u64);
    for lease in leases {
        out.signed(lease.id);
        out.signed(lease.ttl.unwrap_or_default());
        out.varint(lease.granted);
    }
    let (mut count, mut size) = (0u64, 0);
    let mut rows = rows.peekable();
    while let Some(row) = rows.next() {
        let (key, value) = row?;
        if key[..4] != start[..4] {
            break;
        }
        if planted::is(Bug::SnapshotDropsKey) && count > 0 && rows.peek().is_none_or(|next| !is_of(next, &start)) {
            break;
        }
        out.bytes(&key[4..]);
        out.bytes(&value);
        count += 1;
        size += key.len() + value.len();
        if size >= CHUNK {
            let full = std::mem::replace(&mut out, Writer::with_capacity(CHUNK + CHUNK / 4));
            if !send(full.finish()) {
                return Ok(());
            }
            size = 0;
        }
    }
    out.bytes(b"");
    out.varint(count);
    send(out.finish());
    Ok(())
}

fn is_of(row: &io::Result<Pair>, start: &[u8]) -> bool {
    row.as_ref().is_ok_and(|(key, _)| key[..4] == start[..4])
}

/// How far compaction has removed rows of `epoch`.
pub(crate) fn swept(db: &Families<'_>, epoch: u32) -> io::Result<Revision> {
    let Some(bytes) = db.get(Family::Rows, SWEPT_KEY)? else { return Ok(Revision(0)) };
    let mut input = crate::codec::Reader::new(bytes.into());
    let read = || Ok::<_, Malformed>((input.varint()?, input.varint()?));
    let (of, revision) = { read }().map_err(invalid)?;
    Ok(if of == u64::from(epoch) { Revision(revision) } else { Revision(0) })
}

/// The value under `SWEPT_KEY`.
pub(crate) fn swept_value(epoch: u32, revision: Revision) -> Bytes {
    let mut out = Writer::default();
    out.varint(u64::from(epoch));
    out.varint(revision.0);
    out.finish()
}

/// Writes a snapshot's rows beside the present ones, then switches over in one durable write.
pub(crate) fn install(
    db: &Db,
    health: &Health,
    data: SnapshotData,
    mut record: StateRecord,
    membership: &[u8],
) -> io::Result<(State, StateRecord)> {
    let old_epoch = record.epoch;
    record.epoch += 1;
    let (_file, input): (Option<Received>, Box<dyn Read>) = match data {
        SnapshotData::Live(rx) => (None, Box::new(Pieces { rx, current: Bytes::new() })),
        SnapshotData::File(received) => {
            let file = File::open(&received.0)?;
            (Some(received), Box::new(file))
        }
        SnapshotData::Whole(bytes) => (None, Box::new(bytes.reader())),
    };
    let mut input = BufReader::with_capacity(CHUNK, input);
    if read_varint(&mut input)? != FORMAT {
        return Err(invalid(Malformed("snapshot of an unknown format")));
    }
    let theirs = StateRecord::decode(read_bytes(&mut input)?.into()).map_err(invalid)?;
    record.revision = theirs.revision;
    record.compacted = theirs.compacted;
    let swept = Revision(read_varint(&mut input)?);
    // What an interrupted attempt left behind.
    health.write(db, false, |db| epoch_removal(db, record.epoch))?;
    let state = read_rows(db, health, &mut input, &record)?;
    health.write(db, true, |db| {
        let mut batch = epoch_removal(db, old_epoch);
        batch.put(Family::Rows, STATE_KEY, record.encode());
        batch.put(Family::Rows, MEMBERSHIP_KEY, membership);
        batch.put(Family::Rows, SWEPT_KEY, swept_value(record.epoch, swept));
        batch
    })?;
    Ok((state, record))
}

fn read_rows(db: &Db, health: &Health, input: &mut impl Read, record: &StateRecord) -> io::Result<State> {
    let mut state = State::empty(record.revision, record.compacted, record.applied.map_or(0, |id| id.index));
    read_leases(db, health, input, record, &mut state)?;
    let (mut count, mut size, mut pending) = (0u64, 0, Vec::new());
    loop {
        let short = read_bytes(input)?;
        let last = short.is_empty();
        if last && read_varint(input)? != count {
            return Err(invalid(Malformed("snapshot with missing rows")));
        }
        if !last {
            let key = [&record.epoch.to_be_bytes()[..], &short].concat();
            let value = read_bytes(input)?;
            size += key.len() + value.len();
            count += 1;
            let row = decode(&key, value.clone().into_boxed_slice())?;
            state.restore(row.kind, row.entry);
            pending.push((key, value));
        }
        if last || size >= BATCH {
            health.write(db, false, |db| {
                let mut batch = db.batch();
                pending.iter().for_each(|(key, value)| batch.put(Family::Rows, key, value));
                batch
            })?;
            pending.clear();
            size = 0;
        }
        if last {
            return Ok(state);
        }
    }
}

fn read_leases(
    db: &Db,
    health: &Health,
    input: &mut impl Read,
    record: &StateRecord,
    state: &mut State,
) -> io::Result<()> {
    let mut leases = Vec::new();
    for _ in 0..read_varint(input)? {
        let (id, ttl) = (read_signed(input)?, Some(read_signed(input)?));
        let row = LeaseRow { id, ttl, granted: read_varint(input)? };
        state.restore_lease(row);
        leases.push(row);
    }
    health.write(db, false, |db| {
        let mut batch = db.batch();
        for row in &leases {
            batch.put(
                Family::Rows,
                lease_key(record.epoch, row.id),
                lease_value(row.ttl.unwrap_or_default(), row.granted),
            );
        }
        batch
    })
}

fn epoch_removal<'a>(db: &Families<'a>, epoch: u32) -> Batch<'a> {
    let mut batch = db.batch();
    batch.delete_range(Family::Rows, row_key(epoch, Revision(0), b""), row_key(epoch + 1, Revision(0), b""));
    let (from, to) = lease_span(epoch);
    batch.delete_range(Family::Rows, from, to);
    batch
}

pub(crate) fn read_varint(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(invalid(Malformed("number too long")))
}

pub(crate) fn read_signed(input: &mut impl Read) -> io::Result<i64> {
    let value = read_varint(input)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

pub(crate) fn read_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = read_varint(input)?;
    if len > LARGEST {
        return Err(invalid(Malformed("row too large")));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A stream of pieces as something to read from. For threads that may block.
struct Pieces {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
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
