//! The stream of a connection that has a place.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{Patience, Place, barred};

/// What a client of HTTP/2 says first (RFC 9113, 3.4). Who says anything else speaks HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Ended = Pin<Box<WaitForCancellationFutureOwned>>;

/// See the crate.
pub struct Guarded<S> {
    stream: S,
    _place: Place,
    /// Reading and writing may be different tasks' business: each is woken.
    ended: [Ended; 2],
    /// Until it is known which version of HTTP is spoken: how much of the preface was said, and the deadline.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    /// While nothing can be sent: until when.
    stall: Option<Pin<Box<Sleep>>>,
    patience: Patience,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, place: Place, end: [CancellationToken; 2], patience: Patience) -> Self {
        let greeting = Some((0, Box::pin(sleep_until(Instant::now() + patience.greeting))));
        let ended = end.map(|end| Box::pin(end.cancelled_owned()));
        Self { stream, _place: place, ended, greeting, stall: None, patience }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The deadline of the greeting counts until the preface is over, or something else was said.
    fn heard(&mut self, said: &[u8]) {
        let Some((seen, _)) = &mut self.greeting else { return };
        let rest = &PREFACE[*seen..];
        let common = rest.len().min(said.len());
        *seen += common;
        if rest[..common] != said[..common] || *seen == PREFACE.len() {
            self.greeting = None;
        }
    }

    /// What came of sending: while that is nothing, a deadline counts.
    fn sent<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stall = None;
            return outcome;
        }
        let patience = self.patience.stall;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side takes nothing")))
    }
}

fn ended(ended: &mut Ended, cx: &mut Context<'_>) -> io::Result<()> {
    match ended.as_mut().poll(cx) {
        Poll::Ready(()) => Err(barred()),
        Poll::Pending => Ok(()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ended(&mut this.ended[0], cx)?;
        let before = buf.filled().len();
        if Pin::new(&mut this.stream).poll_read(cx, buf)?.is_ready() {
            this.heard(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        match &mut this.greeting {
            Some((_, deadline)) => {
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was asked for")))
            }
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ended(&mut this.ended[1], cx)?;
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.sent(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ended(&mut this.ended[1], cx)?;
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.sent(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ended(&mut this.ended[1], cx)?;
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.sent(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.sent(cx, outcome)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::Gate;

    const SHORT: Patience = Patience { greeting: Duration::from_millis(100), stall: Duration::from_secs(2) };

    fn connection(gate: &Gate, shown: &[u8]) -> (DuplexStream, Guarded<DuplexStream>) {
        let (client, server) = duplex(64);
        let place = gate.enter([10, 0, 0, 1].into()).unwrap();
        place.identify(Some(shown)).unwrap();
        (client, place.guard(server, SHORT))
    }

    /// Reads until something else than bytes comes; what that is, and whether it came no sooner than patience ends.
    async fn outcome(stream: &mut Guarded<DuplexStream>) -> (Option<io::ErrorKind>, bool) {
        let (began, mut buf) = (Instant::now(), [0; 64]);
        loop {
            match tokio::time::timeout(10 * SHORT.greeting, stream.read(&mut buf)).await {
                Ok(Ok(0)) | Err(_) => return (None, began.elapsed() >= SHORT.greeting),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return (Some(error.kind()), began.elapsed() >= SHORT.greeting),
            }
        }
    }

    #[tokio::test]
    async fn a_connection_has_to_say_what_it_speaks() {
        for (what, said, ends) in [
            ("nothing", &b""[..], true),
            ("a letter", b"P", true),
            ("nearly the preface of HTTP/2", &PREFACE[..23], true),
            ("all of it", PREFACE, false),
            ("it and more", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", false),
            ("HTTP/1, whose own deadline counts from here", b"G", false),
            ("a method that begins alike", b"PUT", false),
        ] {
            let (mut client, mut server) = connection(&Gate::default(), b"x");
            // Byte by byte, as who wants to hold a place would.
            for byte in said {
                client.write_all(&[*byte]).await.unwrap();
            }
            let (error, _) = outcome(&mut server).await;
            assert_eq!(error, ends.then_some(io::ErrorKind::TimedOut), "{what}");
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_is_let_go() {
        let (mut client, mut server) = connection(&Gate::default(), b"x");
        server.write_all(&[0; 64]).await.unwrap();
        let began = Instant::now();
        let error = server.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed() >= SHORT.stall), (io::ErrorKind::TimedOut, true));
        // Who takes a little now and then is slow, and stays.
        let (mut slow, mut server) = connection(&Gate::default(), b"x");
        let sending = tokio::spawn(async move { server.write_all(&[0; 512]).await });
        for _ in 0..8 {
            tokio::time::sleep(SHORT.stall / 6).await;
            slow.read_exact(&mut [0; 64]).await.unwrap();
        }
        sending.await.unwrap().unwrap();
        client.read_exact(&mut [0; 64]).await.unwrap();
    }

    #[tokio::test]
    async fn an_established_connection_ends_when_its_certificate_is_barred() {
        let gate = Gate::default();
        let ((mut client, mut server), (_honest, mut other)) = (connection(&gate, b"thief"), connection(&gate, b"y"));
        client.write_all(PREFACE).await.unwrap();
        let waits = tokio::spawn(async move { outcome(&mut server).await });
        tokio::task::yield_now().await;
        gate.bar(Arc::new(|shown| shown == b"thief"));
        assert_eq!(waits.await.unwrap(), (Some(io::ErrorKind::PermissionDenied), false));
        assert_eq!(outcome(&mut other).await.0, Some(io::ErrorKind::TimedOut), "another's goes on to its own end");
        drop(other);
        assert_eq!(gate.figures().open, 0);
    }
}
