//! The network between members.
//!
//! It is made of connections, as the real one: what goes through one of them arrives in order or not
//! at all. A request that gets no answer may have been handled all the same. Requests that may
//! arrive twice by their nature (votes, appends) sometimes do; a forwarded command never does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::world::{Owner, here, world};
use crate::{
    disk::install::SnapshotData,
    raft::peer::{Call, Service},
    rt::{Instant, sleep, timeout},
};

/// As long as a dead connection stays unnoticed.
const PATIENCE: Duration = Duration::from_millis(1500);
/// As long as connecting is tried.
const CONNECT: Duration = Duration::from_millis(750);

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
    service: Service,
}

pub(super) struct Net {
    listeners: BTreeMap<String, Listener>,
    /// Who listens, or listened, at an address.
    names: BTreeMap<String, u64>,
    weather: Weather,
    blocked: BTreeSet<(u64, u64)>,
    /// How often the connections between two members were broken.
    resets: BTreeMap<(u64, u64), u64>,
    changed: watch::Sender<u64>,
    pub counts: NetCounts,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::new(),
            names: BTreeMap::new(),
            weather: Weather::default(),
            blocked: BTreeSet::new(),
            resets: BTreeMap::new(),
            changed: watch::channel(0).0,
            counts: NetCounts::default(),
        }
    }
}

impl Net {
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    pub fn block(&mut self, blocked: BTreeSet<(u64, u64)>) {
        self.blocked = blocked;
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn reset(&mut self, one: u64, other: u64) {
        *self.resets.entry((one.min(other), one.max(other))).or_default() += 1;
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn forget(&mut self, member: u64) {
        self.listeners.retain(|_, listener| listener.owner.member != member);
        self.changed.send_modify(|version| *version += 1);
    }
}

/// Lets a member be reached.
pub(crate) fn listen(address: &str, service: Service) {
    if let (Some(world), Some(owner)) = (world(), here()) {
        let mut net = world.net.borrow_mut();
        net.names.insert(address.to_owned(), owner.member);
        net.listeners.insert(address.to_owned(), Listener { owner, service });
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It did not reach the other member.
    #[error("not sent")]
    NotSent,
    /// It may have.
    #[error("the connection broke")]
    Lost,
    /// The other member said so.
    #[error("{0}")]
    Refused(String),
}

/// A path between two members, looked at from one end.
#[derive(Clone, Copy)]
struct Path {
    from: u64,
    to: u64,
    resets: u64,
}

fn resets(from: u64, to: u64) -> u64 {
    world().map_or(0, |w| w.net.borrow().resets.get(&(from.min(to), from.max(to))).copied().unwrap_or(0))
}

impl Path {
    fn new(from: u64, to: u64) -> Self {
        Self { from, to, resets: resets(from, to) }
    }

    fn back(self) -> Self {
        Self { from: self.to, to: self.from, resets: self.resets }
    }

    fn open(self) -> bool {
        world().is_some_and(|world| !world.net.borrow().blocked.contains(&(self.from, self.to)))
    }

    fn broken(self) -> bool {
        resets(self.from, self.to) != self.resets
    }

    /// How long a message takes.
    fn delay(self) -> Duration {
        let Some(world) = world() else { return Duration::ZERO };
        let weather = world.net.borrow().weather;
        let mut rng = world.rng.borrow_mut();
        let slow = if rng.chance(weather.slow.0) { rng.between(0, weather.slow.1 * 1000) } else { 0 };
        Duration::from_micros(rng.between(weather.delay.0, weather.delay.1) + slow)
    }

    /// Until a message is through; false if the connection broke first.
    async fn pass(self) -> bool {
        sleep(self.delay()).await;
        self.opens().await
    }

    /// Until the path is open; false if the connection broke first.
    async fn opens(self) -> bool {
        let Some(mut changed) = world().map(|world| world.net.borrow().changed.subscribe()) else { return false };
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
        timeout(PATIENCE, wait).await.unwrap_or(false)
    }

    /// Until the connection is broken, or as good as.
    async fn dies(self) {
        let Some(mut changed) = world().map(|world| world.net.borrow().changed.subscribe()) else { return };
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
            let since = *closed_since.get_or_insert_with(Instant::now);
            let left = PATIENCE.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            // Either way it is looked at again.
            let _ = timeout(left, changed.changed()).await;
        }
    }
}

fn count(what: impl FnOnce(&mut NetCounts)) {
    if let Some(world) = world() {
        what(&mut world.net.borrow_mut().counts);
    }
}

fn chance(of: impl FnOnce(&Weather) -> u64) -> bool {
    world().is_some_and(|world| {
        let per_mille = of(&world.net.borrow().weather);
        world.rng.borrow_mut().chance(per_mille)
    })
}

fn coin() -> bool {
    world().is_some_and(|world| world.rng.borrow_mut().chance(500))
}

/// Starts something that happens between members, and outlives both.
fn on_the_way(work: impl Future<Output = ()> + Send + 'static) {
    if let Some(world) = world() {
        world.add_own(work);
    }
}

/// Starts something at the member that listens at `address`.
fn at<F: Future<Output = ()> + Send + 'static>(address: &str, work: impl FnOnce(Service) -> F) -> bool {
    let Some(world) = world() else { return false };
    let listener = {
        let net = world.net.borrow();
        net.listeners.get(address).map(|listener| (listener.owner, listener.service.clone()))
    };
    let Some((owner, service)) = listener else { return false };
    world.add(owner, work(service));
    true
}

/// A member's way to the others.
#[derive(Clone)]
pub(crate) struct Port {
    from: u64,
}

impl Port {
    /// The port of whoever's step it is.
    pub fn new() -> Self {
        Self { from: here().map_or(0, |here| here.member) }
    }

