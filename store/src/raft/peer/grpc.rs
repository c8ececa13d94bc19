//! The way to one member as it really is: gRPC over the connections of `link`.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use kontiki_proto::raft::{Blob, SnapshotChunk, raft_client::RaftClient};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::{
    link::{Connection, Lane, Link, NotSent, not_sent},
    rpc::MAX_MESSAGE,
    tls::PeerIdentity,
};
use crate::world::{Call, CallError, Pieces};

/// Pieces of a snapshot that may wait for the network.
const PIECES: usize = 4;

/// Connections to the other members.
pub(super) struct Links {
    identity: PeerIdentity,
    links: Mutex<HashMap<(String, Lane), Arc<Link>>>,
}

impl Links {
    pub fn new(identity: PeerIdentity) -> Self {
        Self { identity, links: Mutex::default() }
    }

    fn link(&self, address: &str, lane: Lane) -> Arc<Link> {
        let mut links = self.links.lock();
        let link = links
            .entry((address.to_owned(), lane))
            .or_insert_with(|| Arc::new(Link::new(address.to_owned(), self.identity.clone())));
        Arc::clone(link)
    }

    /// The way to the member at `address`.
    pub fn line(&self, address: &str, lane: Lane) -> Grpc {
        Grpc { link: self.link(address, lane), control: self.link(address, Lane::Control) }
    }
}

/// The way to one member. As a [`crate::world::Port`]'s.
pub(super) struct Grpc {
    link: Arc<Link>,
    control: Arc<Link>,
}

impl Grpc {
    pub async fn call(&self, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        let link = match call {
            Call::Append | Call::Forward => &self.link,
            Call::Vote | Call::PreVote | Call::TransferLeader => &self.control,
        };
        let (mut client, blob) = (client(link.get().await?), Blob { data: body });
        let answer = match call {
            Call::Append => client.append_entries(blob).await,
            Call::Vote => client.vote(blob).await,
            Call::PreVote => client.pre_vote(blob).await,
            Call::TransferLeader => client.transfer_leader(blob).await,
            Call::Forward => client.forward(blob).await,
        };
        Ok(answer.map_err(failed)?.into_inner().data)
    }

    pub async fn stream(
        &self,
        appends: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let answers = client(self.link.get().await?).stream_append(Requests(appends)).await.map_err(failed)?;
        Ok(answers.into_inner().map(|answer| Ok(answer.map_err(failed)?.data)).boxed())
    }

    /// Given up, the stream ends without its checksum and the other side drops it.
    pub async fn snapshot(&self, meta: Bytes, pieces: Pieces) -> Result<Bytes, CallError> {
        let mut client = client(self.link.get().await?);
        let (tx, rx) = mpsc::channel(PIECES);
        let _feed = AbortOnDropHandle::new(tokio::spawn(feed(meta, pieces, tx)));
        let answer = client.install_snapshot(ReceiverStream::new(rx)).await;
        Ok(answer.map_err(failed)?.into_inner().data)
    }
}

fn client(connection: Connection) -> RaftClient<Connection> {
    // The name is only for the pseudo-header; who is there was checked when connecting.
    let origin = http::Uri::from_static("http://kontiki");
    RaftClient::with_origin(connection, origin)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Appends on their way. A type of its own: where the compiler forgets lifetimes, inside of futures, it cannot tell that
/// a boxed stream lives as long as tonic wants.
struct Requests(BoxStream<'static, Bytes>);

impl Stream for Requests {
    type Item = Blob;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Blob>> {
        self.0.poll_next_unpin(cx).map(|append| append.map(|data| Blob { data }))
    }
}

impl From<NotSent> for CallError {
    fn from(NotSent(reason): NotSent) -> Self {
        Self::NotSent(reason)
    }
}

fn failed(status: Status) -> CallError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => CallError::Refused(reason),
        _ if not_sent(&status) => CallError::NotSent(reason),
        _ => CallError::Lost(reason),
    }
}

/// Sends a snapshot's pieces; the last message carries the checksum of all data.
async fn feed(meta: Bytes, mut pieces: Pieces, tx: mpsc::Sender<SnapshotChunk>) -> io::Result<()> {
    let gone = |_| io::Error::other("the receiver is gone");
    tx.send(SnapshotChunk { meta, data: Bytes::new(), sha256: Bytes::new() }).await.map_err(gone)?;
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.recv().await {
        let data = piece.inspect_err(|error| tracing::warn!(%error, "reading a snapshot failed"))?;
        hash.update(&data);
        tx.send(SnapshotChunk { meta: Bytes::new(), data, sha256: Bytes::new() }).await.map_err(gone)?;
    }
    let sha256 = Bytes::copy_from_slice(&hash.finalize());
    tx.send(SnapshotChunk { meta: Bytes::new(), data: Bytes::new(), sha256 }).await.map_err(gone)
}
