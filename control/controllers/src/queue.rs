//! The work queue of one controller: keys, each at most once.
//!
//! Invariants
//! - A key is in one turn at a time. What comes in meanwhile makes one more turn afterwards.
//! - A turn sees caches that are at least as new as the key's own last write.
//! - A failing key waits, longer each time, with jitter; it never holds up another.
//! - Memory is bounded by the number of keys with work, a wait or a failure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kontiki_model::Revision;
use kontiki_plan::replicaset::Failure;
use rand::Rng as _;
use tokio::sync::Notify;

/// Wait after the first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// Longest wait.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How a turn ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The next turn has to see this.
    pub floor: Revision,
    /// When to look again, if nothing happens before.
    pub wake: Option<Instant>,
    /// Whether to try again after a pause.
    pub retry: bool,
    /// What the API refused.
    pub failure: Option<Failure>,
}

/// What a turn starts with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub key: String,
    pub floor: Revision,
    pub failure: Option<Failure>,
}

#[derive(Default)]
struct Key {
    waiting: bool,
    running: bool,
    again: bool,
    retries: u32,
    due: Option<Instant>,
    floor: Revision,
    failure: Option<Failure>,
}

impl Key {
    fn idle(&self) -> bool {
        !self.waiting && !self.running && self.due.is_none() && self.retries == 0 && self.failure.is_none()
    }
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    ready: VecDeque<String>,
    due: BTreeSet<(Instant, String)>,
    /// The highest floor of keys that are not remembered any more.
    floor: Revision,
}

impl State {
    fn add(&mut self, name: &str) {
        let key = self.keys.entry(name.to_owned()).or_default();
        if key.running {
            key.again = true;
        } else if !key.waiting {
            key.waiting = true;
            self.ready.push_back(name.to_owned());
        }
    }

    fn add_at(&mut self, name: &str, at: Instant) {
        let key = self.keys.entry(name.to_owned()).or_default();
        if key.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = key.due.replace(at) {
            self.due.remove(&(due, name.to_owned()));
        }
        self.due.insert((at, name.to_owned()));
    }

    fn ripen(&mut self, now: Instant) {
        while let Some((at, name)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, name.clone()));
            if let Some(key) = self.keys.get_mut(&name) {
                key.due = None;
            }
            self.add(&name);
        }
    }

    fn take(&mut self) -> Option<Start> {
        let name = self.ready.pop_front()?;
        let key = self.keys.get_mut(&name)?;
        key.waiting = false;
        key.running = true;
        Some(Start { floor: key.floor.max(self.floor), failure: key.failure.clone(), key: name })
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    more: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks for a turn of `key`.
    pub fn add(&self, key: &str) {
        self.lock().add(key);
        self.more.notify_one();
    }

    /// Keys with a turn to come now.
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    /// The next key; waits for one. It must be given back with [`Self::done`].
    ///
    /// # Cancel safety
    /// No key is lost if it is dropped.
    pub async fn next(&self) -> Start {
        loop {
            let more = self.more.notified();
            let due = {
                let mut state = self.lock();
                state.ripen(Instant::now());
                if let Some(start) = state.take() {
                    return start;
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
    pub fn done(&self, name: &str, outcome: Outcome) {
        let mut state = self.lock();
        let Some(key) = state.keys.get_mut(name) else { return };
        key.running = false;
        key.floor = key.floor.max(outcome.floor);
        key.failure = outcome.failure;
        let again = std::mem::take(&mut key.again);
        key.retries = if outcome.retry { key.retries.saturating_add(1) } else { 0 };
        let retries = key.retries;
        if let Some(at) = outcome.wake {
            state.add_at(name, at);
        }
        if outcome.retry {
            state.add_at(name, Instant::now() + pause(retries));
        }
        if again {
            state.add(name);
        }
        if state.keys.get(name).is_some_and(Key::idle) {
            let floor = state.keys.remove(name).map(|key| key.floor).unwrap_or_default();
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

    fn take(queue: &Queue) -> String {
        let mut state = queue.lock();
        state.ripen(Instant::now());
        state.take().map(|start| start.key).unwrap_or_default()
    }

    #[test]
    fn a_key_waits_once_and_runs_alone() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!((take(&queue), take(&queue), take(&queue)), ("a".into(), "b".into(), String::new()));
        queue.add("a");
        assert_eq!(take(&queue), "", "in its turn");
        queue.done("a", Outcome::default());
        assert_eq!(take(&queue), "a", "one more turn afterwards");
    }

    #[test]
    fn a_failure_waits_and_keeps_its_floor() {
        let queue = Queue::default();
        queue.add("a");
        take(&queue);
        queue.done("a", Outcome { retry: true, floor: Revision(7), ..Outcome::default() });
        assert_eq!(take(&queue), "");
        let due = queue.lock().due.first().cloned().expect("a retry").0;
        let start = {
            let mut state = queue.lock();
            state.ripen(due);
            state.take().expect("ripe")
        };
        assert_eq!(start.floor, Revision(7));
    }

    #[test]
    fn a_key_at_rest_is_forgotten() {
        let queue = Queue::default();
        queue.add("a");
        take(&queue);
        queue.done("a", Outcome { floor: Revision(7), ..Outcome::default() });
        assert!(queue.lock().keys.is_empty());
        queue.add("b");
        assert_eq!(queue.lock().take().expect("added").floor, Revision(7), "but what it wrote is still waited for");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert!(pause(1) <= FIRST_RETRY);
        assert!(pause(5) >= FIRST_RETRY);
        assert!(pause(u32::MAX) <= LAST_RETRY);
    }
}
