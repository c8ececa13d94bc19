//! Writes a whole state machine as a stream of bytes (see `stream`), for members that cannot catch up from the log.
//!
//! Not here: taking one over (see `install`).

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    disk::{
        db::{Db, Families, Family, Pair},
        history::{invalid, scan_leases},
        install::SnapshotData,
        stream::format_at,
    },
    rt,
};
use kontiki_state::{
    Revision,
    codec::{Malformed, Writer},
    planted::{self, Bug},
    rows::{SWEPT_KEY, StateRecord, decode_lease, row_key},
};

/// Bytes in one piece of the stream.
const CHUNK: usize = 256 << 10;
/// Pieces that may wait for the network.
const AHEAD: usize = 8;
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
    out.varint(format_at(record.level));
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
    let mut input = kontiki_state::codec::Reader::new(bytes.into());
    let read = || Ok::<_, Malformed>((input.varint()?, input.varint()?));
    let (of, revision) = { read }().map_err(invalid)?;
    Ok(if of == u64::from(epoch) { Revision(revision) } else { Revision(0) })
}