    fn path(&self, address: &str) -> Option<Path> {
        let to = world()?.net.borrow().names.get(address).copied()?;
        Some(Path::new(self.from, to))
    }

    /// Until there is a connection.
    async fn connect(&self, address: &str) -> Result<Path, CallError> {
        let path = self.path(address).ok_or(CallError::NotSent)?;
        sleep(path.delay()).await;
        if path.open() && path.back().open() {
            return Ok(Path::new(path.from, path.to));
        }
        // A connection that was made earlier does not know yet.
        if coin() {
            return Ok(path);
        }
        sleep(CONNECT).await;
        Err(CallError::NotSent)
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, address: &str, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        let path = self.connect(address).await?;
        let (tx, rx) = oneshot::channel();
        on_the_way(carry(path, address.to_owned(), call, body, tx));
        rx.await.unwrap_or(Err(CallError::Lost))
    }

    /// Opens a stream of appends.
    #[expect(clippy::disallowed_methods, reason = "openraft bounds what is under way; a wire has no end to wait at")]
    pub async fn stream(
        &self,
        address: &str,
        input: impl Stream<Item = Bytes> + Send + Unpin + 'static,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let path = self.connect(address).await?;
        count(|counts| counts.streams += 1);
        let (sent_tx, sent_rx) = mpsc::unbounded_channel();
        let (there_tx, there_rx) = mpsc::unbounded_channel();
        let (answer_tx, answer_rx) = mpsc::unbounded_channel();
        let (back_tx, back_rx) = mpsc::unbounded_channel();
        let found = at(address, |service| async move {
            let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(there_rx);
            let mut answers = service.appends(requests);
            while let Some(answer) = answers.next().await {
                let answer = answer.map_err(|status| CallError::Refused(status.message().to_owned()));
                if answer_tx.send(answer).is_err() {
                    return;
                }
            }
            // Said in so many words, so that a death is not taken for an end.
            let _ = answer_tx.send(Err(CallError::NotSent));
        });
        if !found {
            return Err(CallError::NotSent);
        }
        on_the_way(async move {
            if !pump(path, sent_rx, there_tx).await {
                count(|counts| counts.cut += 1);
            }
        });
        on_the_way(answers(path.back(), answer_rx, back_tx));
        Ok(Box::pin(Exchange { input, sent: Some(sent_tx), answers: back_rx }))
    }

