//! A stream to a node whose session another master holds. HTTP/2 does the flow control: both halves
//! are bounded channels.

use bytes::Bytes;
use kontiki_api::{NodeProxyError, NodeStream};
use kontiki_proto::node::{Close, Open, Tunnel, node_client::NodeClient, tunnel};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming, transport::Channel};

use crate::rpc;

const CHUNKS: usize = 8;

/// The other master cannot be reached.
pub struct Lost;

fn step(step: tunnel::Step) -> Tunnel {
    Tunnel { id: 0, step: Some(step) }
}

/// The asking side.
///
/// # Errors
/// The other master does not answer.
pub async fn open(channel: Channel, open: Open) -> Result<NodeStream, Lost> {
    let (out_tx, out_rx) = mpsc::channel(CHUNKS);
    out_tx.try_send(step(tunnel::Step::Open(open))).map_err(|_| Lost)?;
    let mut client = NodeClient::new(channel).max_decoding_message_size(rpc::MAX_MESSAGE);
    let answers = client.relay(ReceiverStream::new(out_rx)).await.map_err(|_| Lost)?.into_inner();
    let (to_node_tx, mut to_node_rx) = mpsc::channel::<Bytes>(CHUNKS);
    let (from_node_tx, from_node_rx) = mpsc::channel(CHUNKS);
    // Ends with the receiving half. Not a clone of its sender: that would keep the stream open.
    let over = CancellationToken::new();
    tokio::spawn(receive(answers, from_node_tx, over.clone().drop_guard()));
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                // The client left, or the node ended the stream: dropping `out_tx` tells the other master.
                () = over.cancelled() => return,
                data = to_node_rx.recv() => data,
            };
            let end = message.is_none();
            let message =
                message.map_or(tunnel::Step::Close(Close::default()), |data| tunnel::Step::Data(data.to_vec()));
            if out_tx.send(step(message)).await.is_err() {
                return;
            }
            if end {
                // Half closed: the stream stays open for what the node still sends.
                over.cancelled().await;
                return;
            }
        }
    });
    Ok(NodeStream { tx: to_node_tx, rx: from_node_rx })
}

/// Passes what the other master sends to `tx` until either ends.
async fn receive(mut answers: Streaming<Tunnel>, tx: mpsc::Sender<Result<Bytes, NodeProxyError>>, _over: DropGuard) {
    loop {
        let answer = tokio::select! {
            () = tx.closed() => return,
            answer = answers.next() => answer,
        };
        let item = match answer {
            Some(Ok(Tunnel { step: Some(tunnel::Step::Data(data)), .. })) => Ok(data.into()),
            Some(Ok(Tunnel { step: Some(tunnel::Step::Close(close)), .. })) if close.error.is_empty() => return,
            Some(Ok(Tunnel { step: Some(tunnel::Step::Close(close)), .. })) => {
                Err(NodeProxyError { code: u16::try_from(close.code).unwrap_or(0), message: close.error })
            }
            Some(Ok(_)) => continue,
            Some(Err(status)) => Err(NodeProxyError {
                code: 503,
                message: format!("the server that holds the node's session: {}", status.message()),
            }),
            None => {
                Err(NodeProxyError { code: 503, message: "the server that holds the node's session went away".into() })
            }
        };
        let last = item.is_err();
        if tx.send(item).await.is_err() || last {
            return;
        }
    }
}

/// The answering side: joins `stream`, opened in a session of this master, to the caller.
pub fn serve(stream: NodeStream, mut asked: Streaming<Tunnel>) -> ReceiverStream<Result<Tunnel, Status>> {
    let (out_tx, out_rx) = mpsc::channel(CHUNKS);
    let NodeStream { tx, mut rx } = stream;
    tokio::spawn(async move {
        let to_node = async {
            let mut tx = Some(tx);
            while let Some(Ok(message)) = asked.next().await {
                match message.step {
                    Some(tunnel::Step::Data(data)) => {
                        let Some(tx) = &tx else { continue };
                        if tx.send(data.into()).await.is_err() {
                            break;
                        }
                    }
                    Some(tunnel::Step::Close(close)) if close.error.is_empty() => tx = None,
                    Some(tunnel::Step::Close(_)) => break,
                    _ => {}
                }
            }
        };
        let from_node = async {
            while let Some(item) = rx.recv().await {
                let (message, last) = match item {
                    Ok(data) => (tunnel::Step::Data(data.to_vec()), false),
                    Err(error) => {
                        (tunnel::Step::Close(Close { error: error.message, code: i32::from(error.code) }), true)
                    }
                };
                if out_tx.send(Ok(step(message))).await.is_err() || last {
                    return;
                }
            }
            // Should the caller be gone, there is nobody left to tell.
            let _ = out_tx.send(Ok(step(tunnel::Step::Close(Close::default())))).await;
        };
        tokio::select! {
            // The caller is gone: dropping both halves cancels the tunnel.
            () = to_node => {}
            () = from_node => {}
        }
    });
    ReceiverStream::new(out_rx)
}

/// The answer where the stream could not even be opened.
pub fn refuse(error: NodeProxyError) -> ReceiverStream<Result<Tunnel, Status>> {
    let (tx, rx) = mpsc::channel(1);
    let close = Close { error: error.message, code: i32::from(error.code) };
    let _ = tx.try_send(Ok(step(tunnel::Step::Close(close))));
    ReceiverStream::new(rx)
}
