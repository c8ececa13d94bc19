//! A subscription to changes: history first, then live, without gap or duplicate.
//!
//! Invariants
//! - `position` is the last revision of which everything has been handed out.
//! - Joining the hub happens only at the revision that history has been read to.
//! - A watch either delivers everything or ends with `Lagged`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    HistoryError,
    disk::history::Step,
    rt::{Instant, sleep_until},
    serve::{
        hub::{End, Subscription},
        view::View,
    },
};
use kontiki_state::{Batch, KeyRange, Revision};

/// How often a quiet watch says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// What a watch yields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchItem {
    /// The matching events of one revision, in the order they were made.
    Events(Batch),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The watcher fell behind, or what it still needed was compacted: the watch has ended.
    Lagged,
}

/// A subscription to the changes of a range of keys.
pub struct Watch {
    view: Arc<View>,
    range: KeyRange,
    /// What becomes of it when it falls behind: it ends, or reads on from history.
    persistent: bool,
    /// What happened up to here was not asked for.
    after: Revision,
    position: Revision,
    state: State,
    progress: Duration,
    next_progress: Instant,
}

enum State {
    /// Reading history after `position`; `ready` has been read and not handed out.
    Past {
        ready: VecDeque<Batch>,
        upto: Revision,
        reading: Option<BoxFuture<'static, Result<Step, HistoryError>>>,
    },
    Live(Subscription),
    Ended,
}

impl Watch {
    pub(crate) fn new(view: Arc<View>, range: KeyRange, after: Option<Revision>) -> Result<Self, HistoryError> {
        if let Some(after) = after {
            let compacted = view.compacted();
            if after < compacted {
                return Err(HistoryError::Compacted { oldest: compacted });
            }
        }
        Ok(Self::start(view, range, after, false))
    }

    /// A watch from a revision on, itself included, which may be the compacted one; it does not end
    /// because it is slow.
    pub(crate) fn persistent(view: Arc<View>, range: KeyRange, from: Option<Revision>) -> Result<Self, HistoryError> {
        let compacted = view.compacted();
        if from.is_some_and(|from| from < compacted) {
            return Err(HistoryError::Compacted { oldest: compacted });
        }
        Ok(Self::start(view, range, from.map(|from| Revision(from.0.saturating_sub(1))), true))
    }

    fn start(view: Arc<View>, range: KeyRange, after: Option<Revision>, persistent: bool) -> Self {
        let (position, state) = match after {
            None => {
                // What is shown already may not be published yet, and is no news.
                let shown = view.look(kontiki_state::Snapshot::revision);
                let (subscription, published) = view.hub.join_now(&range);
                (published.max(shown), State::Live(subscription))
            }
            Some(after) => (after, past(after)),
        };
        let next_progress = Instant::now() + PROGRESS;
        Self { view, range, persistent, after: position, position, state, progress: PROGRESS, next_progress }
    }

    /// Whether it has handed out all that happened up to `revision`. False for one that is to start
    /// later.
    #[must_use]
    pub fn has_seen(&self, revision: Revision) -> bool {
        let State::Live(subscription) = &self.state else { return false };
        let quiet = || self.view.hub.published() >= revision && subscription.rx.is_empty();
        self.after <= revision && (self.position >= revision || quiet())
    }

    /// Whether it is to hand out what happens after `revision`, and not only what happens later.
    #[must_use]
    pub fn starts_by(&self, revision: Revision) -> bool {
        self.after <= revision
    }

    /// Whether it is past history and hands out what happens as it happens.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Says how far it is this often, when there is nothing else to say.
    pub fn set_progress_interval(&mut self, interval: Duration) {
        self.progress = interval;
        self.next_progress = Instant::now() + interval;
    }

    /// The last revision of which everything has been handed out.
    #[must_use]
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The next item. `None` once the watch has ended (after `Lagged`, or when the store stops).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<WatchItem> {
        loop {
            match &mut self.state {
                State::Ended => return None,
                State::Past { .. } => {
                    if let Some(item) = self.next_past().await {
                        return Some(item);
                    }
                }
                State::Live(_) => {
                    if let Some(item) = self.next_live().await {
                        return Some(item);
                    }
                }
            }
        }
    }

    async fn next_live(&mut self) -> Option<WatchItem> {
        let State::Live(subscription) = &mut self.state else { return None };
        let received = tokio::select! {
            biased;
            // Cancel-safe: a batch stays queued until it is received.
            received = subscription.rx.recv() => received,
            // Cancel-safe: a dropped timer is made again from the same instant.
            () = sleep_until(self.next_progress) => {
                // Whatever is published by now is in the queue, or is not ours.
                let published = self.view.hub.published();
                match subscription.rx.try_recv() {
                    Ok(batch) => Some(batch),
                    Err(_) if subscription.rx.is_closed() => None,
                    Err(_) => {
                        self.next_progress = Instant::now() + self.progress;
                        self.position = self.position.max(published);
                        return Some(WatchItem::Progress(self.position));
                    }
                }
            }
        };
        let Some(batch) = received else { return self.ended() };
        let revision = batch.first().map_or(self.position, |event| event.entry.mod_revision);
        if revision <= self.position {
            // Asked to start in the future: what comes before is not wanted.
            return None;
        }
        Some(self.hand_out(batch, revision))
    }

    fn ended(&mut self) -> Option<WatchItem> {
        let State::Live(subscription) = &self.state else { return None };
        match subscription.end() {
            End::Replaced => {
                self.state = past(self.position);
                None
            }
            End::Lagged if self.persistent => {
                self.state = past(self.position);
                None
            }
            End::Lagged => Some(self.lagged()),
            End::Stopped => {
                self.state = State::Ended;
                None
            }
        }
    }

    async fn next_past(&mut self) -> Option<WatchItem> {
        let State::Past { ready, upto, reading } = &mut self.state else { return None };
        if let Some(batch) = ready.pop_front() {
            let revision = batch.first().map_or(*upto, |event| event.entry.mod_revision);
            return Some(self.hand_out(batch, revision));
        }
        self.position = self.position.max(*upto);
        if reading.is_none() {
            if let Some(subscription) = self.view.hub.join(&self.range, self.position) {
                self.state = State::Live(subscription);
                return None;
            }
            let step = Arc::clone(&self.view).step(self.range.clone(), self.position, !self.persistent);
            *reading = Some(Box::pin(step));
        }
        let result = reading.as_mut().expect("set above").await;
        *reading = None;
        match result {
            Ok(step) => {
                ready.extend(step.batches);
                *upto = step.upto;
                None
            }
            Err(error) => {
                tracing::debug!(%error, "a watch could not go on from history");
                Some(self.lagged())
            }
        }
    }

    fn hand_out(&mut self, batch: Batch, revision: Revision) -> WatchItem {
        self.position = revision;
        self.next_progress = Instant::now() + self.progress;
        WatchItem::Events(batch)
    }

    fn lagged(&mut self) -> WatchItem {
        self.state = State::Ended;
        WatchItem::Lagged
    }
}

fn past(after: Revision) -> State {
    State::Past { ready: VecDeque::new(), upto: after, reading: None }
}
