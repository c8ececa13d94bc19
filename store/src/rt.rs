//! Where the store gets time, tasks and chance from: tokio and the system, or a simulated world.
//!
//! Invariants
//! - Nothing below the store's handle asks tokio or `std::time` for time, tasks or chance directly,
//!   so a simulated member runs on virtual time only. (The transport over real sockets does; it has
//!   no part in a simulation.)
//! - The product, which is built without the feature `simulation`, calls the real ones and looks for no other (see
//!   `world`).

use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    ops::{Add, AddAssign, Sub, SubAssign},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{
    FutureExt, TryFutureExt,
    future::{Either, MapErr},
};
use openraft::{OptionalSend, rt::deterministic_rng::DeterministicRng};
use tokio::sync::oneshot;

use crate::world;

/// Whether this is a member of a simulated world.
pub(crate) use crate::world::is_simulated as simulated;

#[allow(deprecated)] // The crate it moved to is no direct dependency.
type Tokio = openraft::impls::TokioRuntime;
type Seeded = DeterministicRng<Tokio>;

/// A point of this member's monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Instant(std::time::Instant);

impl Instant {
    pub fn now() -> Self {
        Self(world::simulated().map_or_else(std::time::Instant::now, |world| world.now()))
    }

    /// How long ago it was; zero if it lies ahead.
    pub fn elapsed(&self) -> Duration {
        Self::now().0.saturating_duration_since(self.0)
    }

    pub fn checked_sub(&self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }

    /// For those who live outside of any simulation.
    pub fn into_std(self) -> std::time::Instant {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self::now()
    }
}

/// The wall clock, in Unix seconds. No order of events may depend on it.
pub(crate) fn unix_seconds() -> u64 {
    let real = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    world::simulated().map_or_else(real, |world| world.unix_seconds())
}

/// A pause.
pub(crate) type Sleep = Either<tokio::time::Sleep, world::Sleep>;

pub(crate) fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    match world::simulated() {
        Some(world) => Either::Right(world.sleep_until(deadline.0)),
        None => Either::Left(tokio::time::sleep_until(deadline.0.into())),
    }
}

/// The time was up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

type RealTimeout<F> = MapErr<tokio::time::Timeout<F>, fn(tokio::time::error::Elapsed) -> Elapsed>;

/// A future with a deadline.
pub(crate) type Timeout<F> = Either<RealTimeout<F>, SimulatedTimeout<F>>;

pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(Instant::now() + duration, future)
}

pub(crate) fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    if let Some(world) = world::simulated() {
        return Either::Right(SimulatedTimeout { future: Box::pin(future), sleep: world.sleep_until(deadline.0) });
    }
    let elapsed: fn(_) -> _ = |_| Elapsed;
    Either::Left(tokio::time::timeout_at(deadline.0.into(), future).map_err(elapsed))
}

/// See [`timeout`].
pub struct SimulatedTimeout<F> {
    future: Pin<Box<F>>,
    sleep: world::Sleep,
}

impl<F: Future> Future for SimulatedTimeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.poll_unpin(cx).map(|()| Err(Elapsed))
    }
}

/// A task that was started.
pub enum JoinHandle<T> {
    /// In the real world.
    Real(tokio::task::JoinHandle<T>),
    /// In a simulated one.
    Simulated(world::Owned<oneshot::Receiver<T>>),
}

/// A task ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// As tokio says.
    #[error(transparent)]
    Real(tokio::task::JoinError),
    /// Its member died.
    #[error("the task was ended")]
    Ended,
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Real(task) => task.poll_unpin(cx).map_err(JoinError::Real),
            Self::Simulated(result) => result.poll_unpin(cx).map_err(|_| JoinError::Ended),
        }
    }
}

/// Starts a task of this member.
pub(crate) fn spawn<T>(future: T) -> JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    let Some(world) = world::simulated() else { return JoinHandle::Real(tokio::spawn(future)) };
    let (tx, rx) = oneshot::channel();
    world.spawn(Box::pin(async move {
        // Nobody may be interested.
        let _ = tx.send(future.await);
    }));
    JoinHandle::Simulated(world::own(&world, rx))
}

/// Runs what blocks. In a simulation it takes a moment and then happens at once.
pub(crate) async fn blocking<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if let Some(moment) = world::simulated().map(|world| world.moment()) {
        sleep(moment).await;
        return Ok(body());
    }
    tokio::task::spawn_blocking(body).await.map_err(io::Error::other)
}

/// openraft's view of all this.
pub struct Runtime(Tokio);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl openraft::AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = <Seeded as openraft::AsyncRuntime>::ThreadLocalRng;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Timeout<F> {
        timeout_at(deadline, future)
    }

    fn is_panic(error: &JoinError) -> bool {
        matches!(error, JoinError::Real(error) if error.is_panic())
    }

    /// Asked for once per election timeout, so it may be made anew each time.
    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = world::simulated().map_or_else(|| RandomState::new().hash_one(()), |world| world.chance());
        let scope = Seeded::scope(seed, async { <Seeded as openraft::AsyncRuntime>::thread_rng() });
        pin!(scope).now_or_never().expect("nothing in it waits")
    }

    type Mpsc = <Tokio as openraft::AsyncRuntime>::Mpsc;
    type Watch = <Tokio as openraft::AsyncRuntime>::Watch;
    type Oneshot = <Tokio as openraft::AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as openraft::AsyncRuntime>::Mutex<T>;

    fn new(threads: usize) -> Self {
        Self(<Tokio as openraft::AsyncRuntime>::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
