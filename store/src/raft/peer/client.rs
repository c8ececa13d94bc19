//! The way to the other members: openraft's network over gRPC, and forwarded requests.

use std::{collections::HashMap, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use kontiki_proto::raft::{Blob, SnapshotChunk, raft_client::RaftClient};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    followers::{Followers, OnItsWay},
    link::{Connection, Lane, Link, NotSent, not_sent},
    rpc::{ForwardError, MAX_MESSAGE, Rpc, VOTE, malformed},
    simulated::{self, Simulated},
    tls::Identity,
    wire,
};
use crate::{
    disk::install::SnapshotData,
    raft::local::Local,
    rt, sim,
    types::{Node, Snapshot, TypeConfig, Vote},
};

type C = TypeConfig;
/// Connections to the other members, shared by all who talk to them.
pub(crate) struct Peers {
    pub followers: Followers,
    way: Way,
}

enum Way {
    Grpc(Links),
    Simulated(sim::Port),
}

impl Peers {
    pub fn new(identity: Identity) -> Self {
        Self { followers: Followers::default(), way: Way::Grpc(Links { identity, links: Mutex::default() }) }
    }

    /// The other members of the simulated world.
    pub fn simulated() -> Self {
        Self { followers: Followers::default(), way: Way::Simulated(sim::Port::new()) }
    }

    /// Sends a request to the member at `address` and waits for its answer.
    pub async fn forward(&self, address: &str, request: Bytes, timeout: Duration) -> Result<Bytes, ForwardError> {
        let answer = match &self.way {
            Way::Grpc(links) => rt::timeout(timeout, links.forward(address, request)).await,
            Way::Simulated(port) => rt::timeout(timeout, simulated::forward(port, address, request)).await,
        };
        answer.unwrap_or(Err(ForwardError::Lost))
    }
}

struct Links {
    identity: Identity,
    links: Mutex<HashMap<(String, Lane), Arc<Link>>>,
}

impl Links {
    fn link(&self, address: &str, lane: Lane) -> Arc<Link> {
        let mut links = self.links.lock();
        let link = links
            .entry((address.to_owned(), lane))
            .or_insert_with(|| Arc::new(Link::new(address.to_owned(), self.identity.clone())));
        Arc::clone(link)
    }

    async fn forward(&self, address: &str, request: Bytes) -> Result<Bytes, ForwardError> {
        let link = self.link(address, Lane::Forward);
        let connection = link.get().await.map_err(|_| ForwardError::NotSent)?;
        let answer = client(connection).forward(Blob { data: request }).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().data),
            Err(status) if not_sent(&status) => Err(ForwardError::NotSent),
            Err(status) => {
                tracing::debug!(%status, address, "a forwarded request got no answer");
                Err(ForwardError::Lost)
            }
        }
    }
}

fn client(connection: Connection) -> RaftClient<Connection> {
    // The name is only for the pseudo-header; who is there was checked when connecting.
    let origin = http::Uri::from_static("http://kontiki");
    RaftClient::with_origin(connection, origin)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

fn unreachable(error: &NotSent) -> RPCError<C> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn failed(status: Status) -> RPCError<C> {
    if not_sent(&status) {
        return RPCError::Unreachable(Unreachable::from_string(status.message()));
    }
    RPCError::Network(NetworkError::from_string(status.message()))
}

/// Makes openraft's clients.
#[derive(Clone)]
pub(crate) struct Factory(pub Arc<Peers>, pub Arc<Local>);

impl Factory {
    fn client(&self, member: u64, node: &Node, lane: Lane) -> Network {
        let streams = lane == Lane::Log;
        let way = match &self.0.way {
            Way::Grpc(links) => Transport::Grpc(Grpc {
                link: links.link(&node.address, lane),
                control: links.link(&node.address, Lane::Control),
                streams,
                local: Arc::clone(&self.1),
            }),
            Way::Simulated(port) => {
                Transport::Simulated(Simulated::new(port.clone(), node.address.clone(), streams, Arc::clone(&self.1)))
            }
        };
        Network { member, streams, peers: Arc::clone(&self.0), way }
    }
}

impl RaftNetworkFactory<C> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Lane::Snapshot)
    }
}

/// openraft's client for one member.
pub(crate) struct Network {
    member: u64,
    streams: bool,
    peers: Arc<Peers>,
    way: Transport,
}

enum Transport {
    Grpc(Grpc),
    Simulated(Simulated),
}

