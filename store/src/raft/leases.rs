//! The leader's clock of leases: the shell round the pure `Lessor`.
//!
//! Invariants
//! - Apply tells of every lease that is made or ended; nobody walks over all of them but a new leader, once.

use std::{future, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::rt::{Instant, sleep};
use kontiki_state::{Lease, Snapshot, Term, lessor::Lessor, rows::LeaseRow};

/// When leases end, if this member leads.
pub(crate) struct Leases {
    lessor: Mutex<Lessor>,
    /// The lessor's time begins here.
    origin: Instant,
    /// A lease may end sooner than all that were known.
    news: Notify,
}

impl Leases {
    pub fn new() -> Self {
        Self { lessor: Mutex::default(), origin: Instant::now(), news: Notify::new() }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Apply made or ended these.
    pub fn changed(&self, rows: &[LeaseRow]) {
        let now = self.now();
        let mut lessor = self.lessor.lock();
        for row in rows {
            match row.ttl {
                Some(ttl) => lessor.granted(row.id, ttl, row.granted, now),
                None => lessor.ended(row.id),
            }
        }
        drop(lessor);
        self.news.notify_one();
    }

    /// The leases whose time is over, for the leader of `term`; they count as ending from now on. `show` tells
    /// all leases, for a new leader.
    pub fn due(&self, term: Term, show: impl FnOnce() -> Snapshot) -> Vec<i64> {
        let now = self.now();
        let mut lessor = self.lessor.lock();
        // What is applied after this look is told by `changed`, which waits for the lock.
        lessor.lead(term, || show().leases().clone(), now);
        lessor.due(now)
    }

    /// Ending the lease came to nothing: it is due again.
    pub fn not_ended(&self, id: i64) {
        self.lessor.lock().not_ended(id);
    }

    /// This member does not lead.
    pub fn resign(&self) {
        self.lessor.lock().resign();
    }

    /// Until a lease may be due.
    pub async fn next(&self) {
        let next = self.lessor.lock().soonest();
        let over = async {
            match next {
                Some(at) => sleep(at.saturating_sub(self.now())).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Both cancel-safe: whoever is woken looks at all there is.
            () = self.news.notified() => {}
            () = over => {}
        }
    }

    /// Gives a lease its whole time again. False if it is ending.
    pub fn keep_alive(&self, term: Term, id: i64, lease: &Lease, show: impl FnOnce() -> Snapshot) -> bool {
        let now = self.now();
        let mut lessor = self.lessor.lock();
        lessor.lead(term, || show().leases().clone(), now);
        lessor.keep_alive(id, lease, now)
    }

    /// How long a lease still has.
    pub fn remaining(&self, term: Term, id: i64, lease: &Lease) -> Duration {
        self.lessor.lock().remaining(term, id, lease, self.now())
    }
}
