//! What readers of this member see: the state, the watch hub, and the way to history.
//!
//! Invariants
//! - Only the apply task changes a view.
//! - A state is visible before its events are published and before the writer is answered. Events reach watchers by a
//!   task of their own, in order: a writer does not wait for them, but for room in their queue.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{RwLock, RwLockWriteGuard};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    HistoryError,
    disk::{
        db::{Db, Families},
        history::{self, Step, state_record},
        past::{self, Question, Told, When},
        writer::WriteQueue,
    },
    rt,
    serve::hub::Hub,
};
use kontiki_state::{Batch, Entry, KeyRange, RangeQuery, RangeResult, Revision, Snapshot, query::answer, state::State};

/// How soon history is read again while a snapshot is on its way to being shown.
const SHOWN: Duration = Duration::from_millis(1);

/// Publications that may wait for the task that delivers them. Whoever applies waits beyond that.
const UNDELIVERED: usize = 256;

/// How many are told of the past of a key at a time.
const TELLING: usize = 2;

/// What the delivering task is told, in order.
pub(crate) enum News {
    /// Revisions, and the last one there is.
    Events(Vec<Batch>, Revision),
    /// A snapshot took the state to a revision.
    Replaced(Revision),
}

/// What readers of this member see.
pub(crate) struct View {
    pub hub: Hub,
    news: mpsc::Sender<News>,
    /// Sent and not delivered yet.
    undelivered: AtomicUsize,
    /// Changed in place, so that nodes of its maps are copied only while somebody holds a snapshot.
    state: RwLock<State>,
    epoch: AtomicU32,
    /// The soonest expiry, in Unix seconds; `u64::MAX` if nothing expires.
    next_expiry: AtomicU64,
    /// Index of the last applied entry.
    applied: watch::Sender<u64>,
    /// Who asks for the past of a key may cause a look at all rows that are kept.
    telling: Semaphore,
    db: Arc<Db>,
    queue: WriteQueue,
}

impl View {
    /// The view, and what [`View::deliver`] has to be run with.
    pub fn new(state: State, epoch: u32, db: Arc<Db>, queue: WriteQueue) -> (Self, mpsc::Receiver<News>) {
        let (news, rx) = mpsc::channel(UNDELIVERED);
        let view = Self {
            news,
            undelivered: AtomicUsize::new(0),
            hub: Hub::new(state.revision),
            epoch: AtomicU32::new(epoch),
            next_expiry: AtomicU64::new(next_expiry(&state)),
            applied: watch::channel(state.applied).0,
            telling: Semaphore::new(TELLING),
            state: RwLock::new(state),
            db,
            queue,
        };
        (view, rx)
    }

    pub fn snapshot(&self) -> Snapshot {
        self.state.read().snapshot()
    }

