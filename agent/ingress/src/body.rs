//! Bodies on their way through: nothing of them is gathered.
//!
//! Invariants
//! - Of a body no more is in memory than the piece that is on its way, and what the connections hold.
//! - A client that sends or takes nothing for [`STALL`] while it is its turn loses its request.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, Sleep, sleep_until, timeout},
};

/// How long a client may leave others waiting.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// What goes wrong with a body; whoever reads one learns no more than that.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// Any body.
pub(crate) type Any = UnsyncBoxBody<Bytes, Error>;

/// No body.
pub(crate) fn empty() -> Any {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A short text.
pub(crate) fn text(text: String) -> Any {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// Why a request's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is longer than it may be.
    TooLong,
    /// The client sends nothing.
    Stalled,
    /// The client is gone, or sends what is no body.
    Broken,
}

/// How far a request's body has come.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<(Instant, Option<Ended>)>);

impl Progress {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((Instant::now(), None))))
    }

    /// When something of it moved.
    pub(crate) fn moved(&self) -> Instant {
        self.0.lock().0
    }

    /// Why it ended early, if it did.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.0.lock().1
    }

    fn move_on(&self) {
        self.0.lock().0 = Instant::now();
    }

    fn end(&self, why: Ended) -> Error {
        self.0.lock().1 = Some(why);
        format!("{why:?}").into()
    }
}

/// The body of a request.
pub(crate) struct Request {
    inner: Incoming,
    left: u64,
    progress: Arc<Progress>,
    /// While the client has to send something: until when.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Request {
    pub(crate) fn new(inner: Incoming, most: Option<u64>, progress: Arc<Progress>) -> Self {
        Self { inner, left: most.unwrap_or(u64::MAX), progress, stall: None }
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let stall = this.stall.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
            ready!(stall.as_mut().poll(cx));
            return Poll::Ready(Some(Err(this.progress.end(Ended::Stalled))));
        };
        this.stall = None;
        this.progress.move_on();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let Ok(frame) = frame else { return Poll::Ready(Some(Err(this.progress.end(Ended::Broken)))) };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(this.progress.end(Ended::TooLong)))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer, which keeps its request's place.
struct Answer<B> {
    inner: B,
    _place: OwnedSemaphorePermit,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B>
where
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer over HTTP/1: what its client does not take is noticed by the connection.
pub(crate) fn answer(inner: Incoming, place: OwnedSemaphorePermit) -> Any {
    Answer { inner, _place: place }.boxed_unsync()
}

/// The body of an answer over HTTP/2, where a client may leave one stream waiting and go on with others: it is handed on by
/// a task that gives up.
pub(crate) fn answer_of_stream(inner: Incoming, place: OwnedSemaphorePermit) -> Any {
    if inner.is_end_stream() {
        return answer(inner, place);
    }
    let hint = inner.size_hint();
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(hand_on(Answer { inner, _place: place }, tx, STALL));
    Handed { rx, hint }.boxed_unsync()
}

async fn hand_on<B: Body<Data = Bytes, Error = Error> + Unpin>(
    mut body: B,
    tx: mpsc::Sender<Result<Frame<Bytes>, Error>>,
    patience: Duration,
) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // The client is gone: nobody waits for the rest. Dropping the body loses nothing else.
            () = tx.closed() => return,
        };
        let Some(frame) = frame else { return };
        let failed = frame.is_err();
        match timeout(patience, tx.send(frame)).await {
            Ok(Ok(())) if !failed => {}
            _ => return,
        }
    }
}

struct Handed {
    rx: mpsc::Receiver<Result<Frame<Bytes>, Error>>,
    hint: SizeHint,
}

impl Body for Handed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.rx.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_gives_its_place_back() {
        let places = Arc::new(Semaphore::new(1));
        let place = || Arc::clone(&places).try_acquire_owned().expect("a place");
        let (tx, mut rx) = mpsc::channel(1);
        let answer = Answer { inner: Endless, _place: place() };
        let handing = tokio::spawn(hand_on(answer, tx, Duration::from_millis(200)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(rx.recv().await.is_some(), "a slow client is waited for");
        }
        handing.await.expect("it ends");
        assert_eq!(places.available_permits(), 1, "given up");

        let (tx, rx) = mpsc::channel(1);
        let handing = tokio::spawn(hand_on(Answer { inner: Endless, _place: place() }, tx, STALL));
        drop(rx);
        handing.await.expect("it ends");
        assert_eq!(places.available_permits(), 1, "the client left");
    }
}
