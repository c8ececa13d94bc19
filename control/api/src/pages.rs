//! Snapshots that lists were begun from, so that their next pages need not come from history.
//!
//! Invariant: how long a list may take counts from its first page. A client that asks for a page again and again is told
//! some time that its token is too old, as upstream does.

use std::time::{Duration, Instant};

use kontiki_cache::Snapshot;
use kontiki_store::Revision;
use parking_lot::Mutex;

/// Snapshots kept for the next pages; each costs what has changed since.
const REMEMBERED: usize = 16;
/// How long pages may be asked for from memory. History is kept about as long.
const REMEMBER_FOR: Duration = Duration::from_secs(300);

/// Recent snapshots that pages were served from.
#[derive(Default)]
pub(crate) struct Pages(Mutex<Kept<Snapshot>>);

impl Pages {
    pub fn remember(&self, snapshot: &Snapshot) {
        self.0.lock().remember(Instant::now(), snapshot.revision(), snapshot.clone());
    }

    pub fn at(&self, revision: Revision) -> Option<Snapshot> {
        self.0.lock().at(Instant::now(), revision)
    }
}

/// By when a page of it was asked for last; each with when that was so first.
struct Kept<T>(Vec<(Instant, Revision, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Kept<T> {
    fn remember(&mut self, now: Instant, revision: Revision, value: T) {
        self.forget(now);
        let known = self.0.iter().position(|(_, at, _)| *at == revision);
        let since = known.map_or(now, |place| self.0.remove(place).0);
        if self.0.len() == REMEMBERED {
            self.0.remove(0);
        }
        self.0.push((since, revision, value));
    }

    fn at(&mut self, now: Instant, revision: Revision) -> Option<T> {
        self.forget(now);
        self.0.iter().find(|(_, at, _)| *at == revision).map(|(_, _, value)| value.clone())
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|(since, ..)| now.duration_since(*since) < REMEMBER_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_pages_makes_no_list_last_longer() {
        let (mut kept, began) = (Kept::default(), Instant::now());
        let mut asked = 0;
        for second in (0..600).step_by(20) {
            let now = began + Duration::from_secs(second);
            if second == 0 || kept.at(now, Revision(1)).is_some() {
                kept.remember(now, Revision(1), "a page");
                asked = second;
            }
        }
        assert_eq!(asked, 280);
        let later = began + Duration::from_secs(1000);
        kept.remember(later, Revision(1), "the same again");
        assert!(kept.at(later + Duration::from_secs(299), Revision(1)).is_some());
    }

    #[test]
    fn those_that_nobody_asked_for_go_first() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        for revision in 0..16 {
            kept.remember(now, Revision(revision), revision);
        }
        kept.remember(now, Revision(0), 0);
        kept.remember(now, Revision(16), 16);
        let held: Vec<u64> = (0..17).filter_map(|revision| kept.at(now, Revision(revision))).collect();
        assert_eq!(held, [0].into_iter().chain(2..17).collect::<Vec<_>>());
    }
}
