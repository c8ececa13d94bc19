//! Looks on at the leader's writes, numbers them, and says when the leader dies.
//!
//! Invariants
//! - One write of the leader is under way at a time: the next begins when the one before was heard of.
//! - A leader that is to die makes no more writes, and hears of none beyond that.
//! - Events for people are not numbered, nor held up: they are beside the work.

use std::time::Duration;

use futures::future::BoxFuture;
use kontiki_api::witness::{Witness, Write};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long a write may take before another goes on without it: one whose maker gave up does not say so.
const PATIENCE: Duration = Duration::from_secs(120);
/// The number of what is not numbered.
const ASIDE: u64 = u64::MAX;

/// Where around a write the leader dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// The write does not reach the API.
    Before,
    /// It is committed, and the leader has not heard.
    Unheard,
    /// The leader has heard, and goes no further than its next write.
    After,
}

impl When {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Unheard, Self::After];
}

/// When the leader dies: around which of its writes, the first being 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kill {
    /// The write.
    pub write: usize,
    /// Where around it.
    pub when: When,
}

#[derive(Default)]
struct State {
    /// What the leader did since [`Killer::begin`], in words.
    writes: Vec<String>,
    begun: bool,
    under_way: Option<u64>,
    next: u64,
    kill: Option<Kill>,
    dying: bool,
    kills: usize,
}

/// See the module.
#[derive(Default)]
pub struct Killer {
    state: Mutex<State>,
    /// A write is over.
    over: Notify,
    /// The leader is to die.
    signal: Notify,
}

fn words(write: &Write<'_>) -> String {
    let target = &write.target;
    let sub = target.subresource.map_or(String::new(), |sub| format!("/{sub}"));
    let namespace = target.namespace.map_or(String::new(), |namespace| format!("{namespace}/"));
    format!("{} {} {}{sub} {namespace}{}", write.writer.name(), write.verb.as_str(), target.resource, target.name)
}

impl Killer {
    /// From now on writes are numbered.
    pub fn begin(&self, kill: Option<Kill>) {
        let mut state = self.state.lock();
        state.begun = true;
        state.kill = kill;
    }

    /// What the leader did.
    pub fn writes(&self) -> Vec<String> {
        self.state.lock().writes.clone()
    }

    /// How many leaders died.
    pub fn kills(&self) -> usize {
        self.state.lock().kills
    }

    /// Waits until the leader is to die.
    pub async fn due(&self) {
        self.signal.notified().await;
    }

    /// The leader is dead, with all that was under way.
    pub fn killed(&self) {
        let mut state = self.state.lock();
        state.dying = false;
        state.under_way = None;
        state.kills += 1;
        state.kill = None;
    }

    fn die_if_due(&self, state: &mut State, number: u64, when: When) -> bool {
        let is_due = state.kill.is_some_and(|kill| kill.when == when && kill.write as u64 == number);
        if is_due {
            state.dying = true;
            self.signal.notify_one();
        }
        is_due
    }

    /// Begins a write, if none is under way. `None`: not yet. `Some(None)`: never.
    fn enter(&self, words: &str, impatient: bool) -> Option<Option<u64>> {
        let mut state = self.state.lock();
        if state.dying {
            return Some(None);
        }
        if state.under_way.is_some() && !impatient {
            return None;
        }
        if !state.begun {
            state.under_way = Some(ASIDE - 1);
            return Some(Some(ASIDE - 1));
        }
        let number = state.next;
        state.next += 1;
        state.writes.push(words.to_owned());
        if self.die_if_due(&mut state, number, When::Before) {
            return Some(None);
        }
        state.under_way = Some(number);
        Some(Some(number))
    }

    async fn queue(&self, words: String) -> u64 {
        let mut impatient = false;
        loop {
            let over = self.over.notified();
            match self.enter(&words, impatient) {
                Some(Some(number)) => return number,
                Some(None) => std::future::pending().await,
                None => impatient = tokio::time::timeout(PATIENCE, over).await.is_err(),
            }
        }
    }

    fn leave(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        if state.dying || self.die_if_due(&mut state, number, When::Unheard) {
            return false;
        }
        if state.under_way == Some(number) {
            state.under_way = None;
        }
        self.die_if_due(&mut state, number, When::After);
        true
    }
}

impl Witness for Killer {
    fn before(&self, write: Write<'_>) -> BoxFuture<'_, u64> {
        if write.target.resource.resource == "events" {
            return Box::pin(std::future::ready(ASIDE));
        }
        Box::pin(self.queue(words(&write)))
    }

    fn after(&self, number: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if number == ASIDE {
                return;
            }
            if !self.leave(number) {
                std::future::pending::<()>().await;
            }
            self.over.notify_one();
        })
    }
}
