//! Snapshots that lists were begun from, so that their next pages need not come from history.

use std::time::{Duration, Instant};

use kontiki_cache::Snapshot;
use kontiki_store::Revision;
use parking_lot::Mutex;

/// Snapshots kept for the next pages; each costs what has changed since.
const REMEMBERED: usize = 16;
/// How long a page may be asked for from memory. History is kept about as long.
const REMEMBER_FOR: Duration = Duration::from_secs(300);

/// Recent snapshots that pages were served from.
#[derive(Default)]
pub(crate) struct Pages(Mutex<Vec<(Instant, Snapshot)>>);

impl Pages {
    pub fn remember(&self, snapshot: &Snapshot) {
        let mut kept = self.0.lock();
        kept.retain(|(at, s)| at.elapsed() < REMEMBER_FOR && s.revision() != snapshot.revision());
        if kept.len() == REMEMBERED {
            kept.remove(0);
        }
        kept.push((Instant::now(), snapshot.clone()));
    }

    pub fn at(&self, revision: Revision) -> Option<Snapshot> {
        let mut kept = self.0.lock();
        kept.retain(|(at, _)| at.elapsed() < REMEMBER_FOR);
        kept.iter().find(|(_, s)| s.revision() == revision).map(|(_, s)| s.clone())
    }
}
