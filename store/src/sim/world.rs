//! Virtual time and the seeded schedule.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    disk::{Crash, Disk},
    net::{Net, Weather},
    rng::{Rng, mix},
    seen::Seen,
};
use crate::rt::Instant;

/// The wall clock at the beginning of every world, in Unix seconds.
pub const EPOCH: u64 = 1_800_000_000;

/// Whose step it is. Member 0 is the world itself: its network and its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub member: u64,
    pub life: u64,
}

#[derive(Clone, Copy)]
struct Here {
    owner: Owner,
    /// The owner's monotonic clock, in nanoseconds.
    local: u64,
}

thread_local! {
    static HERE: Cell<Option<Here>> = const { Cell::new(None) };
    static WORLD: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

fn origin() -> std::time::Instant {
    // Instants cannot be made from nothing. Only differences are ever looked at.
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

/// The clock of the member whose step it is; `None` outside of a simulation.
pub(crate) fn instant() -> Option<std::time::Instant> {
    HERE.get().map(|here| origin() + Duration::from_nanos(here.local))
}

/// Whether this thread is inside of a simulation.
pub(crate) fn simulated() -> bool {
    HERE.get().is_some()
}

/// The wall clock of the member whose step it is.
pub(crate) fn unix_seconds() -> Option<u64> {
    let here = HERE.get()?;
    let skew = world()?.clocks.borrow().get(&here.owner.member).map_or(0, |clock| clock.skew);
    Some((EPOCH + here.local / 1_000_000_000).saturating_add_signed(skew))
}

/// A number from the world's generator.
pub(crate) fn random() -> Option<u64> {
    Some(world()?.rng.borrow_mut().draw())
}

/// How long something short takes.
pub(crate) fn moment() -> Duration {
    Duration::from_micros(world().map_or(0, |world| world.rng.borrow_mut().between(5, 500)))
}

/// Starts a task of whoever's step it is.
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
    let (tx, rx) = oneshot::channel();
    if let (Some(here), Some(world)) = (HERE.get(), world()) {
        world.add(here.owner, async move {
            // Nobody may be interested.
            let _ = tx.send(future.await);
        });
    }
    rx
}

pub(super) fn world() -> Option<Rc<Inner>> {
    WORLD.try_with(|world| world.borrow().clone()).ok().flatten()
}

/// Who is at work.
pub(super) fn here() -> Option<Owner> {
    HERE.get().map(|here| here.owner)
}

/// A pause on the clock of the member that waits.
pub struct Sleep {
    deadline: Instant,
    timer: Option<(u64, u64)>,
}

impl Sleep {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, timer: None }
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take()
            && let Some(world) = world()
        {
            world.timers.borrow_mut().remove(&timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.disarm();
        let left = self.deadline.into_std().saturating_duration_since(Instant::now().into_std());
        let (Some(world), Some(here)) = (world(), HERE.get()) else { return Poll::Ready(()) };
        if left.is_zero() {
            return Poll::Ready(());
        }
        self.timer = Some(world.wake_at(here.owner.member, left, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// A member's idea of time.
#[derive(Clone, Copy)]
struct Clock {
    /// World time and own time when the rate was last set.
    base: (u64, u64),
    /// Own nanoseconds in a million of the world's.
    rate: u64,
    /// Seconds its wall clock is ahead.
    skew: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { base: (0, 0), rate: 1_000_000, skew: 0 }
    }
}

impl Clock {
    fn local(&self, now: u64) -> u64 {
        let passed = u128::from(now - self.base.0) * u128::from(self.rate) / 1_000_000;
        self.base.1 + passed as u64
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Entry {
    owner: Owner,
    /// Missing while it is being run.
    work: Option<Work>,
    waker: Waker,
}

/// Tasks that can go on, by number: tokio wakes those who watch the same thing in no order at all.
type Ready = Arc<Mutex<Vec<u64>>>;

struct Alarm {
    task: u64,
    ready: Ready,
    queued: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            insert(&self.ready, self.task);
        }
    }
}

fn insert(ready: &Ready, task: u64) {
    let mut ready = ready.lock();
    let at = ready.partition_point(|other| *other < task);
    ready.insert(at, task);
}

pub(super) struct Inner {
    now: Cell<u64>,
    steps: Cell<u64>,
    trace: Cell<u64>,
    next: Cell<u64>,
    pub rng: RefCell<Rng>,
    tasks: RefCell<BTreeMap<u64, (Entry, Arc<Alarm>)>>,
    ready: Ready,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    clocks: RefCell<BTreeMap<u64, Clock>>,
    /// Until when a member does nothing, and its tasks that could meanwhile.
    frozen: RefCell<BTreeMap<u64, (u64, Vec<u64>)>>,
    lives: RefCell<BTreeMap<u64, u64>>,
    disks: RefCell<BTreeMap<u64, Disk>>,
    pub net: RefCell<Net>,
    pub seen: RefCell<Vec<Seen>>,
    panicked: RefCell<Option<String>>,
}

impl Inner {
    fn new(seed: u64) -> Self {
        Self {
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
            disks: RefCell::default(),
            net: RefCell::default(),
            seen: RefCell::default(),
            panicked: RefCell::default(),
        }
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    fn number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Makes something that happened part of the trace.
    pub fn note(&self, what: u64) {
        self.trace.set(mix(self.trace.get() ^ what).wrapping_add(self.now.get()));
    }

    pub fn life(&self, member: u64) -> u64 {
        self.lives.borrow().get(&member).copied().unwrap_or(0)
    }

    fn alive(&self, owner: Owner) -> bool {
        self.life(owner.member) == owner.life
    }

    pub fn disk(&self, member: u64) -> Disk {
        self.disks.borrow_mut().entry(member).or_default().clone()
    }

    fn clock(&self, member: u64) -> Clock {
        self.clocks.borrow().get(&member).copied().unwrap_or_default()
    }

    /// Adds a task, unless its owner is dead.
    pub fn add(&self, owner: Owner, work: impl Future<Output = ()> + Send + 'static) {
        if !self.alive(owner) {
            return;
        }
        let task = self.number();
        let alarm = Arc::new(Alarm { task, ready: Arc::clone(&self.ready), queued: AtomicBool::new(true) });
        let entry = Entry { owner, work: Some(Box::pin(work)), waker: Arc::clone(&alarm).into() };
        self.tasks.borrow_mut().insert(task, (entry, alarm));
        insert(&self.ready, task);
    }

    /// Adds a task of the world itself.
    pub fn add_own(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.add(Owner { member: 0, life: 0 }, work);
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
        let task = {
            let mut ready = self.ready.lock();
            if ready.is_empty() {
                return false;
            }
            let chosen = self.rng.borrow_mut().below(ready.len() as u64) as usize;
            ready.remove(chosen)
        };
        let (owner, mut work, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some((entry, alarm)) = tasks.get_mut(&task) else { return true };
            if let Some((_, held)) = self.frozen.borrow_mut().get_mut(&entry.owner.member) {
                held.push(task);
                return true;
            }
            alarm.queued.store(false, Ordering::Release);
            let Some(work) = entry.work.take() else { return true };
            (entry.owner, work, entry.waker.clone())
        };
        self.steps.set(self.steps.get() + 1);
        self.note(task);
        let pause = self.rng.borrow_mut().between(500, 4000);
        self.now.set(self.now() + pause);
        let result = self.enter(owner, || {
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Pending) => Ok(Some(work)),
                Ok(Poll::Ready(())) => {
                    drop(work);
                    Ok(None)
                }
                Err(panic) => Err(panic),
            }
        });
        match result {
            Ok(Some(work)) => {
                if let Some((entry, _)) = self.tasks.borrow_mut().get_mut(&task) {
                    entry.work = Some(work);
                }
            }
            Ok(None) => drop(self.tasks.borrow_mut().remove(&task)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                *self.panicked.borrow_mut() = Some(format!("member {} panicked: {text}", owner.member));
                drop(self.tasks.borrow_mut().remove(&task));
            }
        }
        true
    }

    /// Lets a frozen member go on.
    fn thaw(&self, member: u64) {
        let held = self.frozen.borrow_mut().remove(&member).map(|(_, held)| held);
        held.into_iter().flatten().for_each(|task| insert(&self.ready, task));
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

    fn run_until(&self, deadline: u64) {
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
    }

    /// Drops the tasks of a life, as its own steps.
    fn drop_tasks(&self, of: impl Fn(Owner) -> bool) {
        loop {
            let doomed = {
                let mut tasks = self.tasks.borrow_mut();
                let doomed = tasks.iter().find(|(_, (entry, _))| of(entry.owner)).map(|(task, _)| *task);
                doomed.and_then(|task| tasks.remove(&task))
            };
            let Some((entry, _)) = doomed else { return };
            self.enter(entry.owner, || drop(entry.work));
        }
    }
}

/// Starts a task of a member in its present life, from a task of the world.
pub fn run_on<T: Send + 'static>(member: u64, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (tx, rx) = oneshot::channel();
    if let Some(world) = world() {
        world.add(Owner { member, life: world.life(member) }, async move {
            // Nobody may be interested.
            let _ = tx.send(future.await);
        });
    }
    Task(rx)
}

/// What the members did since the last call.
#[must_use]
pub fn take_seen() -> Vec<Seen> {
    world().map(|world| std::mem::take(&mut *world.seen.borrow_mut())).unwrap_or_default()
}

/// Waits on the clock of whoever waits.
pub async fn pause(duration: Duration) {
    crate::rt::sleep(duration).await;
}

/// A simulated world. One at a time per thread; gone when dropped.
pub struct World {
    inner: Rc<Inner>,
}

/// The result of a task, once it has one.
pub struct Task<T>(oneshot::Receiver<T>);

impl<T> Task<T> {
    /// The result, if there is one by now: `Err` if the task's member died first.
    pub fn poll(&mut self) -> Option<Result<T, crate::rt::JoinError>> {
        match self.0.try_recv() {
            Ok(value) => Some(Ok(value)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(crate::rt::JoinError::Ended)),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, crate::rt::JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| crate::rt::JoinError::Ended)
    }
}

impl World {
    /// The world of a seed.
    ///
    /// # Panics
    /// If this thread has one already.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Rc::new(Inner::new(seed));
        let before = WORLD.with(|world| world.borrow_mut().replace(Rc::clone(&inner)));
        assert!(before.is_none(), "one world at a time");
        HERE.set(Some(Here { owner: Owner { member: 0, life: 0 }, local: 0 }));
        Self { inner }
    }

    /// What has passed since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.inner.now())
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.inner.steps.get()
    }

    /// A digest of everything that happened, in order.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.inner.trace.get()
    }

    /// Lets `duration` pass.
    pub fn run_for(&self, duration: Duration) {
        self.inner.run_until(self.inner.now() + duration.as_nanos() as u64);
        // The clock that whoever looks from outside sees.
        let local = self.inner.now();
        HERE.set(Some(Here { owner: Owner { member: 0, life: 0 }, local }));
    }

    /// Starts a task of a member, in its present life; of the world itself if `member` is 0.
    pub fn spawn<T: Send + 'static>(&self, member: u64, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        run_on(member, future)
    }

    /// Stops a member for a while, as SIGSTOP does: what comes for it waits.
    pub fn freeze(&self, member: u64, duration: Duration) {
        let until = self.inner.now() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.inner.frozen.borrow_mut().entry(member).or_default().0 = until;
    }

    /// Ends a member's life at once. What it had not made durable may be lost.
    pub fn kill(&self, member: u64, crash: Crash) {
        let life = self.inner.life(member);
        self.inner.thaw(member);
        self.inner.lives.borrow_mut().insert(member, life + 1);
        self.inner.net.borrow_mut().forget(member);
        self.inner.drop_tasks(|owner| owner.member == member && owner.life == life);
        let mut rng = self.inner.rng.borrow_mut();
        self.inner.disk(member).crash(crash, &mut rng);
    }

    /// A member's disk; it outlives the member.
    #[must_use]
    pub fn disk(&self, member: u64) -> Disk {
        self.inner.disk(member)
    }

    /// Makes a member's clock go at `rate` millionths of the world's from now on, and its wall clock
    /// be `skew` seconds ahead.
    pub fn set_clock(&self, member: u64, rate: u64, skew: i64) {
        let now = self.inner.now();
        let base = (now, self.inner.clock(member).local(now));
        self.inner.clocks.borrow_mut().insert(member, Clock { base, rate, skew });
    }

    /// How far ahead a member's wall clock is, in seconds, drift included.
    #[must_use]
    pub fn unix_seconds(&self, member: u64) -> u64 {
        let clock = self.inner.clock(member);
        (EPOCH + clock.local(self.inner.now()) / 1_000_000_000).saturating_add_signed(clock.skew)
    }

    /// How the network behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.net.borrow_mut().set_weather(weather);
    }

    /// Drops what goes from the first to the second of each pair, and nothing else.
    pub fn block(&self, pairs: impl IntoIterator<Item = (u64, u64)>) {
        self.inner.net.borrow_mut().block(pairs.into_iter().collect());
    }

    /// Breaks all connections between two members.
    pub fn reset(&self, one: u64, other: u64) {
        self.inner.net.borrow_mut().reset(one, other);
    }

    /// What the network did so far.
    #[must_use]
    pub fn net_counts(&self) -> super::NetCounts {
        self.inner.net.borrow().counts
    }

    /// Why a task panicked, if one did since the last call.
    #[must_use]
    pub fn take_panic(&self) -> Option<String> {
        self.inner.panicked.borrow_mut().take()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.inner.drop_tasks(|_| true);
        *self.inner.net.borrow_mut() = Net::default();
        HERE.set(None);
        WORLD.with(|world| world.borrow_mut().take());
    }
}
