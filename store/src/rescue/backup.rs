//! A backup: the whole state as one file that carries its own checksum.
//!
//! Layout: magic (16 bytes), the state as in `dump`, zeros up to a multiple of 512 bytes, SHA-256 of
//! all that (32 bytes). etcdctl takes a snapshot for whole by its length, hence the zeros.

use std::{io, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;

use crate::disk::install::SnapshotData;

/// What a backup begins with.
pub(crate) const MAGIC: &[u8; 16] = b"kontiki-backup-1";

/// The length of all before the checksum is a multiple of this.
pub(crate) const BLOCK: usize = 512;

/// A backup being made, in pieces.
pub type Backup = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Wraps the state that is being read.
pub(crate) fn backup(data: SnapshotData) -> io::Result<Backup> {
    let SnapshotData::Live(rx) = data else {
        return Err(io::Error::other("only the own state is backed up"));
    };
    let magic = Bytes::from_static(MAGIC);
    let body = stream::once(async move { Ok(magic) }).chain(ReceiverStream::new(rx)).boxed();
    let pieces = stream::try_unfold(Some((body, Sha256::new(), 0)), |state| async move {
        let Some((mut body, mut hash, length)) = state else { return Ok(None) };
        match body.next().await {
            Some(piece) => {
                let piece: Bytes = piece?;
                hash.update(&piece);
                let length = length + piece.len();
                Ok(Some((piece, Some((body, hash, length)))))
            }
            None => {
                let mut end = vec![0; length.next_multiple_of(BLOCK) - length];
                hash.update(&end);
                end.extend_from_slice(&hash.finalize());
                Ok::<_, io::Error>(Some((Bytes::from(end), None)))
            }
        }
    });
    Ok(pieces.boxed())
}
