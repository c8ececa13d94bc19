//! Disks that fill up, stall, and lose their power; logs whose last record was torn.

use std::{
    fs::{self, OpenOptions},
    io::Write,
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

/// Killed while writing: the newest write-ahead log ends in half a record. Only bytes that come after
/// everything acknowledged are touched: something is appended, nothing is changed.
pub fn torn(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = any(group, rng);
    group.kill(slot)?;
    let Some(log) = newest_log(&group.data(slot)) else { return Ok(format!("{} (it has no such log)", name(slot))) };
    let mut tail = vec![0; rng.random_range(1..2000)];
    let what = match rng.random_range(0..3) {
        0 => "zeros",
        1 => {
            rng.fill_bytes(&mut tail);
            "noise"
        }
        _ => {
            // A record's head (checksum, length, type "full") that promises more than follows.
            rng.fill_bytes(&mut tail);
            let head = [0x12, 0x34, 0x56, 0x78, 0xff, 0x7f, 1];
            let length = head.len().min(tail.len());
            tail[..length].copy_from_slice(&head[..length]);
            "half a record"
        }
    };
    OpenOptions::new().append(true).open(&log)?.write_all(&tail)?;
    Ok(format!("{} with {} bytes of {what}", name(slot), tail.len()))
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

/// The power goes first or the process does; either way what was not synced is gone.
fn cut(group: &mut Group, slot: usize, process_first: bool) -> Result<()> {
    if process_first {
        group.kill(slot)?;
        group.hurt_disk(slot)?.power_cut()?;
    } else {
        group.hurt_disk(slot)?.power_cut()?;
        group.kill(slot)?;
    }
    group.hurt_disk(slot)?.unmount()
}

pub async fn power_cut(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    cut(group, slot, rng.random_bool(0.5))?;
    Ok(name(slot))
}

/// Everybody at once: what was acknowledged is on at least one disk of those that come back, or lost.
pub fn power_cut_all(group: &mut Group) -> Result<String> {
    let slots = group.present();
    for slot in &slots {
        group.hurt_disk(*slot)?.power_cut()?;
    }
    slots.iter().try_for_each(|slot| group.kill(*slot))?;
    for slot in &slots {
        group.hurt_disk(*slot)?.unmount()?;
    }
    Ok(names(&slots))
}

pub async fn stall(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    group.hurt_disk(slot)?.freeze()?;
    Ok(name(slot))
}
