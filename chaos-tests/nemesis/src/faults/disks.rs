//! Disks that fill up, stall, and lose their power; logs whose last record was torn.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rand::{Rng, RngCore, rngs::StdRng};

use super::{any, either, processes::names};
use crate::group::{Group, name};

pub fn full(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut slots = group.present();
    if rng.random_bool(0.7) {
        slots = vec![any(group, rng)];
    }
    slots.iter().try_for_each(|slot| group.hurt_disk(*slot)?.fill())?;
    Ok(names(&slots))
}

/// Kills a member and appends to its newest write-ahead log. Only bytes that come after everything
/// acknowledged are touched: nothing that is there is changed.
fn append(group: &mut Group, rng: &mut StdRng, what: &str, tail: &[u8]) -> Result<String> {
    let slot = any(group, rng);
    group.kill(slot)?;
    let Some(log) = newest_log(&group.data(slot)) else { return Ok(format!("{} (it has no such log)", name(slot))) };
    let end = end_of_log(&fs::read(&log)?);
    OpenOptions::new().write(true).open(&log)?.write_all_at(tail, end as u64)?;
    Ok(format!("{} with {} bytes of {what}", name(slot), tail.len()))
}

/// Killed while writing: the newest write-ahead log ends in a part of a record.
pub fn torn(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut tail = vec![0; rng.random_range(1..2000)];
    if rng.random_bool(0.4) {
        return append(group, rng, "zeros", &tail);
    }
    // A record's head (checksum, length, type "full") that promises more than follows.
    rng.fill_bytes(&mut tail);
    let head = [0x12, 0x34, 0x56, 0x78, 0xff, 0x7f, 1];
    let length = head.len().min(tail.len());
    tail[..length].copy_from_slice(&head[..length]);
    append(group, rng, "half a record", &tail)
}

/// Worse than a torn write: whatever lay on the disk before. It promises more than a record can hold (a whole
/// record with a wrong checksum is damage, and refused). Half of the time it starts like a record of a log
/// file that RocksDB has used twice, which this one is not.
pub fn garbage(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut tail = vec![0; rng.random_range(7..2000)];
    rng.fill_bytes(&mut tail);
    tail[5] |= 0x80;
    if rng.random_bool(0.5) {
        tail[6] = rng.random_range(5..9);
    }
    append(group, rng, &format!("garbage of type {}", tail[6]), &tail)
}

/// Where the last record of a RocksDB log ends: the file can be longer than what is in it. In blocks of
/// 32 KiB each part of a record has a head of seven bytes, with its length in two and its type in the last.
fn end_of_log(log: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let left = (32 << 10) - at % (32 << 10);
        if left < 7 {
            at += left;
            continue;
        }
        match log.get(at..at + 7) {
            Some(head) if head[6] != 0 => at += 7 + usize::from(u16::from_le_bytes([head[4], head[5]])),
            _ => return at,
        }
    }
}

/// RocksDB's newest `NNNNNN.log`, wherever it lies below.
fn newest_log(dir: &Path) -> Option<PathBuf> {
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let found = if path.is_dir() { newest_log(&path) } else { Some(path) };
        let Some(path) = found.filter(|path| path.extension().is_some_and(|ext| ext == "log")) else { continue };
        let number = path.file_stem().and_then(|stem| stem.to_string_lossy().parse().ok());
        best = best.max(number.map(|number| (number, path)));
    }
    best.map(|(_, path)| path)
}

/// What was not synced is gone. The processes go first: one that runs on over an ext4 that is being shut down
/// is told now and then that a sync has succeeded which has not (6 of 240 logs lost their last acknowledged
/// record so), and would acknowledge what no power cut would have let it.
fn cut(group: &mut Group, slots: &[usize]) -> Result<String> {
    slots.iter().try_for_each(|slot| group.kill(*slot))?;
    slots.iter().try_for_each(|slot| group.hurt_disk(*slot)?.power_cut())?;
    slots.iter().try_for_each(|slot| group.hurt_disk(*slot)?.unmount())?;
    Ok(names(slots))
}

pub async fn power_cut(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    cut(group, &[slot])
}

/// Everybody at once: what was acknowledged is on at least one disk of those that come back, or lost.
pub fn power_cut_all(group: &mut Group) -> Result<String> {
    let slots = group.present();
    cut(group, &slots)
}

pub async fn stall(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    group.hurt_disk(slot)?.freeze()?;
    Ok(name(slot))
}
