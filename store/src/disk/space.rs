//! Whether there is room to write.
//!
//! New writes are refused a little before the disk is really full, so that what is under way, and
//! the database's own housekeeping, still fit. They are taken again when there is clearly room.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::disk::{db::Db, writer::BatchWriter};

const MIB: u64 = 1 << 20;
/// Reserves that are free where there is much room: more than is written between two looks.
const WIDE: u64 = 32;

/// Whether there is room to write, looked at from time to time.
pub(crate) struct Disk {
    writer: Arc<BatchWriter>,
    low: AtomicBool,
}

impl Disk {
    pub fn new(writer: Arc<BatchWriter>) -> Self {
        Self { writer, low: AtomicBool::new(false) }
    }

    /// Whether new writes have to be refused.
    pub fn is_full(&self) -> bool {
        self.low.load(Ordering::Acquire) || self.writer.full.load(Ordering::Acquire)
    }

    pub fn writer(&self) -> &BatchWriter {
        &self.writer
    }

    /// Looks at the file system; tells whether there is much more room than is needed. Blocks.
    pub fn look(&self, db: &Db) -> bool {
        let Some((free, total)) = db.space() else { return false };
        let was = self.low.load(Ordering::Acquire);
        let is = is_low(free, total, was);
        if is != was {
            self.low.store(is, Ordering::Release);
            if is {
                tracing::error!(free, dir = %db.dir().display(), "the disk is almost full; writes are refused");
            } else {
                tracing::info!(free, "there is space on the disk again");
            }
        }
        free > WIDE * reserve(total)
    }
}

fn reserve(total: u64) -> u64 {
    (total / 20).clamp(8 * MIB, 64 * MIB)
}

fn is_low(free: u64, total: u64, was: bool) -> bool {
    let reserve = reserve(total);
    free < if was { reserve + reserve / 4 } else { reserve }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_refused_before_the_disk_is_full_and_resume_with_a_margin() {
        for (name, free, total, was, is) in [
            ("plenty", 5_000, 100_000, false, false),
            ("large disk keeps 64 MiB", 63, 100_000, false, true),
            ("small disk keeps a twentieth", 20, 400, false, false),
            ("tiny disk keeps 8 MiB", 7, 64, false, true),
            ("a little more is not enough to resume", 70, 100_000, true, true),
            ("clearly more is", 81, 100_000, true, false),
        ] {
            assert_eq!(is_low(free * MIB, total * MIB, was), is, "{name}");
        }
    }
}
