//! A stream to a node as bytes that can be read and written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::node_proxy::{NodeProxyError, NodeStream};

/// Both directions of one stream. An error of the node is an `io::Error` with the [`NodeProxyError`] inside.
pub(crate) struct TunnelIo {
    tx: PollSender<Bytes>,
    rx: mpsc::Receiver<Result<Bytes, NodeProxyError>>,
    /// What came and was not read yet.
    left: Bytes,
}

impl TunnelIo {
    pub fn new(NodeStream { tx, rx }: NodeStream) -> Self {
        Self { tx: PollSender::new(tx), rx, left: Bytes::new() }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.rx.poll_recv(cx)) {
                Some(Ok(piece)) => self.left = piece,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left[..length]);
        self.left.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.tx.poll_reserve(cx)).map_err(closed)?;
        self.tx.send_item(Bytes::copy_from_slice(buf)).map_err(closed)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tx.close();
        Poll::Ready(Ok(()))
    }
}
