//! What members send each other over the network.
//!
//! Requests that may arrive twice by their nature (votes, appends) sometimes do; a forwarded command
//! never does.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use kontiki_store::simulation::{self, Call, CallError, Pieces};
use tokio::sync::{mpsc, oneshot};

use super::{
    net::{Net, Path},
    schedule::{current, pause},
    tasks::Owner,
};

/// As long as connecting is tried.
const CONNECT: Duration = Duration::from_millis(750);

fn not_sent() -> CallError {
    CallError::NotSent("not sent".to_owned())
}

fn lost() -> CallError {
    CallError::Lost("the connection broke".to_owned())
}

fn coin() -> bool {
    current().is_some_and(|schedule| schedule.rng.borrow_mut().chance(500))
}

/// Starts something that happens between members, and outlives both.
fn on_the_way(work: impl Future<Output = ()> + Send + 'static) {
    if let Some(schedule) = current() {
        schedule.add(Owner::WORLD, Box::pin(work));
    }
}

/// Whether the network may hand it over twice: raft's own messages are made for that.
fn may_come_twice(call: Call) -> bool {
    matches!(call, Call::Append | Call::Vote | Call::PreVote)
}

/// A member's way to the others.
#[derive(Clone)]
pub struct Port {
    net: Net,
    from: u64,
}

impl Port {
    pub fn new(net: Net, from: u64) -> Self {
        Self { net, from }
    }

    /// Until there is a connection.
    async fn connect(&self, address: &str) -> Result<Path, CallError> {
        let path = self.net.path(self.from, address).ok_or_else(not_sent)?;
        pause(path.delay()).await;
        if path.open() && path.back().open() {
            return Ok(path.again());
        }
        // A connection that was made earlier does not know yet.
        if coin() {
            return Ok(path);
        }
        pause(CONNECT).await;
        Err(not_sent())
    }

    async fn call(&self, address: &str, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        let path = self.connect(address).await?;
        let (tx, rx) = oneshot::channel();
        let way = Way { net: self.net.clone(), path, address: address.to_owned() };
        on_the_way(async move {
            // Who gave up is not answered, but what was asked for goes on.
            let _ = tx.send(way.carry(call, body).await);
        });
        rx.await.unwrap_or_else(|_| Err(lost()))
    }

    #[expect(clippy::disallowed_methods, reason = "openraft bounds what is under way; a wire has no end to wait at")]
    async fn stream(
        &self,
        address: &str,
        appends: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let path = self.connect(address).await?;
        self.net.count(|counts| counts.streams += 1);
        let (sent_tx, sent_rx) = mpsc::unbounded_channel();
        let (there_tx, mut there_rx) = mpsc::unbounded_channel();
        let (answer_tx, answer_rx) = mpsc::unbounded_channel();
        let (back_tx, back_rx) = mpsc::unbounded_channel();
        let found = self.net.at(address, |peer| async move {
            let mut answers = peer.appends(stream::poll_fn(move |cx| there_rx.poll_recv(cx)).boxed());
            while let Some(answer) = answers.next().await {
                if answer_tx.send(Said::Answer(answer.map_err(CallError::Lost))).is_err() {
                    return;
                }
            }
            let _ = answer_tx.send(Said::End);
        });
        if !found {
            return Err(not_sent());
        }
        let way = Way { net: self.net.clone(), path, address: address.to_owned() };
        let back = way.clone();
        on_the_way(async move {
            if !way.pump(sent_rx, there_tx).await {
                way.net.count(|counts| counts.cut += 1);
            }
        });
        on_the_way(async move { back.answers(answer_rx, back_tx).await });
        Ok(Exchange { appends, sent: Some(sent_tx), answers: back_rx }.boxed())
    }

    async fn snapshot(&self, address: &str, meta: Bytes, mut pieces: Pieces) -> Result<Bytes, CallError> {
        let path = self.connect(address).await?;
        let mut whole = Vec::new();
        while let Some(piece) = pieces.recv().await {
            whole.extend_from_slice(&piece.map_err(|error| CallError::Lost(error.to_string()))?);
            if !path.pass().await {
                return Err(lost());
            }
        }
        if self.net.chance(|weather| weather.lost) {
            self.net.count(|counts| counts.lost += 1);
            return Err(lost());
        }
        let (tx, rx) = oneshot::channel();
        let found = self.net.at(address, |peer| async move {
            let answer = peer.install(meta, Box::new(whole.into())).await;
            let _ = tx.send(answer.map_err(CallError::Lost));
        });
        if !found {
            return Err(not_sent());
        }
        self.net.count(|counts| counts.snapshots += 1);
        let answer = rx.await.unwrap_or_else(|_| Err(lost()));
        if !path.back().pass().await || self.net.chance(|weather| weather.unanswered) {
            return Err(lost());
        }
        answer
    }
}

