//! A look at the end of the write-ahead log before RocksDB reads it.
//!
//! A crash leaves a torn record or zeros there, which RocksDB drops. Other bytes behind the last
//! record can look like the head of a recycled record, which this database never writes: RocksDB
//! 11.8 then reads the same place for ever. Or they promise a record that does not fit into its
//! block, which no writer writes: RocksDB drops that at the end of the file, and calls the whole log
//! damaged if the bytes go on into the next block. What no record follows is cut off here; damage
//! that records follow is for the caller to refuse, since they may have been acknowledged.
//!
//! Format: `db/log_format.h` and `db/log_reader.cc` of RocksDB.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

const BLOCK: usize = 32 << 10;
/// Masked CRC-32C (4), length (2), type (1).
const HEADER: usize = 7;
const ZERO: u8 = 0;
const FULL: u8 = 1;
const LAST: u8 = 4;
/// Recycled records, and what goes with them.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Cuts off what would stop RocksDB from opening the newest log in `dir`. Tells how much that was.
///
/// # Errors
/// `InvalidData` if records follow the damage.
pub(crate) fn mend(dir: &Path) -> io::Result<u64> {
    let Some(path) = newest(dir)? else { return Ok(0) };
    let mut bytes = Vec::new();
    File::open(&path)?.read_to_end(&mut bytes)?;
    let Some(at) = first_foreign(&bytes) else { return Ok(0) };
    if let Some(next) = (at + 1..bytes.len()).find(|next| is_record(&bytes, *next)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let reason = format!("{name} is damaged at byte {at}, and records follow at byte {next}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let file = File::options().write(true).open(&path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    Ok((bytes.len() - at) as u64)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|end| end.to_str())) {
            logs.push((number, path));
        }
    }
    Ok(logs.into_iter().max().map(|(_, path)| path))
}

/// Where a record seems to begin that was never written, read as RocksDB reads.
fn first_foreign(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        let (length, kind) = header(bytes, at)?;
        match kind {
            ZERO if length == 0 => at += left,
            kind if RECYCLED.contains(&kind) || HEADER + length > left => return Some(at),
            _ => at += HEADER + length,
        }
    }
}

fn header(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let header = bytes.get(at..at + HEADER)?;
    Some((usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]))
}

/// Whether a whole record with the right checksum begins at `at`.
fn is_record(bytes: &[u8], at: usize) -> bool {
    let Some((length, kind)) = header(bytes, at) else { return false };
    let fits = HEADER + length <= BLOCK - at % BLOCK;
    if !(FULL..=LAST).contains(&kind) || !fits {
        return false;
    }
    let Some(covered) = bytes.get(at + HEADER - 1..at + HEADER + length) else { return false };
    bytes[at..at + 4] == mask(crc32c(covered)).to_le_bytes()
}

/// A checksum of bytes that hold checksums is a poor one, so RocksDB stores it rotated.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), RFC 3720 appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc: u32, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = (at as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let covered = [&[FULL], payload].concat();
        let length = u16::try_from(payload.len()).unwrap();
        [&mask(crc32c(&covered)).to_le_bytes()[..], &length.to_le_bytes(), &covered].concat()
    }

    #[test]
    fn only_what_no_record_follows_is_cut_off() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let good = [record(b"one"), record(&[7; 900])].concat();
        let foreign = [1, 2, 3, 4, 9, 0, 6, 8, 8];
        let promise = [1, 2, 3, 4, 0xff, 0x7f, FULL, 8];
        let nearly_a_block = record(&vec![7; BLOCK - 100]);
        for (name, bytes, left) in [
            ("a whole log", good.clone(), Some(good.len())),
            ("an empty one", Vec::new(), Some(0)),
            ("zeros behind", [&good[..], &[0; 5000]].concat(), Some(good.len() + 5000)),
            ("a torn record", good[..good.len() - 3].to_vec(), Some(good.len() - 3)),
            ("foreign bytes behind", [&good[..], &foreign].concat(), Some(good.len())),
            ("and much of them", [&good[..], &foreign, &[0x55; 70_000]].concat(), Some(good.len())),
            ("half a record that no block holds", [&good[..], &promise].concat(), Some(good.len())),
            (
                "and on into the next block",
                [&nearly_a_block[..], &promise, &[0x55; 500]].concat(),
                Some(nearly_a_block.len()),
            ),
            ("a damaged length within", [&good[..], &promise, &good].concat(), None),
            ("foreign bytes within", [&good[..], &foreign, &good].concat(), None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("000004.log"), b"older logs are whole").unwrap();
            let path = dir.path().join("000011.log");
            fs::write(&path, &bytes).unwrap();
            let mended = mend(dir.path());
            match left {
                Some(left) => {
                    assert_eq!(mended.unwrap(), (bytes.len() - left) as u64, "{name}");
                    assert_eq!(fs::read(&path).unwrap(), bytes[..left], "{name}");
                }
                None => {
                    assert_eq!(mended.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
                    assert_eq!(fs::read(&path).unwrap(), bytes, "{name}: nothing is touched");
                }
            }
        }
        assert_eq!(mend(Path::new("/nowhere/at/all")).unwrap(), 0);
    }
}
