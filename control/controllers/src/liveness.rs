//! When each node last gave a sign of life, by this process's own clock.
//!
//! Invariants
//! - A node is silent from the moment its Lease was last *seen* to change here. A new leader gives
//!   every node the full grace.
//! - If this process itself was stopped for a while, nobody is blamed: every node starts anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::world::World;

/// How often this process checks that it is running at all.
const TICK: Duration = Duration::from_millis(500);
/// A longer gap between two checks means that it was not.
const STALL: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(crate) struct Liveness {
    /// By node: the renewal last seen, and when.
    seen: Mutex<HashMap<String, (String, Instant)>>,
}

impl Liveness {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, Instant)>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A Lease is there, renewed at `renewal`. True if the node had not been heard of lately.
    pub fn heard(&self, node: &str, renewal: String) {
        let mut seen = self.lock();
        match seen.get_mut(node) {
            Some((known, _)) if *known == renewal => {}
            Some(entry) => *entry = (renewal, Instant::now()),
            None => drop(seen.insert(node.to_owned(), (renewal, Instant::now()))),
        }
    }

    /// A node is gone.
    pub fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    /// How long a node has been silent. The first question about a node starts its clock.
    pub fn silent(&self, node: &str) -> Duration {
        let mut seen = self.lock();
        let (_, at) = seen.entry(node.to_owned()).or_insert_with(|| (String::new(), Instant::now()));
        at.elapsed()
    }

    fn restart(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|(_, at)| *at = now);
    }
}

/// Watches for stalls of this process until `stop`.
pub(crate) async fn run(world: Arc<World>, stop: CancellationToken) {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: a timer holds nothing.
            () = tokio::time::sleep(TICK) => {}
        }
        let gap = last.elapsed();
        last = Instant::now();
        if gap > STALL {
            warn!(gap_ms = gap.as_millis(), "this process stood still; nodes get their grace anew");
            world.liveness.restart();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_renewal_counts() {
        let liveness = Liveness::default();
        liveness.heard("n", "1".into());
        let first = liveness.lock()["n"].1;
        liveness.heard("n", "1".into());
        assert_eq!(liveness.lock()["n"].1, first);
        liveness.heard("n", "2".into());
        assert!(liveness.lock()["n"].1 >= first);
        assert!(liveness.silent("new") < STALL);
    }
}