impl RaftNetworkV2<C> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<C>> {
        match &mut self.way {
            Transport::Grpc(network) => network.append_entries(rpc, option).await,
            Transport::Simulated(network) => network.append_entries(rpc, option).await,
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<C>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        let sent = Arc::new(OnItsWay::new(self.member, !self.streams));
        let (peers, answered) = (Arc::clone(&self.peers), Arc::clone(&sent));
        let input = Box::pin(answers_first(input).inspect(move |append| sent.sends(append)));
        let answers = match &mut self.way {
            Transport::Grpc(network) => network.stream_append(input, option),
            Transport::Simulated(network) => network.stream_append(input, option),
        };
        Box::pin(async move {
            let answers = answers.await?.inspect(move |answer| {
                if let Ok(answer) = answer {
                    answered.answered(answer, &peers.followers);
                }
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Rpc<VoteResponse<C>> {
        match &mut self.way {
            Transport::Grpc(network) => network.vote(rpc, option).await,
            Transport::Simulated(network) => network.vote(rpc, option).await,
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Rpc<VoteResponse<C>> {
        match &mut self.way {
            Transport::Grpc(network) => network.pre_vote(rpc, option).await,
            Transport::Simulated(network) => network.pre_vote(rpc, option).await,
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        match &mut self.way {
            Transport::Grpc(network) => network.full_snapshot(vote, snapshot, cancel, option).await,
            Transport::Simulated(network) => network.full_snapshot(vote, snapshot, cancel, option).await,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<C>> {
        match &mut self.way {
            Transport::Grpc(network) => network.transfer_leader(rpc, option).await,
            Transport::Simulated(network) => network.transfer_leader(rpc, option).await,
        }
    }
}

/// Lets an append that only tells a commit give way once: whoever waits for what was committed is answered
/// before the other members, for whom nothing waits, are woken.
fn answers_first(appends: impl Stream<Item = wire::Append>) -> impl Stream<Item = wire::Append> {
    appends.then(|append| async {
        if append.entries.is_empty() {
            tokio::task::yield_now().await;
        }
        append
    })
}

/// As it really is: HTTP/2 over TLS.
pub(crate) struct Grpc {
    link: Arc<Link>,
    control: Arc<Link>,
    /// Whether appends are streamed; heartbeats are single requests.
    streams: bool,
    local: Arc<Local>,
}

impl Grpc {
    async fn connect(&self) -> Rpc<RaftClient<Connection>> {
        self.link.get().await.map(client).map_err(|error| unreachable(&error))
    }

    async fn connect_control(&self) -> Rpc<RaftClient<Connection>> {
        self.control.get().await.map(client).map_err(|error| unreachable(&error))
    }
}

impl RaftNetworkV2<C> for Grpc {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<C>> {
        let blob = Blob { data: wire::encode_append(&rpc, self.local.level()) };
        let answer = self.connect().await?.append_entries(blob).await.map_err(failed)?;
        wire::decode_response(answer.into_inner().data).map_err(malformed)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<C>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        if !self.streams {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let local = Arc::clone(&self.local);
            let requests = input.map(move |request| Blob { data: wire::encode_append(&request, local.level()) });
            let answers = self.connect().await?.stream_append(requests).await.map_err(failed)?;
            let answers = answers.into_inner().map(|answer| {
                let blob = answer.map_err(failed)?;
                wire::decode_answer(blob.data).map_err(malformed)
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, _option: RPCOption) -> Rpc<VoteResponse<C>> {
        let blob = Blob { data: wire::encode_json(&rpc) };
        let mut client = self.connect_control().await?;
        let answer = bounded(VOTE, client.vote(blob)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, _option: RPCOption) -> Rpc<VoteResponse<C>> {
        let blob = Blob { data: wire::encode_json(&rpc) };
        let mut client = self.connect_control().await?;
        let answer = bounded(VOTE, client.pre_vote(blob)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let mut client = self.connect().await?;
        let meta = wire::encode_json(&(vote, &snapshot.meta));
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        let feed = tokio::spawn(feed(meta, snapshot.snapshot, tx));
        let install = client.install_snapshot(ReceiverStream::new(rx));
        let result = tokio::select! {
            // Cancelled: the stream ends without its checksum and the other side drops it.
            closed = cancel => Err(StreamingError::Closed(closed)),
            // Not cancel-safe, nor need it be: see above.
            answer = install => match answer {
                Ok(answer) => wire::decode_json(&answer.into_inner().data).map_err(|e| malformed(e).into()),
                Err(status) => Err(failed(status).into()),
            },
        };
        feed.abort();
        result
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<C>> {
        let blob = Blob { data: wire::encode_json(&rpc) };
        let mut client = self.connect_control().await?;
        let answer = bounded(VOTE, client.transfer_leader(blob)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }
}

async fn bounded(limit: Duration, call: impl Future<Output = Result<tonic::Response<Blob>, Status>>) -> Rpc<Bytes> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer.map_err(failed)?.into_inner().data),
        Err(_) => Err(malformed("timed out")),
    }
}

/// Sends a snapshot's pieces; the last message carries the checksum of all data.
async fn feed(meta: Bytes, data: SnapshotData, tx: tokio::sync::mpsc::Sender<SnapshotChunk>) -> io::Result<()> {
    let gone = |_| io::Error::other("the receiver is gone");
    let SnapshotData::Live(mut pieces) = data else {
        return Err(io::Error::other("only snapshots of the own state are sent"));
    };
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
