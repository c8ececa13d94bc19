//! Code of others that runs here: reading objects, telling of changes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

/// Runs what others gave. A panic of theirs is told and costs what they were asked for, `None`; the cache, which all
/// others look at, goes on.
pub(crate) fn contained<T>(what: &'static str, key: &[u8], run: impl FnOnce() -> T) -> Option<T> {
    // Nothing here is half changed: what runs so gets shared references, and no lock of ours is held for it alone.
    let ran = catch_unwind(AssertUnwindSafe(run));
    ran.map_err(|_| error!(what, key = %String::from_utf8_lossy(key), "it panicked; this is a bug")).ok()
}