impl simulation::Port for Port {
    fn call<'a>(&'a self, address: &'a str, call: Call, body: Bytes) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.call(address, call, body))
    }

    fn stream<'a>(
        &'a self,
        address: &'a str,
        appends: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes, CallError>>, CallError>> {
        Box::pin(self.stream(address, appends))
    }

    fn snapshot<'a>(
        &'a self,
        address: &'a str,
        meta: Bytes,
        pieces: Pieces,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(self.snapshot(address, meta, pieces))
    }
}

/// What the far end of a stream says.
enum Said {
    Answer(Result<Bytes, CallError>),
    /// In so many words, so that a death is not taken for an end.
    End,
}

/// What is between two members while one asks the other.
#[derive(Clone)]
struct Way {
    net: Net,
    path: Path,
    address: String,
}

impl Way {
    /// Takes a request there and the answer back.
    async fn carry(&self, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        self.net.count(|counts| counts.calls += 1);
        let arrived = self.path.pass().await;
        if !arrived || self.net.chance(|weather| weather.lost) {
            self.net.count(|counts| counts.lost += 1);
            return Err(lost());
        }
        if may_come_twice(call) && self.net.chance(|weather| weather.twice) {
            self.net.count(|counts| counts.twice += 1);
            on_the_way(self.clone().once_more(call, body.clone()));
        }
        let (tx, rx) = oneshot::channel();
        let found = self.net.at(&self.address, |peer| async move {
            let answer = peer.call(call, body).await;
            let _ = tx.send(answer.map_err(CallError::Lost));
        });
        if !found {
            return Err(not_sent());
        }
        let answer = rx.await.unwrap_or_else(|_| Err(lost()));
        let back = self.path.back().pass().await;
        if !back || self.net.chance(|weather| weather.unanswered) {
            self.net.count(|counts| counts.unanswered += 1);
            return Err(lost());
        }
        answer
    }

    async fn once_more(self, call: Call, body: Bytes) {
        pause(self.path.delay() * 3).await;
        // Nobody waits for the second answer.
        self.net.at(&self.address, |peer| async move { drop(peer.call(call, body).await) });
    }

    /// Passes messages on in order, each after its delay. False if the connection broke.
    async fn pump(&self, mut rx: mpsc::UnboundedReceiver<Bytes>, tx: mpsc::UnboundedSender<Bytes>) -> bool {
        let mut dies = Box::pin(self.path.clone().dies());
        loop {
            tokio::select! {
                biased;
                () = &mut dies => break,
                message = rx.recv() => {
                    let Some(body) = message else { return true };
                    if !self.path.pass().await || self.net.chance(|weather| weather.lost / 4) {
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
                pause(self.path.delay()).await;
                if tx.send(body).is_err() {
                    break;
                }
            }
        }
        false
    }

    /// Passes answers back.
    async fn answers(
        &self,
        mut rx: mpsc::UnboundedReceiver<Said>,
        tx: mpsc::UnboundedSender<Result<Bytes, CallError>>,
    ) {
        let path = self.path.back();
        let mut dies = Box::pin(path.clone().dies());
        loop {
            let said = tokio::select! {
                biased;
                () = &mut dies => break,
                // Whoever waited for the answers has gone.
                () = tx.closed() => return,
                said = rx.recv() => said,
            };
            match said {
                Some(Said::End) => return,
                Some(Said::Answer(answer)) => {
                    let passed = path.pass().await;
                    if !passed || self.net.chance(|weather| weather.unanswered / 4) || tx.send(answer).is_err() {
                        break;
                    }
                }
                // It died.
                None => break,
            }
        }
        let _ = tx.send(Err(lost()));
    }
}

/// The near end of a stream: sends while it is asked for answers.
struct Exchange {
    appends: BoxStream<'static, Bytes>,
    sent: Option<mpsc::UnboundedSender<Bytes>>,
    answers: mpsc::UnboundedReceiver<Result<Bytes, CallError>>,
}

impl Stream for Exchange {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while self.sent.is_some() {
            match self.appends.poll_next_unpin(cx) {
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
