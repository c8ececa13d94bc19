//! What went wrong on disk, by what can be done about it.

use std::{io, path::Path};

use crate::OpenError;

/// The store does not run any more.
pub(crate) fn stopped() -> io::Error {
    io::Error::other("the store has stopped")
}

/// RocksDB's error as an I/O error that still says whether space ran out, and whether data is damaged.
pub(crate) fn db_error(error: rocksdb::Error) -> io::Error {
    let damaged = matches!(error.kind(), rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument);
    let text = error.into_string();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return io::Error::new(io::ErrorKind::StorageFull, text);
    }
    io::Error::new(if damaged { io::ErrorKind::InvalidData } else { io::ErrorKind::Other }, text)
}

/// Why a directory cannot be opened: what was read makes no sense, or it could not be read.
pub(crate) fn open_error(dir: &Path, error: &io::Error) -> OpenError {
    let (dir, reason) = (dir.display().to_string(), first_line(&error.to_string()));
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => OpenError::Corrupt { dir, reason },
        _ => OpenError::Io { dir, reason },
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
