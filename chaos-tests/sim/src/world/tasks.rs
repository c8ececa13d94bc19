//! What runs in a world, and the alarm that says that it can go on.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Whose step it is. Member 0 is the world itself: its network and its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub member: u64,
    pub life: u64,
}

impl Owner {
    /// The world itself.
    pub const WORLD: Self = Self { member: 0, life: 0 };
}

pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task as the schedule keeps it.
pub struct Entry {
    pub owner: Owner,
    /// Missing while it is being run.
    pub work: Option<Work>,
    pub waker: Waker,
    pub alarm: Arc<Alarm>,
}

impl Entry {
    /// A new task, which can run at once.
    pub fn new(task: u64, owner: Owner, work: Work, ready: &Ready) -> Self {
        let alarm = Arc::new(Alarm { task, ready: ready.clone(), queued: AtomicBool::new(true) });
        ready.insert(task);
        Self { owner, work: Some(work), waker: Arc::clone(&alarm).into(), alarm }
    }
}

/// Tasks that can go on, by number: tokio wakes those who watch the same thing in no order at all.
#[derive(Clone, Default)]
pub struct Ready(Arc<Mutex<Vec<u64>>>);

impl Ready {
    pub fn insert(&self, task: u64) {
        let mut ready = self.0.lock();
        let at = ready.partition_point(|other| *other < task);
        ready.insert(at, task);
    }

    /// Takes one out. `choose` is told how many there are, if there are any.
    pub fn take(&self, choose: impl FnOnce(u64) -> u64) -> Option<u64> {
        let mut ready = self.0.lock();
        if ready.is_empty() {
            return None;
        }
        let chosen = choose(ready.len() as u64) as usize;
        Some(ready.remove(chosen))
    }
}

/// What a task's waker is made of.
pub struct Alarm {
    task: u64,
    ready: Ready,
    queued: AtomicBool,
}

impl Alarm {
    /// The task is about to run: the next alarm counts again.
    pub fn reset(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.insert(self.task);
        }
    }
}

/// The result of a task, once it has one.
pub struct Task<T>(pub oneshot::Receiver<T>);

/// The task's member died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the task was ended")
    }
}

impl std::error::Error for Ended {}

impl<T> Task<T> {
    /// The result, if there is one by now: `Err` if the task's member died first.
    pub fn poll(&mut self) -> Option<Result<T, Ended>> {
        match self.0.try_recv() {
            Ok(value) => Some(Ok(value)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Ended)),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Ended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Ended)
    }
}
