//! A client's watch: what it asks for, from a revision on, without gap or duplicate.
//!
//! Invariants
//! - `position` is the last revision of which everything has been handed out.
//! - A subscription joins its collection first and then reads from history what came before that. A collection that is
//!   filled anew sends it through history once more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_machinery::ResourceDef;
use kontiki_model::Revision;
use kontiki_store::{HistoryError, WatchItem};

use crate::backend::Watch;
use crate::collection::Collection;
use crate::dispatch::{Change, End, Interest, Item, Queue};
use crate::filter::Filter;
use crate::follow::{Cache, kind_prefix};

/// Why there is nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It fell behind, or what it still needed is no longer known.
    Lagged,
    /// The store stops.
    Stopped,
}

/// See the module.
pub struct Subscription {
    cache: Cache,
    collection: Arc<Collection>,
    interest: Arc<Interest>,
    /// What happened up to here was not asked for.
    after: Revision,
    position: Revision,
    past: Option<Past>,
    id: u64,
    queue: Queue,
}

/// History that is still to be read.
struct Past {
    watch: Watch,
    upto: Revision,
    ready: VecDeque<Item>,
}

impl Past {
    fn new(cache: &Cache, prefix: &Bytes, after: Revision, upto: Revision) -> Result<Option<Self>, HistoryError> {
        if after >= upto {
            return Ok(None);
        }
        let mut watch = cache.store().watch(prefix.clone(), Some(after))?;
        // Once history is read it is to say at once how far that went.
        watch.set_progress_interval(Duration::ZERO);
        Ok(Some(Self { watch, upto, ready: VecDeque::new() }))
    }
}

impl Cache {
    /// Tells of the objects of `def` under `prefix` that pass: of all that happens after `after`, or from now on. If
    /// `after` has not happened here yet, the first changes are those after it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Compacted` if what happened after `after` is no longer all known.
    pub fn subscribe(
        &self,
        def: &Arc<ResourceDef>,
        prefix: Bytes,
        filter: Filter,
        after: Option<Revision>,
    ) -> Result<Subscription, HistoryError> {
        let collection = self.collection(kind_prefix(&prefix));
        let interest = Arc::new(Interest { def: Arc::clone(def), prefix, filter });
        let (id, queue, joined) = self.join(&collection, &interest);
        let after = after.unwrap_or(joined);
        let mut subscription =
            Subscription { cache: self.clone(), collection, interest, after, position: after, past: None, id, queue };
        subscription.past = Past::new(self, &subscription.interest.prefix, after, joined)?;
        Ok(subscription)
    }

    /// Joins a collection; its queue has all that happens after the revision.
    fn join(&self, collection: &Collection, interest: &Arc<Interest>) -> (u64, Queue, Revision) {
        // Whatever happened up to here was told before, and is not in the queue.
        let seen = self.revision();
        let (id, queue, told) = collection.join(interest);
        (id, queue, seen.max(told))
    }
}

impl Subscription {
    /// The next change, and how it is seen.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Result<Item, Ended> {
        loop {
            if self.past.is_some() {
                if let Some(item) = self.next_past().await? {
                    return Ok(item);
                }
                continue;
            }
            match self.queue.rx.recv().await {
                Some((shown, change)) => {
                    self.position = self.position.max(change.revision);
                    if change.revision > self.after {
                        return Ok((shown, change));
                    }
                }
                None => self.rejoin()?,
            }
        }
    }

    /// The last revision of which everything has been handed out.
    #[must_use]
    pub fn position(&self) -> Revision {
        // In this order: what was seen before the queue was found empty has been in the queue.
        let seen = self.cache.revision();
        let is_live = self.past.is_none() && self.queue.end().is_none();
        if is_live && self.queue.rx.is_empty() { self.position.max(seen) } else { self.position }
    }

    async fn next_past(&mut self) -> Result<Option<Item>, Ended> {
        let Some(past) = &mut self.past else { return Ok(None) };
        if let Some((shown, change)) = past.ready.pop_front() {
            self.position = change.revision;
            return Ok(Some((shown, change)));
        }
        let reached = match past.watch.next().await {
            None => return Err(Ended::Stopped),
            Some(WatchItem::Lagged) => return Err(Ended::Lagged),
            Some(WatchItem::Progress(revision)) => revision,
            Some(WatchItem::Events(events)) => {
                let revision = events.first().map_or(past.upto, |event| event.entry.mod_revision);
                let wanted = events.iter().filter(|event| event.entry.mod_revision <= past.upto);
                let changes = wanted.map(|event| Arc::new(Change::of_event(event)));
                past.ready.extend(changes.filter_map(|change| Some((self.interest.sees(&change)?, change))));
                revision
            }
        };
        if reached >= past.upto && past.ready.is_empty() {
            self.position = self.position.max(past.upto);
            self.past = None;
        }
        Ok(None)
    }

    /// Joins again after the queue ended, if it may.
    fn rejoin(&mut self) -> Result<(), Ended> {
        match self.queue.end() {
            Some(End::Replaced) => {}
            Some(End::Lagged) => return Err(Ended::Lagged),
            None => return Err(Ended::Stopped),
        }
        let (id, queue, joined) = self.cache.join(&self.collection, &self.interest);
        (self.id, self.queue) = (id, queue);
        let past = Past::new(&self.cache, &self.interest.prefix, self.position, joined);
        self.past = past.map_err(|_| Ended::Lagged)?;
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.collection.leave(self.id);
    }
}
