//! The network between members.
//!
//! It is made of connections, as the real one: what goes through one of them arrives in order or not
//! at all. A request that gets no answer may have been handled all the same.
//!
//! Not here: what members send each other over it (see `port`).

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use kontiki_store::simulation::Peer;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    schedule::{current, now, pause, within},
    tasks::Owner,
};

/// As long as a dead connection stays unnoticed.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The usual delay in microseconds, from and to.
    pub delay: (u64, u64),
    /// Messages that take longer, in a thousand, and how long at most in milliseconds.
    pub slow: (u64, u64),
    /// Requests whose connection breaks before they arrive, in a thousand.
    pub lost: u64,
    /// Answers whose connection breaks, in a thousand.
    pub unanswered: u64,
    /// Requests that arrive twice, if their kind allows it, in a thousand.
    pub twice: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay: (50, 400), slow: (0, 0), lost: 0, unanswered: 0, twice: 0 }
    }
}

/// What the network did.
#[derive(Clone, Copy, Default, Debug)]
pub struct NetCounts {
    pub calls: u64,
    pub lost: u64,
    pub unanswered: u64,
    pub twice: u64,
    pub streams: u64,
    pub cut: u64,
    pub snapshots: u64,
}

struct Listener {
    owner: Owner,
    peer: Arc<dyn Peer>,
}

struct Inner {
    listeners: BTreeMap<String, Listener>,
    /// Who listens, or listened, at an address.
    names: BTreeMap<String, u64>,
    weather: Weather,
    blocked: BTreeSet<(u64, u64)>,
    /// How often the connections between two members were broken.
    resets: BTreeMap<(u64, u64), u64>,
    changed: watch::Sender<u64>,
    counts: NetCounts,
}

/// A network; clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

impl Default for Net {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            listeners: BTreeMap::new(),
            names: BTreeMap::new(),
            weather: Weather::default(),
            blocked: BTreeSet::new(),
            resets: BTreeMap::new(),
            changed: watch::channel(0).0,
            counts: NetCounts::default(),
        })))
    }
}

impl Net {
    pub fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    pub fn block(&self, blocked: BTreeSet<(u64, u64)>) {
        self.change(|inner| inner.blocked = blocked);
    }

    pub fn reset(&self, one: u64, other: u64) {
        self.change(|inner| *inner.resets.entry(ends(one, other)).or_default() += 1);
    }

    /// Nobody reaches a member any more.
    pub fn forget(&self, member: u64) {
        let of = |listener: &Listener| listener.owner.member == member;
        let gone = self.change(|inner| {
            let all = std::mem::take(&mut inner.listeners);
            let (gone, kept): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, listener)| of(listener));
            inner.listeners = kept;
            gone
        });
        // Not while the network is locked: a member goes with it.
        drop(gone);
    }

    /// Nobody reaches anybody any more.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut self.0.lock().listeners);
        drop(gone);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.0.lock();
        let result = change(&mut inner);
        inner.changed.send_modify(|version| *version += 1);
        result
    }

    pub fn counts(&self) -> NetCounts {
        self.0.lock().counts
    }

    pub fn count(&self, what: impl FnOnce(&mut NetCounts)) {
        what(&mut self.0.lock().counts);
    }

    /// Whether something happens that the weather has happen so many times in a thousand.
    pub fn chance(&self, of: impl FnOnce(&Weather) -> u64) -> bool {
        let per_mille = of(&self.0.lock().weather);
        current().is_some_and(|schedule| schedule.rng.borrow_mut().chance(per_mille))
    }

    /// Lets a member be reached.
    pub fn listen(&self, owner: Owner, address: &str, peer: Arc<dyn Peer>) {
        let mut inner = self.0.lock();
        inner.names.insert(address.to_owned(), owner.member);
        inner.listeners.insert(address.to_owned(), Listener { owner, peer });
    }

    /// Starts something at the member that listens at `address`; false if nobody does.
    pub fn at<F>(&self, address: &str, work: impl FnOnce(Arc<dyn Peer>) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = {
            let inner = self.0.lock();
            inner.listeners.get(address).map(|listener| (listener.owner, Arc::clone(&listener.peer)))
        };
        let (Some(schedule), Some((owner, peer))) = (current(), listener) else { return false };
        schedule.add(owner, Box::pin(work(peer)));
        true
    }

    /// The path from a member to whoever listens, or listened, at `address`.
    pub fn path(&self, from: u64, address: &str) -> Option<Path> {
        let to = self.0.lock().names.get(address).copied()?;
        Some(Path { net: self.clone(), from, to, resets: self.resets(from, to) })
    }

    fn resets(&self, from: u64, to: u64) -> u64 {
        self.0.lock().resets.get(&ends(from, to)).copied().unwrap_or(0)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.lock().changed.subscribe()
    }
}

/// Two members, whichever way round.
fn ends(one: u64, other: u64) -> (u64, u64) {
    (one.min(other), one.max(other))
}

/// A connection between two members, looked at from one end.
#[derive(Clone)]
pub struct Path {
    net: Net,
    from: u64,
    to: u64,
    resets: u64,
}

impl Path {
    /// The same ends, as a connection that is made now.
    pub fn again(&self) -> Self {
        Self { resets: self.net.resets(self.from, self.to), ..self.clone() }
    }

    /// The other direction.
    pub fn back(&self) -> Self {
        Self { from: self.to, to: self.from, ..self.clone() }
    }

    pub fn open(&self) -> bool {
        !self.net.0.lock().blocked.contains(&(self.from, self.to))
    }

    fn broken(&self) -> bool {
        self.net.resets(self.from, self.to) != self.resets
    }

    /// How long a message takes.
    pub fn delay(&self) -> Duration {
        let Some(schedule) = current() else { return Duration::ZERO };
        let weather = self.net.0.lock().weather;
        let mut rng = schedule.rng.borrow_mut();
        let slow = if rng.chance(weather.slow.0) { rng.between(0, weather.slow.1 * 1000) } else { 0 };
        Duration::from_micros(rng.between(weather.delay.0, weather.delay.1) + slow)
    }

    /// Until a message is through; false if the connection broke first.
    pub async fn pass(&self) -> bool {
        pause(self.delay()).await;
        self.opens().await
    }

    /// Until the path is open; false if the connection broke first.
    async fn opens(&self) -> bool {
        let mut changed = self.net.changes();
        let wait = async {
            loop {
                if self.broken() {
                    return false;
                }
                if self.open() {
                    return true;
                }
                if changed.changed().await.is_err() {
                    return false;
                }
            }
        };
        within(PATIENCE, wait).await.unwrap_or(false)
    }

    /// Until the connection is broken, or as good as.
    pub async fn dies(self) {
        let mut changed = self.net.changes();
        let mut closed_since: Option<Instant> = None;
        loop {
            if self.broken() {
                return;
            }
            if self.open() && self.back().open() {
                closed_since = None;
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let since = *closed_since.get_or_insert_with(now);
            let left = PATIENCE.saturating_sub(now().saturating_duration_since(since));
            if left.is_zero() {
                return;
            }
            // Either way it is looked at again.
            let _ = within(left, changed.changed()).await;
        }
    }
}
