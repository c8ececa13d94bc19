//! A simulated world for members of the store: virtual time, a seeded schedule, and a network and
//! disks that fail on request.
//!
//! - `schedule`: which task runs next, and time; `tasks`, `clock`, `rng` are its parts
//! - `disk`, `net` and `port`: what members have instead of a disk and a network
//! - `seen`: what members tell about themselves
//!
//! Invariant: a world lives on one thread, and everything in it is decided by its seed.

mod clock;
mod disk;
mod net;
mod port;
mod rng;
mod schedule;
mod seen;
mod tasks;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use kontiki_store::simulation;

use net::Net;
use port::Port;
use schedule::{Schedule, Sleep, here};
use tasks::Owner;

pub use clock::EPOCH;
pub use disk::{Crash, Disk, Trouble};
pub use net::{NetCounts, Weather};
pub use rng::Rng;
pub use schedule::{pause, run_on};
pub use seen::{Applied, Record, Seen};
pub use tasks::Task;

/// A simulated world. One at a time per thread; gone when dropped.
pub struct World(Arc<Parts>);

struct Parts {
    schedule: Rc<Schedule>,
    disks: RefCell<BTreeMap<u64, Disk>>,
    net: Net,
    record: Record,
}

impl Parts {
    fn disk(&self, member: u64) -> Disk {
        self.disks.borrow_mut().entry(member).or_default().clone()
    }
}

/// Who asks. The world itself, if nobody's step it is.
fn who() -> Owner {
    here().unwrap_or(Owner::WORLD)
}

impl simulation::World for Parts {
    fn now(&self) -> Instant {
        schedule::now()
    }

    fn unix_seconds(&self) -> u64 {
        self.schedule.clock(who().member).unix_seconds(schedule::local())
    }

    fn chance(&self) -> u64 {
        self.schedule.rng.borrow_mut().draw()
    }

    fn moment(&self) -> Duration {
        Duration::from_micros(self.schedule.rng.borrow_mut().between(5, 500))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.schedule.add(who(), task);
    }

    fn sleep_until(&self, deadline: Instant) -> simulation::Sleep {
        Box::pin(Sleep::until(deadline))
    }

    fn disk(&self) -> Arc<dyn simulation::Disk> {
        Arc::new(self.disk(who().member).mount(who()))
    }

    fn port(&self) -> Arc<dyn simulation::Port> {
        Arc::new(Port::new(self.net.clone(), who().member))
    }

    fn listen(&self, address: &str, peer: Arc<dyn simulation::Peer>) {
        self.net.listen(who(), address, peer);
    }

    fn saw(&self, what: simulation::Saw<'_>) {
        let member = who().member;
        let seen = Seen::of(member, what);
        if let Seen::Applied(applied) = &seen {
            self.schedule.note(applied.state ^ member);
        }
        self.record.push(seen);
    }
}

impl World {
    /// The world of a seed.
    ///
    /// # Panics
    /// If this thread has one already.
    #[must_use]
    #[expect(clippy::arc_with_non_send_sync, reason = "the store has one kind of handle to a world and its parts")]
    pub fn new(seed: u64) -> Self {
        let schedule = Schedule::begin(seed);
        let parts =
            Arc::new(Parts { schedule, disks: RefCell::default(), net: Net::default(), record: Record::default() });
        simulation::install(Some(Arc::clone(&parts) as Arc<dyn simulation::World>));
        Self(parts)
    }

    /// What has passed since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.schedule.now())
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.schedule.steps()
    }

    /// A digest of everything that happened, in order.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.0.schedule.trace()
    }

    /// Lets `duration` pass.
    pub fn run_for(&self, duration: Duration) {
        let schedule = &self.0.schedule;
        schedule.run_until(schedule.now() + duration.as_nanos() as u64);
    }

    /// Starts a task of a member, in its present life; of the world itself if `member` is 0.
    pub fn spawn<T: Send + 'static>(&self, member: u64, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        run_on(member, future)
    }

    /// Stops a member for a while, as SIGSTOP does: what comes for it waits.
    pub fn freeze(&self, member: u64, duration: Duration) {
        self.0.schedule.freeze(member, duration);
    }

    /// Ends a member's life at once. What it had not made durable may be lost.
    pub fn kill(&self, member: u64, crash: Crash) {
        let schedule = &self.0.schedule;
        schedule.kill(member, || self.0.net.forget(member));
        self.disk(member).crash(crash, &mut schedule.rng.borrow_mut());
    }

    /// A member's disk; it outlives the member.
    #[must_use]
    pub fn disk(&self, member: u64) -> Disk {
        self.0.disk(member)
    }

    /// Makes a member's clock go at `rate` millionths of the world's from now on, and its wall clock
    /// be `skew` seconds ahead.
    pub fn set_clock(&self, member: u64, rate: u64, skew: i64) {
        self.0.schedule.set_clock(member, rate, skew);
    }

    /// How far ahead a member's wall clock is, in seconds, drift included.
    #[must_use]
    pub fn unix_seconds(&self, member: u64) -> u64 {
        let clock = self.0.schedule.clock(member);
        clock.unix_seconds(clock.local(self.0.schedule.now()))
    }

    /// How the network behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.0.net.set_weather(weather);
    }

    /// Drops what goes from the first to the second of each pair, and nothing else.
    pub fn block(&self, pairs: impl IntoIterator<Item = (u64, u64)>) {
        self.0.net.block(pairs.into_iter().collect());
    }

    /// Breaks all connections between two members.
    pub fn reset(&self, one: u64, other: u64) {
        self.0.net.reset(one, other);
    }

    /// What the network did so far.
    #[must_use]
    pub fn net_counts(&self) -> NetCounts {
        self.0.net.counts()
    }

    /// What members do.
    #[must_use]
    pub fn record(&self) -> Record {
        self.0.record.clone()
    }

    /// Why a task panicked, if one did since the last call.
    #[must_use]
    pub fn take_panic(&self) -> Option<String> {
        self.0.schedule.take_panic()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.0.schedule.drop_tasks(|_| true);
        self.0.net.clear();
        Schedule::end();
        simulation::install(None);
    }
}