    /// A brief look at the state: whoever applies waits for it.
    pub fn look<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(&self.state.read())
    }

    /// The state, for whoever applies. What it does to it becomes visible as a whole.
    pub fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    pub fn compacted(&self) -> Revision {
        self.state.read().compacted()
    }

    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn next_expiry(&self) -> u64 {
        self.next_expiry.load(Ordering::Acquire)
    }

    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Tells what applying entries did to the state, which is visible already.
    pub async fn publish(&self, batches: Vec<Batch>) {
        let (revision, applied, next_expiry) = {
            let state = self.state.read();
            (state.revision, state.applied, next_expiry(&state))
        };
        self.next_expiry.store(next_expiry, Ordering::Release);
        self.applied.send_replace(applied);
        if self.undelivered.load(Ordering::Acquire) == 0 && !self.hub.has_watchers() {
            return self.hub.publish(&[], revision);
        }
        self.tell(News::Events(batches, revision)).await;
    }

    async fn tell(&self, news: News) {
        self.undelivered.fetch_add(1, Ordering::AcqRel);
        // The task ends with the store, and all watches with it.
        let _ = self.news.send(news).await;
    }

    /// Hands what is published to the watchers, until the view is gone.
    pub async fn deliver(self: Arc<Self>, mut rx: mpsc::Receiver<News>, stop: CancellationToken) {
        loop {
            let news = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: what is not received stays in the queue.
                news = rx.recv() => news,
            };
            match news {
                Some(News::Events(batches, upto)) => self.hub.publish(&batches, upto),
                Some(News::Replaced(revision)) => self.hub.replace(revision),
                None => return,
            }
            self.undelivered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Shows a state that a snapshot brought.
    pub async fn replace(&self, state: State, epoch: u32) {
        let (revision, applied) = (state.revision, state.applied);
        self.epoch.store(epoch, Ordering::Release);
        self.next_expiry.store(next_expiry(&state), Ordering::Release);
        *self.state.write() = state;
        self.applied.send_replace(applied);
        self.tell(News::Replaced(revision)).await;
    }

    /// Waits until the rows up to `revision` are in the database.
    pub async fn persisted(&self, revision: Revision) -> io::Result<()> {
        let _wanted = self.queue.want_rows().await?;
        let mut persisted = self.queue.persisted();
        persisted.wait_for(|at| *at >= revision).await.map_err(|_| crate::disk::failure::stopped())?;
        Ok(())
    }

    /// The next events of `range` after a revision. `whole`: with what was before each of them;
    /// otherwise the compacted revision itself can be told too, without what was before it.
    pub async fn step(self: Arc<Self>, range: KeyRange, after: Revision, whole: bool) -> Result<Step, HistoryError> {
        let upto = self.hub.published();
        let compacted = self.compacted();
        let oldest = if whole { after } else { after.next() };
        self.past(oldest, upto, move |db: &Families<'_>, epoch| {
            history::step(db, epoch, &range, after, upto, compacted)
        })
        .await
    }

    /// Answers a query as of its revision.
    pub async fn query_at(self: Arc<Self>, query: RangeQuery) -> Result<RangeResult, HistoryError> {
        let revision = Revision(query.revision.max(0).unsigned_abs());
        let then = self.range_at(query.range.clone(), revision).await?;
        Ok(answer(then.iter(), &query))
    }

    /// The keys of `range` as they were at `revision`.
    pub async fn range_at(
        self: Arc<Self>,
        range: KeyRange,
        revision: Revision,
    ) -> Result<Vec<Arc<Entry>>, HistoryError> {
        let now = self.snapshot();
        let current = now.revision();
        if revision > current {
            return Err(HistoryError::Future { current });
        }
        if revision == current {
            return Ok(now.entries(&range));
        }
        let read = move |db: &Families<'_>, epoch| history::range_at(db, epoch, &range, revision, &now);
        self.past(revision, current, read).await
    }

    /// What became of a key, also before what is compacted.
    pub async fn tell_past(self: Arc<Self>, question: Question) -> Result<Told, HistoryError> {
        let (current, own) =
            self.look(|state| (state.revision(), state.get(&question.key).map(|entry| entry.mod_revision)));
        if let When::Revision(revision) = question.upto
            && revision > current
        {
            return Err(HistoryError::Future { current });
        }
        self.persisted(current).await.map_err(|error| storage(&error))?;
        let _turn = self.telling.acquire().await.map_err(|error| HistoryError::Storage(error.to_string()))?;
        loop {
            let (view, question, epoch) = (Arc::clone(&self), question.clone(), self.epoch());
            let task = rt::blocking(move || {
                view.db.with(|db| Ok((past::tell(&db, epoch, &question, current, own)?, state_record(&db)?.epoch)))
            });
            let (told, now) = task.await.and_then(|read| read).map_err(|error| storage(&error))?;
            // A snapshot is in the database a little before it is shown.
            if now == epoch {
                return Ok(told);
            }
            rt::sleep(SHOWN).await;
        }
    }

    /// Reads history from `from` to `upto` once it is in the database.
    async fn past<T: Send + 'static>(
        self: Arc<Self>,
        from: Revision,
        upto: Revision,
        read: impl Fn(&Families<'_>, u32) -> io::Result<T> + Send + Sync + 'static,
    ) -> Result<T, HistoryError> {
        self.persisted(upto).await.map_err(|error| storage(&error))?;
        let read = Arc::new(read);
        loop {
            let (view, read, epoch) = (Arc::clone(&self), Arc::clone(&read), self.epoch());
            let task = rt::blocking(move || {
                view.db.with(|db| {
                    let result = read(&db, epoch)?;
                    Ok((result, state_record(&db)?.epoch))
                })
            });
            let (result, now) = task.await.and_then(|read| read).map_err(|error| storage(&error))?;
            // What was read is whole only if it was not being removed meanwhile: by a sweep, or by a
            // snapshot, which is in the database a little before it is shown.
            if self.compacted() > from {
                return Err(HistoryError::Compacted { oldest: self.compacted() });
            }
            if now == epoch {
                return Ok(result);
            }
            rt::sleep(SHOWN).await;
        }
    }
}

fn storage(error: &io::Error) -> HistoryError {
    HistoryError::Storage(error.to_string())
}

fn next_expiry(state: &State) -> u64 {
    state.expiring.first().map_or(u64::MAX, |(expires, _)| *expires)
}
