//! The file of RocksDB's write-ahead log: its size while it is written, its end before it is read.
//!
//! A log that grows with every record costs every sync a commit of the file system's journal, for
//! the new size. [`stretch`] gives the newest log the size of the space that the file system has set
//! aside for it, so that records fall into zeros. A clean close cuts those off again.
//!
//! A crash leaves the zeros, and what was not written wholly before them: a part of a record, or
//! records of which a page is missing. RocksDB drops a record that the file's end has torn, but calls
//! one that ends in zeros damaged. Other bytes behind the last record can look like the head of a
//! recycled record, which this database never writes: RocksDB 11.8 then reads the same place for
//! ever; or they promise more than their block holds. [`mend`] cuts off all that. What it must not
//! touch is damage to what may have been acknowledged: that is refused, here if records follow it,
//! else by RocksDB.
//!
//! Format: `db/log_format.h` and `db/log_reader.cc` of RocksDB.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, fallocate};

const BLOCK: usize = 32 << 10;
const SECTOR: usize = 512;
/// More than is written between two syncs. What is missing farther back was there once.
const ON_ITS_WAY: usize = 8 << 20;
/// Masked CRC-32C (4), length (2), type (1).
const HEADER: usize = 7;
const ZERO: u8 = 0;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
/// Recycled records, and what goes with them.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Gives the newest log in `dir` the size of the space it has.
///
/// # Errors
/// The directory cannot be read, or the file system cannot do it.
pub(crate) fn stretch(dir: &Path) -> io::Result<()> {
    let Some(path) = newest(dir)? else { return Ok(()) };
    let file = File::options().write(true).open(path)?;
    let meta = file.metadata()?;
    let space = meta.blocks().saturating_mul(512);
    if space > meta.len() {
        // Never makes a file shorter, so it cannot take what is written meanwhile.
        fallocate(file, FallocateFlags::empty(), 0, i64::try_from(space).unwrap_or(i64::MAX))?;
    }
    Ok(())
}

/// Cuts off the newest log in `dir` what was not wholly written, and zeros. Tells how many bytes of
/// it were not zeros at the end.
///
/// # Errors
/// `InvalidData` if records follow damage.
pub(crate) fn mend(dir: &Path) -> io::Result<u64> {
    let Some(path) = newest(dir)? else { return Ok(0) };
    let mut bytes = Vec::new();
    File::open(&path)?.read_to_end(&mut bytes)?;
    let Some(broken) = first_broken(&bytes) else { return Ok(0) };
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let follows = (broken.at + 1..end).find(|next| begins_record(&bytes, *next));
    let hole = never_written(&bytes, broken.at..broken.end.min(follows.unwrap_or(bytes.len())));
    let torn = hole && (follows.is_none() || end - broken.at <= ON_ITS_WAY);
    match follows {
        Some(next) if !torn => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = format!("{name} is damaged at byte {}, and records follow at byte {next}", broken.at);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        None if !torn && broken.whole => return Ok(0), // RocksDB refuses it
        _ => {}
    }
    let file = File::options().write(true).open(&path)?;
    file.set_len(broken.record as u64)?;
    file.sync_all()?;
    Ok(end.saturating_sub(broken.record) as u64)
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

/// Where the log stops being what RocksDB wrote.
struct Broken {
    /// The fragment that is not good.
    at: usize,
    /// Where the fragment ends by its head, or its block if the head says nothing.
    end: usize,
    /// Whether it is all there, by its head.
    whole: bool,
    /// Where the record begins that it is a part of.
    record: usize,
}

/// The first fragment that is not good; none if the last record ends the file.
fn first_broken(bytes: &[u8]) -> Option<Broken> {
    let (mut at, mut record) = (0, 0);
    while at < bytes.len() {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        let (length, kind) = header(bytes, at).unwrap_or_default();
        let ours = kind != ZERO && !RECYCLED.contains(&kind) && HEADER + length <= left;
        if !ours || !is_good(bytes, at) {
            let end = at + if ours { HEADER + length } else { left };
            return Some(Broken { at, end, whole: ours && end <= bytes.len(), record });
        }
        match kind {
            FIRST => record = at,
            MIDDLE => {}
            _ => record = at + HEADER + length,
        }
        at += HEADER + length;
    }
    None
}

fn header(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let header = bytes.get(at..at + HEADER)?;
    Some((usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]))
}

/// Whether a fragment with the right checksum begins at `at`.
fn is_good(bytes: &[u8], at: usize) -> bool {
    let Some((length, _)) = header(bytes, at) else { return false };
    let fits = HEADER + length <= BLOCK - at % BLOCK;
    let covered = bytes.get(at + HEADER - 1..at + HEADER + length).filter(|_| fits);
    covered.is_some_and(|covered| bytes[at..at + 4] == mask(crc32c(covered)).to_le_bytes())
}

