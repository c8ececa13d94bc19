//! The work queue of one controller: keys, each at most once.
//!
//! Invariants
//! - A key is in one turn at a time. What comes in meanwhile makes one more turn afterwards.
//! - A turn sees caches that are at least as new as the key's own last write, and as the queue's beginning.
//! - A failing key waits, longer each time, with jitter; it never holds up another.
//! - Memory is bounded by the number of keys with work, a wait or a failure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kontiki_model::Revision;
use rand::Rng as _;
use tokio::sync::Notify;

use crate::controller::Key;
use crate::metrics::Measured;

/// Wait after the first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// Longest wait.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How a turn ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct TurnEnd {
    /// The next turn has to see this.
    pub floor: Revision,
    /// When to look again, if nothing happens before.
    pub wake: Option<Instant>,
    /// Whether to try again after a pause.
    pub retry: bool,
}

/// What a turn starts with.
#[derive(Clone, Debug)]
pub(crate) struct Turn<K> {
    pub key: K,
    pub floor: Revision,
}

#[derive(Default)]
struct Work {
    /// Since when it waits for a turn.
    waiting: Option<Instant>,
    /// Since when it is in one.
    running: Option<Instant>,
    again: bool,
    retries: u32,
    due: Option<Instant>,
    floor: Revision,
}

impl Work {
    fn idle(&self) -> bool {
        self.waiting.is_none() && self.running.is_none() && self.due.is_none() && self.retries == 0
    }
}

struct State<K> {
    keys: HashMap<K, Work>,
    ready: VecDeque<K>,
    due: BTreeSet<(Instant, K)>,
    /// The highest floor of keys that are not remembered any more.
    floor: Revision,
    metrics: Arc<Measured>,
}

impl<K: Key> State<K> {
    fn add(&mut self, key: K, now: Instant) {
        let work = self.keys.entry(key.clone()).or_default();
        if work.running.is_some() {
            if !std::mem::replace(&mut work.again, true) {
                self.metrics.added();
            }
        } else if work.waiting.is_none() {
            work.waiting = Some(now);
            self.ready.push_back(key);
            self.metrics.added();
            self.metrics.depth(self.ready.len());
        }
    }

    fn add_at(&mut self, key: &K, at: Instant) {
        let work = self.keys.entry(key.clone()).or_default();
        if work.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = work.due.replace(at) {
            self.due.remove(&(due, key.clone()));
        }
        self.due.insert((at, key.clone()));
    }

    fn ripen(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, key.clone()));
            if let Some(work) = self.keys.get_mut(&key) {
                work.due = None;
            }
            self.add(key, now);
        }
    }

    fn take(&mut self, now: Instant) -> Option<Turn<K>> {
        let key = self.ready.pop_front()?;
        let work = self.keys.get_mut(&key)?;
        let waited = work.waiting.take().map(|since| now.saturating_duration_since(since));
        work.running = Some(now);
        self.metrics.started(waited.unwrap_or_default(), now);
        self.metrics.depth(self.ready.len());
        Some(Turn { floor: work.floor.max(self.floor), key })
    }
}

/// See the module.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    more: Notify,
}

impl<K: Key> Queue<K> {
    /// An empty one, whose turns see `floor` at least.
    pub fn new(floor: Revision, metrics: Arc<Measured>) -> Self {
        let (keys, ready, due) = (HashMap::new(), VecDeque::new(), BTreeSet::new());
        Self { state: Mutex::new(State { keys, ready, due, floor, metrics }), more: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for a turn of `key`.
    pub fn add(&self, key: K) {
        self.lock().add(key, Instant::now());
        self.more.notify_one();
    }

    /// The next key; waits for one. It must be given back with [`Self::done`].
    ///
    /// # Cancel safety
    /// No key is lost if it is dropped.
    pub async fn next(&self) -> Turn<K> {
        loop {
            let more = self.more.notified();
            let due = {
                let mut state = self.lock();
                let now = Instant::now();
                state.ripen(now);
                if let Some(turn) = state.take(now) {
                    return turn;
                }
                state.due.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => tokio::select! {
                    () = more => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                None => more.await,
            }
        }
    }

    /// Ends a turn.
    pub fn done(&self, key: &K, end: TurnEnd) {
        let mut state = self.lock();
        let now = Instant::now();
        let Some(work) = state.keys.get_mut(key) else { return };
        let began = work.running.take();
        work.floor = work.floor.max(end.floor);
        let again = std::mem::take(&mut work.again);
        work.retries = if end.retry { work.retries.saturating_add(1) } else { 0 };
        let retries = work.retries;
        if let Some(began) = began {
            state.metrics.ended(began, now);
        }
        if let Some(at) = end.wake {
            state.add_at(key, at);
        }
        if end.retry {
            state.metrics.retried();
            state.add_at(key, now + pause(retries));
        }
        if again {
            state.ready.push_back(key.clone());
            let depth = state.ready.len();
            state.metrics.depth(depth);
            if let Some(work) = state.keys.get_mut(key) {
                work.waiting = Some(now);
            }
        }
        if state.keys.get(key).is_some_and(Work::idle) {
            let floor = state.keys.remove(key).map(|work| work.floor).unwrap_or_default();
            state.floor = state.floor.max(floor);
        }
        drop(state);
        self.more.notify_one();
    }
}

fn pause(retries: u32) -> Duration {
    let longest = FIRST_RETRY.saturating_mul(1 << retries.saturating_sub(1).min(16)).min(LAST_RETRY);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::new(Revision(3), Arc::default())
    }

    fn take(queue: &Queue<&'static str>) -> &'static str {
        let mut state = queue.lock();
        state.ripen(Instant::now());
        state.take(Instant::now()).map(|turn| turn.key).unwrap_or_default()
    }

    #[test]
    fn a_key_waits_once_and_runs_alone() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!((take(&queue), take(&queue), take(&queue)), ("a", "b", ""));
        queue.add("a");
        assert_eq!(take(&queue), "", "in its turn");
        queue.done(&"a", TurnEnd::default());
        assert_eq!(take(&queue), "a", "one more turn afterwards");
    }

    #[test]
    fn a_failure_waits_and_keeps_its_floor() {
        let queue = queue();
        queue.add("a");
        take(&queue);
        queue.done(&"a", TurnEnd { retry: true, floor: Revision(7), ..TurnEnd::default() });
        assert_eq!(take(&queue), "");
        let due = queue.lock().due.first().copied().expect("a retry").0;
        let turn = {
            let mut state = queue.lock();
            state.ripen(due);
            state.take(due).expect("ripe")
        };
        assert_eq!(turn.floor, Revision(7));
    }

    #[test]
    fn a_key_at_rest_is_forgotten() {
        let queue = queue();
        queue.add("a");
        assert_eq!(queue.lock().take(Instant::now()).expect("added").floor, Revision(3), "the beginning is seen");
        queue.done(&"a", TurnEnd { floor: Revision(7), ..TurnEnd::default() });
        assert!(queue.lock().keys.is_empty());
        queue.add("b");
        let turn = queue.lock().take(Instant::now()).expect("added");
        assert_eq!(turn.floor, Revision(7), "but what it wrote is still waited for");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert!(pause(1) <= FIRST_RETRY);
        assert!(pause(5) >= FIRST_RETRY);
        assert!(pause(u32::MAX) <= LAST_RETRY);
    }
}
