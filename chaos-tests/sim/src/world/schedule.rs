//! Virtual time and the seeded schedule.
//!
//! Invariants
//! - A schedule lives on one thread and everything in it is decided by its seed: which task runs next, and how long
//!   things take. The same seed and the same requests give the same trace.
//! - A task belongs to one life of one member. When the member is killed, its tasks are gone between two of their steps,
//!   as a process is.
//! - Time passes only when nothing can run, but for a little with every step.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::OnceLock,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use tokio::sync::oneshot;

use super::{
    clock::Clock,
    rng::{Rng, mix},
    tasks::{Entry, Owner, Ready, Task, Work},
};

#[derive(Clone, Copy)]
struct Here {
    owner: Owner,
    /// The owner's monotonic clock, in nanoseconds.
    local: u64,
}

thread_local! {
    static HERE: Cell<Option<Here>> = const { Cell::new(None) };
    static SCHEDULE: RefCell<Option<Rc<Schedule>>> = const { RefCell::new(None) };
}

fn origin() -> Instant {
    // Instants cannot be made from nothing. Only differences are ever looked at.
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// The schedule of this thread's world.
pub fn current() -> Option<Rc<Schedule>> {
    SCHEDULE.try_with(|schedule| schedule.borrow().clone()).ok().flatten()
}

/// Who is at work.
pub fn here() -> Option<Owner> {
    HERE.get().map(|here| here.owner)
}

/// What the monotonic clock of whoever is at work shows, in nanoseconds.
pub fn local() -> u64 {
    HERE.get().map_or(0, |here| here.local)
}

/// The same as a point in time.
pub fn now() -> Instant {
    origin() + Duration::from_nanos(local())
}

/// A pause on the clock of whoever waits.
pub struct Sleep {
    deadline: Instant,
    timer: Option<(u64, u64)>,
}

impl Sleep {
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, timer: None }
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take()
            && let Some(schedule) = current()
        {
            schedule.timers.borrow_mut().remove(&timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.disarm();
        let left = self.deadline.saturating_duration_since(now());
        let (Some(schedule), Some(here)) = (current(), here()) else { return Poll::Ready(()) };
        if left.is_zero() {
            return Poll::Ready(());
        }
        self.timer = Some(schedule.wake_at(here.member, left, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Waits on the clock of whoever waits.
pub async fn pause(duration: Duration) {
    Sleep::until(now() + duration).await;
}

/// What comes of a future, if it does in time.
pub async fn within<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    let sleep = Sleep::until(now() + duration);
    match select(Box::pin(future), sleep).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// Starts a task of a member in its present life, from a task of the world.
pub fn run_on<T: Send + 'static>(member: u64, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (tx, rx) = oneshot::channel();
    if let Some(schedule) = current() {
        let owner = Owner { member, life: schedule.life(member) };
        schedule.add(
            owner,
            Box::pin(async move {
                // Nobody may be interested.
                let _ = tx.send(future.await);
            }),
        );
    }
    Task(rx)
}

/// See the module.
pub struct Schedule {
    now: Cell<u64>,
    steps: Cell<u64>,
    trace: Cell<u64>,
    next: Cell<u64>,
    pub rng: RefCell<Rng>,
    tasks: RefCell<BTreeMap<u64, Entry>>,
    ready: Ready,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    clocks: RefCell<BTreeMap<u64, Clock>>,
    /// Until when a member does nothing, and its tasks that could meanwhile.
    frozen: RefCell<BTreeMap<u64, (u64, Vec<u64>)>>,
    lives: RefCell<BTreeMap<u64, u64>>,
    panicked: RefCell<Option<String>>,
}

impl Schedule {
    /// The schedule of a seed, which becomes this thread's.
    ///
    /// # Panics
    /// If this thread has one already.
    pub fn begin(seed: u64) -> Rc<Self> {
        let schedule = Rc::new(Self {
            now: Cell::new(0),
            steps: Cell::new(0),
            trace: Cell::new(0),
            next: Cell::new(0),
            rng: RefCell::new(Rng::new(seed)),
            tasks: RefCell::default(),
            ready: Ready::default(),
            timers: RefCell::default(),
            clocks: RefCell::default(),
            frozen: RefCell::default(),
            lives: RefCell::default(),
            panicked: RefCell::default(),
        });
        let before = SCHEDULE.replace(Some(Rc::clone(&schedule)));
        assert!(before.is_none(), "one world at a time");
        HERE.set(Some(Here { owner: Owner::WORLD, local: 0 }));
        schedule
    }

    /// The thread has none any more.
    pub fn end() {
        HERE.set(None);
        SCHEDULE.take();
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// A digest of everything that happened, in order.
    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    fn number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Makes something that happened part of the trace.
    pub fn note(&self, what: u64) {
        self.trace.set(mix(self.trace.get() ^ what).wrapping_add(self.now.get()));
    }

    /// Which life a member lives.
    pub fn life(&self, member: u64) -> u64 {
        self.lives.borrow().get(&member).copied().unwrap_or(0)
    }

    fn alive(&self, owner: Owner) -> bool {
        self.life(owner.member) == owner.life
    }

    pub fn clock(&self, member: u64) -> Clock {
        self.clocks.borrow().get(&member).copied().unwrap_or_default()
    }

    /// Makes a member's clock go at `rate` millionths of the world's from now on, and its wall clock
    /// be `skew` seconds ahead.
    pub fn set_clock(&self, member: u64, rate: u64, skew: i64) {
        let base = (self.now(), self.clock(member).local(self.now()));
        self.clocks.borrow_mut().insert(member, Clock { base, rate, skew });
    }

    /// Adds a task, unless its owner is dead.
    pub fn add(&self, owner: Owner, work: Work) {
        if self.alive(owner) {
            let task = self.number();
            self.tasks.borrow_mut().insert(task, Entry::new(task, owner, work, &self.ready));
        }
    }

    /// Wakes when `left` has passed on the member's clock.
    fn wake_at(&self, member: u64, left: Duration, waker: Waker) -> (u64, u64) {
        let left = left.as_nanos() * 1_000_000 / u128::from(self.clock(member).rate);
        let at = self.now().saturating_add(u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1));
        let timer = (at, self.number());
        self.timers.borrow_mut().insert(timer, waker);
        timer
    }

    /// Runs `body` as a step of `owner`.
    fn enter<T>(&self, owner: Owner, body: impl FnOnce() -> T) -> T {
        let local = self.clock(owner.member).local(self.now());
        let before = HERE.replace(Some(Here { owner, local }));
        let result = body();
        HERE.set(before);
        result
    }

    /// Lets one task do one step; false if none can.
    fn step(&self) -> bool {
        let Some(task) = self.ready.take(|count| self.rng.borrow_mut().below(count)) else { return false };
        let Some((owner, mut work, waker)) = self.take_up(task) else { return true };
        self.steps.set(self.steps.get() + 1);
        self.note(task);
        let pause = self.rng.borrow_mut().between(500, 4000);
        self.now.set(self.now() + pause);
        let result = self.enter(owner, || {
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
            // What has ended is dropped as a step of its owner, too.
            polled.map(|poll| poll.is_pending().then_some(work))
        });
        match result {
            Ok(Some(work)) => {
                if let Some(entry) = self.tasks.borrow_mut().get_mut(&task) {
                    entry.work = Some(work);
                }
            }
            Ok(None) => drop(self.tasks.borrow_mut().remove(&task)),
            Err(panic) => {
                *self.panicked.borrow_mut() = Some(format!("member {} panicked: {}", owner.member, said(&*panic)));
                drop(self.tasks.borrow_mut().remove(&task));
            }
        }
        true
    }

    /// Takes a task's work, to run it; not if there is none any more, or its member is frozen.
    fn take_up(&self, task: u64) -> Option<(Owner, Work, Waker)> {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.get_mut(&task)?;
        if let Some((_, held)) = self.frozen.borrow_mut().get_mut(&entry.owner.member) {
            held.push(task);
            return None;
        }
        entry.alarm.reset();
        Some((entry.owner, entry.work.take()?, entry.waker.clone()))
    }

    /// Stops a member for a while.
    pub fn freeze(&self, member: u64, duration: Duration) {
        let until = self.now() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.frozen.borrow_mut().entry(member).or_default().0 = until;
    }

    /// Lets a frozen member go on.
    fn thaw(&self, member: u64) {
        let held = self.frozen.borrow_mut().remove(&member).map(|(_, held)| held);
        held.into_iter().flatten().for_each(|task| self.ready.insert(task));
    }

    /// Wakes whoever's time has come.
    fn ring(&self) {
        let over = |(member, (until, _)): (&u64, &(u64, Vec<u64>))| (*until <= self.now()).then_some(*member);
        let thawed: Vec<u64> = self.frozen.borrow().iter().filter_map(over).collect();
        thawed.into_iter().for_each(|member| self.thaw(member));
        loop {
            let waker = {
                let mut timers = self.timers.borrow_mut();
                match timers.first_entry() {
                    Some(first) if first.key().0 <= self.now() => first.remove(),
                    _ => return,
                }
            };
            waker.wake();
        }
    }

    /// Lets time pass until the world's clock shows so many nanoseconds.
    pub fn run_until(&self, deadline: u64) {
        while self.now() < deadline {
            self.ring();
            if self.step() {
                continue;
            }
            let timer = self.timers.borrow().first_key_value().map(|((at, _), _)| *at);
            let thaw = self.frozen.borrow().values().map(|(until, _)| *until).min();
            let next = timer.into_iter().chain(thaw).min().unwrap_or(deadline);
            self.now.set(next.clamp(self.now(), deadline));
        }
        // The clock that whoever looks from outside sees.
        HERE.set(Some(Here { owner: Owner::WORLD, local: self.now() }));
    }

    /// Ends a member's life; `unplug` is what has to happen before its tasks go.
    pub fn kill(&self, member: u64, unplug: impl FnOnce()) {
        let life = self.life(member);
        self.thaw(member);
        self.lives.borrow_mut().insert(member, life + 1);
        unplug();
        self.drop_tasks(|owner| owner == Owner { member, life });
    }

    /// Drops the tasks of some owners, as their own steps.
    pub fn drop_tasks(&self, of: impl Fn(Owner) -> bool) {
        loop {
            let doomed = {
                let mut tasks = self.tasks.borrow_mut();
                let doomed = tasks.iter().find(|(_, entry)| of(entry.owner)).map(|(task, _)| *task);
                doomed.and_then(|task| tasks.remove(&task))
            };
            let Some(entry) = doomed else { return };
            self.enter(entry.owner, || drop(entry.work));
        }
    }

    /// Why a task panicked, if one did since the last call.
    pub fn take_panic(&self) -> Option<String> {
        self.panicked.borrow_mut().take()
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