/// Whether a good record begins at `at`.
fn begins_record(bytes: &[u8], at: usize) -> bool {
    header(bytes, at).is_some_and(|(_, kind)| matches!(kind, FULL | FIRST)) && is_good(bytes, at)
}

/// Whether a sector's part of `range` is only zeros: a write is torn between sectors.
fn never_written(bytes: &[u8], range: Range<usize>) -> bool {
    let mut at = range.start;
    let end = range.end.min(bytes.len());
    while at < end {
        let next = (at / SECTOR * SECTOR + SECTOR).min(end);
        if bytes[at..next].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = next;
    }
    false
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

    const LAST: u8 = 4;

    fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
        let covered = [&[kind], payload].concat();
        let length = u16::try_from(payload.len()).unwrap();
        [&mask(crc32c(&covered)).to_le_bytes()[..], &length.to_le_bytes(), &covered].concat()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        fragment(FULL, payload)
    }

    /// `bytes` without what lies in `hole`.
    fn holed(mut bytes: Vec<u8>, hole: Range<usize>) -> Vec<u8> {
        bytes[hole].fill(0);
        bytes
    }

    fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at] ^= 4;
        bytes
    }

    #[test]
    fn what_was_not_wholly_written_is_cut_off_and_damage_is_not() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let good = [record(b"one"), record(&[7; 900])].concat();
        let here = good.len();
        let ends_in_zeros = [&good[..], &record(&[7, 0, 0, 0])].concat();
        let foreign = [1, 2, 3, 4, 9, 0, 6, 8, 8];
        let promise = [1, 2, 3, 4, 0xff, 0x7f, FULL, 8];
        let nearly_a_block = record(&vec![7; BLOCK - 100]);
        let zeros = [0; 70_000];
        let long = record(&[7; 5000]);
        let parts = [fragment(FIRST, &vec![7; BLOCK - here - HEADER]), fragment(LAST, &[7; 5000])].concat();
        let many: Vec<u8> =
            std::iter::repeat_n(record(&[7; BLOCK - HEADER]), ON_ITS_WAY / BLOCK + 2).flatten().collect();
        for (name, bytes, left) in [
            ("a whole log", good.clone(), Some(here)),
            ("an empty one", Vec::new(), Some(0)),
            ("nothing but zeros", zeros.to_vec(), Some(0)),
            ("zeros behind", [&good[..], &zeros].concat(), Some(here)),
            ("a record that ends in zeros", [&ends_in_zeros[..], &zeros].concat(), Some(ends_in_zeros.len())),
            ("a torn record", [&good[..], &long[..4000]].concat(), Some(here)),
            ("a torn head", [&good[..], &long[..5]].concat(), Some(here)),
            ("a record torn before zeros", [&good[..], &long[..4000], &zeros].concat(), Some(here)),
            ("a page not written", [&good[..], &holed(long.clone(), 1000..2000), &zeros].concat(), Some(here)),
            ("its head not written", [&good[..], &holed(long.clone(), 0..2000), &zeros].concat(), Some(here)),
            ("nor a page in a record of parts", [&good[..], &holed(parts.clone(), 3000..4000)].concat(), Some(here)),
            ("nor the last of the parts", [&good[..], &parts[..BLOCK - here], &zeros].concat(), Some(here)),
            ("a page, but more behind", [&good[..], &holed(long.clone(), 1000..2000), &good].concat(), Some(here)),
            ("a page, but much more behind", [holed(many.clone(), 1000..2000), good.clone()].concat(), None),
            ("a wrong checksum at the end", [&good[..], &flipped(long.clone(), 900)].concat(), Some(here + long.len())),
            ("and within", [&good[..], &flipped(long.clone(), 900), &good].concat(), None),
            ("foreign bytes behind", [&good[..], &foreign].concat(), Some(here)),
            ("and zeros", [&good[..], &foreign, &zeros].concat(), Some(here)),
            ("and much of them", [&good[..], &foreign, &[0x55; 70_000]].concat(), Some(here)),
            ("half a record that no block holds", [&good[..], &promise].concat(), Some(here)),
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
                    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    assert_eq!(mended.unwrap(), end.saturating_sub(left) as u64, "{name}");
                    assert!(fs::read(&path).unwrap() == bytes[..left], "{name}");
                }
                None => {
                    assert_eq!(mended.unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
                    assert!(fs::read(&path).unwrap() == bytes, "{name}: nothing is touched");
                }
            }
        }
        assert_eq!(mend(Path::new("/nowhere/at/all")).unwrap(), 0);
    }
}
