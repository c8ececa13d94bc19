//! The way to the other members: openraft's network, and forwarded requests.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    future::{Either, select},
};
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

use super::{
    followers::{Followers, OnItsWay},
    grpc::{Grpc, Links},
    link::Lane,
    rpc::{ForwardError, Rpc, VOTE, malformed},
    tls::PeerIdentity,
    wire,
};
use crate::{
    OpenError,
    disk::install::SnapshotData,
    raft::local::Local,
    rt,
    types::{Node, RaftSnapshot, TypeConfig, Vote},
    world::{Call, CallError, Pieces, Port, Shared},
};

type C = TypeConfig;
type Answers<'a> = Rpc<BoxStream<'a, Rpc<StreamAppendResult<C>>>>;

/// Connections to the other members, shared by all who talk to them.
pub(crate) struct Peers {
    pub followers: Followers,
    /// None in a simulated world.
    identity: Option<PeerIdentity>,
    way: Way,
}

enum Way {
    Grpc(Links),
    Simulated(Shared<dyn Port>),
}

impl Peers {
    pub fn new(identity: PeerIdentity) -> Self {
        let way = Way::Grpc(Links::new(identity.clone()));
        Self { followers: Followers::default(), identity: Some(identity), way }
    }

    /// The other members of a simulated world.
    pub fn simulated(port: Shared<dyn Port>) -> Self {
        Self { followers: Followers::default(), identity: None, way: Way::Simulated(port) }
    }

    /// Shows another certificate from now on.
    pub fn renew(&self, cert_pem: &str, key_pem: &str) -> Result<(), OpenError> {
        self.identity.as_ref().map_or(Ok(()), |identity| identity.renew(cert_pem, key_pem))
    }

    fn line(&self, address: &str, lane: Lane) -> Line {
        match &self.way {
            Way::Grpc(links) => Line::Grpc(links.line(address, lane)),
            Way::Simulated(port) => Line::Simulated(port.clone(), address.to_owned()),
        }
    }

    /// Sends a request to the member at `address` and waits for its answer.
    pub async fn forward(&self, address: &str, request: Bytes, timeout: Duration) -> Result<Bytes, ForwardError> {
        let line = self.line(address, Lane::Forward);
        match rt::timeout(timeout, line.call(Call::Forward, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(CallError::NotSent(_))) => Err(ForwardError::NotSent),
            Ok(Err(CallError::Refused(reason))) => {
                tracing::debug!(reason, address, "a forwarded request was not understood");
                Err(ForwardError::Refused)
            }
            Ok(Err(CallError::Lost(reason))) => {
                tracing::debug!(reason, address, "a forwarded request got no answer");
                Err(ForwardError::Lost)
            }
            Err(rt::Elapsed) => Err(ForwardError::Lost),
        }
    }
}

/// The way to one member.
enum Line {
    Grpc(Grpc),
    Simulated(Shared<dyn Port>, String),
}

impl Line {
    async fn call(&self, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        match self {
            Self::Grpc(line) => line.call(call, body).await,
            Self::Simulated(port, address) => port.call(address, call, body).await,
        }
    }

    async fn stream(
        &self,
        appends: BoxStream<'static, Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        match self {
            Self::Grpc(line) => line.stream(appends).await,
            Self::Simulated(port, address) => port.stream(address, appends).await,
        }
    }

    async fn snapshot(&self, meta: Bytes, pieces: Pieces) -> Result<Bytes, CallError> {
        match self {
            Self::Grpc(line) => line.snapshot(meta, pieces).await,
            Self::Simulated(port, address) => port.snapshot(address, meta, pieces).await,
        }
    }
}

fn failed(error: CallError) -> RPCError<C> {
    match error {
        CallError::NotSent(reason) => RPCError::Unreachable(Unreachable::from_string(reason)),
        CallError::Lost(reason) | CallError::Refused(reason) => RPCError::Network(NetworkError::from_string(reason)),
    }
}

/// Makes openraft's clients.
#[derive(Clone)]
pub(crate) struct Factory(pub Arc<Peers>, pub Arc<Local>);

impl Factory {
    fn client(&self, member: u64, node: &Node, lane: Lane) -> Network {
        let line = self.0.line(&node.address, lane);
        Network { member, streams: lane == Lane::Log, peers: Arc::clone(&self.0), local: Arc::clone(&self.1), line }
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
    /// Whether appends are streamed; heartbeats are single requests.
    streams: bool,
    peers: Arc<Peers>,
    local: Arc<Local>,
    line: Line,
}

impl Network {
    async fn bounded(&self, limit: Duration, call: Call, body: Bytes) -> Rpc<Bytes> {
        let answer = rt::timeout(limit, self.line.call(call, body)).await;
        answer.map_err(malformed)?.map_err(failed)
    }

    fn open_stream<'s>(
        &'s self,
        appends: impl Stream<Item = wire::Append> + Send + 'static,
    ) -> BoxFuture<'s, Answers<'s>> {
        let local = Arc::clone(&self.local);
        let appends = appends.map(move |append| wire::encode_append(&append, local.level())).boxed();
        Box::pin(async move {
            let answers = self.line.stream(appends).await.map_err(failed)?;
            Ok(Box::pin(answers.map(decoded)) as BoxStream<'s, _>)
        })
    }
}

impl RaftNetworkV2<C> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<C>> {
        let body = wire::encode_append(&rpc, self.local.level());
        let answer = self.line.call(Call::Append, body).await.map_err(failed)?;
        wire::decode_response(answer).map_err(malformed)
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Answers<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        let sent = Arc::new(OnItsWay::new(self.member, !self.streams));
        let (peers, answered) = (Arc::clone(&self.peers), Arc::clone(&sent));
        let input = Box::pin(answers_first(input).inspect(move |append| sent.sends(append)));
        let answers =
            if self.streams { self.open_stream(input) } else { stream_append_sequential(self, input, option) };
        Box::pin(async move {
            let answers = answers.await?.inspect(move |answer| {
                if let Ok(answer) = answer {
                    answered.answered(answer, &peers.followers);
                }
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, _option: RPCOption) -> Rpc<VoteResponse<C>> {
        let answer = self.bounded(VOTE, Call::Vote, wire::encode_json(&rpc)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<C>, _option: RPCOption) -> Rpc<VoteResponse<C>> {
        let answer = self.bounded(VOTE, Call::PreVote, wire::encode_json(&rpc)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let meta = wire::encode_json(&(vote, &snapshot.meta));
        let SnapshotData::Live(pieces) = snapshot.snapshot else {
            return Err(malformed("only snapshots of the own state are sent").into());
        };
        let sent = self.line.snapshot(meta, pieces);
        match select(Box::pin(cancel), Box::pin(sent)).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((Ok(answer), _)) => wire::decode_json(&answer).map_err(|error| malformed(error).into()),
            Either::Right((Err(error), _)) => Err(failed(error).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<C>> {
        let answer = self.bounded(VOTE, Call::TransferLeader, wire::encode_json(&rpc)).await?;
        wire::decode_json(&answer).map_err(malformed)
    }
}

fn decoded(answer: Result<Bytes, CallError>) -> Rpc<StreamAppendResult<C>> {
    wire::decode_answer(answer.map_err(failed)?).map_err(malformed)
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
