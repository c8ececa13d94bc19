//! The form that a whole state has as a stream of bytes: as a snapshot, and inside of a backup.
//!
//! Layout: format (2, or 3 from feature level 1 on), state record, sweep mark, number of leases, leases (id, seconds, entry), then rows (key
//! without epoch, value), then an empty key and the number of rows. The transport adds a checksum over all of it.

use std::io::{self, Read};

use bytes::Bytes;

use crate::disk::history::invalid;
use kontiki_state::{
    Level, Revision,
    codec::{Malformed, Writer},
};

const FORMAT: u64 = 2;
/// The record tells the feature level and what the rows amount to.
const FORMAT_DIGESTS: u64 = 3;

/// Checks that what follows can be read.
pub(crate) fn read_format(input: &mut impl Read) -> io::Result<()> {
    match read_varint(input)? {
        FORMAT | FORMAT_DIGESTS => Ok(()),
        _ => Err(invalid(Malformed("snapshot of an unknown format"))),
    }
}

/// The format that a state at `level` is written in.
pub(crate) fn format_at(level: Level) -> u64 {
    if level >= Level::DIGESTS { FORMAT_DIGESTS } else { FORMAT }
}

/// No key or value is larger: what claims to be is damaged.
const LARGEST: u64 = 64 << 20;

/// The value under `SWEPT_KEY`.
pub(crate) fn swept_value(epoch: u32, revision: Revision) -> Bytes {
    let mut out = Writer::default();
    out.varint(u64::from(epoch));
    out.varint(revision.0);
    out.finish()
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
