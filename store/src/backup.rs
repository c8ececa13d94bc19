//! A backup: the whole state as one file that carries its own checksum.
//!
//! Layout: magic (16 bytes), the state as in `dump`, SHA-256 of all that (32 bytes).

use std::{io, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;

use crate::dump::SnapshotData;

/// What a backup begins with.
pub(crate) const MAGIC: &[u8; 16] = b"kontiki-backup-1";

/// A backup being made, in pieces.
pub type Backup = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Wraps the state that is being read.
pub(crate) fn backup(data: SnapshotData) -> io::Result<Backup> {
    let SnapshotData::Live(rx) = data else {
        return Err(io::Error::other("only the own state is backed up"));
    };
    let magic = Bytes::from_static(MAGIC);
    let body = stream::once(async move { Ok(magic) }).chain(ReceiverStream::new(rx));
    let state = Some((body.boxed(), Sha256::new()));
    let pieces = stream::try_unfold(state, |state| async move {
        let Some((mut body, mut hash)) = state else { return Ok(None) };
        match body.next().await {
            Some(piece) => {
                let piece: Bytes = piece?;
                hash.update(&piece);
                Ok(Some((piece, Some((body, hash)))))
            }
            None => Ok(Some((Bytes::copy_from_slice(&hash.finalize()), None))),
        }
    });
    Ok(pieces.boxed())
}