    /// Sends a snapshot and waits for the answer.
    pub async fn snapshot(
        &self,
        address: &str,
        meta: Bytes,
        mut pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Bytes, CallError> {
        let path = self.connect(address).await?;
        let mut whole = Vec::new();
        while let Some(piece) = pieces.recv().await {
            whole.extend_from_slice(&piece.map_err(|error| CallError::Refused(error.to_string()))?);
            if !path.pass().await {
                return Err(CallError::Lost);
            }
        }
        if chance(|weather| weather.lost) {
            count(|counts| counts.lost += 1);
            return Err(CallError::Lost);
        }
        let (tx, rx) = oneshot::channel();
        let found = at(address, |service| async move {
            let answer = service.install(meta, SnapshotData::Whole(whole.into())).await;
            let _ = tx.send(answer.map_err(|status| CallError::Refused(status.message().to_owned())));
        });
        if !found {
            return Err(CallError::NotSent);
        }
        count(|counts| counts.snapshots += 1);
        let answer = rx.await.unwrap_or(Err(CallError::Lost));
        if !path.back().pass().await || chance(|weather| weather.unanswered) {
            return Err(CallError::Lost);
        }
        answer
    }
}

/// Takes a request there and the answer back.
async fn carry(path: Path, address: String, call: Call, body: Bytes, done: oneshot::Sender<Result<Bytes, CallError>>) {
    count(|counts| counts.calls += 1);
    let arrived = path.pass().await;
    if !arrived || chance(|weather| weather.lost) {
        count(|counts| counts.lost += 1);
        let _ = done.send(Err(CallError::Lost));
        return;
    }
    if call.may_come_twice() && chance(|weather| weather.twice) {
        count(|counts| counts.twice += 1);
        let (address, body) = (address.clone(), body.clone());
        on_the_way(async move {
            sleep(path.delay() * 3).await;
            // Nobody waits for the second answer.
            at(&address, |service| async move { drop(service.unary(call, body).await) });
        });
    }
    let (tx, rx) = oneshot::channel();
    let found = at(&address, |service| async move {
        let answer = service.unary(call, body).await;
        let _ = tx.send(answer.map_err(|status| CallError::Refused(status.message().to_owned())));
    });
    if !found {
        let _ = done.send(Err(CallError::NotSent));
        return;
    }
    // Who gave up is not answered, but what was asked for goes on.
    let answer = rx.await.unwrap_or(Err(CallError::Lost));
    let back = path.back().pass().await;
    if !back || chance(|weather| weather.unanswered) {
        count(|counts| counts.unanswered += 1);
        let _ = done.send(Err(CallError::Lost));
        return;
    }
    let _ = done.send(answer);
}

/// Passes messages on in order, each after its delay. False if the connection broke.
async fn pump(path: Path, mut rx: mpsc::UnboundedReceiver<Bytes>, tx: mpsc::UnboundedSender<Bytes>) -> bool {
    let mut dies = Box::pin(path.dies());
    loop {
        tokio::select! {
            biased;
            () = &mut dies => break,
            message = rx.recv() => {
                let Some(body) = message else { return true };
                if !path.pass().await || chance(|weather| weather.lost / 4) {
                    break;
                }
                if tx.send(body).is_err() {
                    return true;
                }
            }
        }
    }
    // What was on its way may still arrive, late.
    if coin() {
        while let Ok(body) = rx.try_recv() {
            sleep(path.delay()).await;
            if tx.send(body).is_err() {
                break;
            }
        }
    }
    false
}

async fn answers(
    path: Path,
    mut rx: mpsc::UnboundedReceiver<Result<Bytes, CallError>>,
    tx: mpsc::UnboundedSender<Result<Bytes, CallError>>,
) {
    let mut dies = Box::pin(path.dies());
    loop {
        let answer = tokio::select! {
            biased;
            () = &mut dies => break,
            // Whoever waited for the answers has gone.
            () = tx.closed() => return,
            answer = rx.recv() => answer,
        };
        match answer {
            // The other side ended the stream.
            Some(Err(CallError::NotSent)) => return,
            Some(answer) => {
                if !path.pass().await || chance(|weather| weather.unanswered / 4) || tx.send(answer).is_err() {
                    break;
                }
            }
            // It died.
            None => break,
        }
    }
    let _ = tx.send(Err(CallError::Lost));
}

/// The near end of a stream: sends while it is asked for answers.
struct Exchange<S> {
    input: S,
    sent: Option<mpsc::UnboundedSender<Bytes>>,
    answers: mpsc::UnboundedReceiver<Result<Bytes, CallError>>,
}

impl<S: Stream<Item = Bytes> + Unpin> Stream for Exchange<S> {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.sent.is_some() {
            match self.input.poll_next_unpin(cx) {
                Poll::Ready(Some(body)) => {
                    if self.sent.as_ref().is_some_and(|sent| sent.send(body).is_err()) {
                        self.sent = None;
                    }
                }
                Poll::Ready(None) => self.sent = None,
                Poll::Pending => break,
            }
        }
        self.answers.poll_recv(cx)
    }
}
