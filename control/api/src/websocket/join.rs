//! A WebSocket client joined to a stream of a node, through a codec for each direction.
//!
//! Invariants
//! - Nothing is read of a side while the other takes nothing: the queues between are bounded.
//! - Whichever side ends, the other is told: the node by the end of its stream, the client by a close frame whose code
//!   says whether all was said.
//! - After the end the client has time to take what is still under way to it: closing at once could destroy it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::frame::{self, Decoder, Event, Violation};
use crate::node_proxy::{NodeProxyError, NodeStream};

/// Pieces for either side.
#[derive(Default, Debug)]
pub(crate) struct Pieces {
    /// Frames for the client.
    pub client: Vec<Bytes>,
    /// Bytes for the node.
    pub node: Vec<Bytes>,
}

/// How a node's stream ended.
pub(crate) enum End {
    /// All was said.
    Complete,
    /// It broke off, for this reason.
    Broken(String),
}

/// What a client's messages are to the node.
pub(crate) trait Up: Send {
    /// Takes one event of a message.
    ///
    /// # Errors
    /// Nobody may send this.
    fn take(&mut self, event: Event, out: &mut Pieces) -> Result<(), Violation>;
}

/// What a node's bytes are to the client.
pub(crate) trait Down: Send {
    /// What is sent before anything else.
    fn begin(&mut self, out: &mut Pieces);

    /// Takes bytes of the node. `true`: from now on it may be told what the client says.
    ///
    /// # Errors
    /// What is wrong with them.
    fn take(&mut self, bytes: Bytes, out: &mut Pieces) -> Result<bool, &'static str>;

    /// The node's stream is over; the answer is how that is to be understood.
    fn end(&mut self, end: Result<(), String>, out: &mut Pieces) -> End;
}

/// Frames waiting for the client.
const QUEUE: usize = 8;
const CHUNK: usize = 32 << 10;
/// How long a client may take to read what it was sent before the end.
pub(crate) const LINGER: Duration = Duration::from_secs(900);

/// Passes on between `client` and `node` until either ends; `first` came from the node already.
pub(crate) async fn join<S>(client: S, node: NodeStream, first: Bytes, up: impl Up, down: impl Down)
where
    S: AsyncRead + AsyncWrite + Send,
{
    let (read, write) = tokio::io::split(client);
    let (out_tx, out_rx) = mpsc::channel(QUEUE);
    let (may_tx, may_rx) = watch::channel(false);
    let NodeStream { tx, rx } = node;
    let receive = receive(read, up, tx.clone(), out_tx.clone(), may_rx);
    let mut deliver = Box::pin(deliver(Node { tx, rx, first }, down, out_tx, may_tx));
    let write = write_all(write, out_rx);
    tokio::pin!(receive, write);
    tokio::select! {
        () = &mut write => return,
        () = &mut deliver => {}
        () = &mut receive => {
            // The client is done: the node's stream goes, and what waits for the client is still tried.
            drop(deliver);
            let _ = tokio::time::timeout(Duration::from_secs(10), write).await;
            return;
        }
    }
    let rest = async {
        // The client answers the close frame or goes; a write that fails means the same.
        tokio::select! {
            () = &mut receive => {}
            () = &mut write => {}
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

async fn write_all<S: AsyncWrite + Send>(mut to: WriteHalf<S>, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await; // the client may have gone first
}

/// Takes what the client says until it ends.
async fn receive<S: AsyncRead + Send>(
    mut from: ReadHalf<S>,
    mut up: impl Up,
    node: mpsc::Sender<Bytes>,
    client: mpsc::Sender<Bytes>,
    mut may: watch::Receiver<bool>,
) {
    // An error: the node's stream is over, and what the client says goes nowhere.
    let _ = may.wait_for(|may| *may).await;
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(CHUNK));
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => decoder.push(&buffer),
        }
        buffer.clear();
        loop {
            let mut out = Pieces::default();
            let taken = decoder.next().and_then(|event| match event {
                None => Ok(Taken::All),
                Some(Event::Ping(payload)) => {
                    out.client.push(frame::pong(&payload));
                    Ok(Taken::One)
                }
                Some(Event::Close(code)) => Ok(Taken::Close(code)),
                Some(event) => up.take(event, &mut out).map(|()| Taken::One),
            });
            for piece in out.node {
                let _ = node.send(piece).await; // the node's stream may be over: then nobody wants it
            }
            let over = match taken {
                Ok(Taken::One) => None,
                Ok(Taken::All) => break,
                Ok(Taken::Close(code)) => Some(frame::close(code, "")),
                Err(violation) => Some(frame::close(frame::PROTOCOL, violation.0)),
            };
            for frame in out.client.into_iter().chain(over.clone()) {
                if client.send(frame).await.is_err() {
                    return;
                }
            }
            if over.is_some() {
                return;
            }
        }
    }
}

enum Taken {
    One,
    All,
    Close(u16),
}

/// The node's end of a join.
struct Node {
    tx: mpsc::Sender<Bytes>,
    rx: mpsc::Receiver<Result<Bytes, NodeProxyError>>,
    first: Bytes,
}

/// Gives the client what the node says, to its end.
async fn deliver(node: Node, mut down: impl Down, client: mpsc::Sender<Bytes>, may: watch::Sender<bool>) {
    let Node { tx, mut rx, first } = node;
    let mut out = Pieces::default();
    down.begin(&mut out);
    let mut piece = Some(Ok::<Bytes, NodeProxyError>(first));
    let ended = loop {
        let taken = match piece {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.message),
            Some(Ok(bytes)) => down.take(bytes, &mut out),
        };
        let Pieces { client: frames, node: answers } = std::mem::take(&mut out);
        for answer in answers {
            let _ = tx.send(answer).await; // the end of the node's stream comes through `rx`
        }
        for frame in frames {
            if client.send(frame).await.is_err() {
                return;
            }
        }
        match taken {
            Ok(ready) => may.send_if_modified(|may| ready && !std::mem::replace(may, true)),
            Err(wrong) => break Err(wrong.to_owned()),
        };
        piece = rx.recv().await;
    };
    let close = match down.end(ended, &mut out) {
        End::Complete => frame::close(frame::NORMAL, ""),
        End::Broken(reason) => frame::close(frame::BROKEN_OFF, &reason),
    };
    for frame in out.client.into_iter().chain([close]) {
        if client.send(frame).await.is_err() {
            return;
        }
    }
}
