//! The way to the other members of a simulated world: the same messages in the same encoding, over
//! `sim`'s network.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::Either};
use openraft::{
    OptionalSend, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    rpc::{Call, ForwardError, Rpc, VOTE, malformed},
    wire,
};
use crate::{
    disk::install::SnapshotData,
    raft::local::Local,
    rt,
    sim::{CallError, Port},
    types::{Snapshot, TypeConfig, Vote},
};

type C = TypeConfig;

/// As `Peers::forward`, without its deadline.
pub(super) async fn forward(port: &Port, address: &str, request: Bytes) -> Result<Bytes, ForwardError> {
    port.call(address, Call::Forward, request).await.map_err(|error| match error {
        CallError::NotSent => ForwardError::NotSent,
        CallError::Lost | CallError::Refused(_) => ForwardError::Lost,
    })
}

fn failed(error: CallError) -> RPCError<C> {
    match error {
        CallError::NotSent => RPCError::Unreachable(Unreachable::from_string(error)),
        CallError::Lost | CallError::Refused(_) => RPCError::Network(NetworkError::from_string(error)),
    }
}

/// openraft's client for one member.
pub(crate) struct Simulated {
    port: Port,
    address: String,
    /// Whether appends are streamed; heartbeats are single requests.
    streams: bool,
    local: Arc<Local>,
}

impl Simulated {
    pub fn new(port: Port, address: String, streams: bool, local: Arc<Local>) -> Self {
        Self { port, address, streams, local }
    }

    async fn call(&self, call: Call, body: Bytes) -> Rpc<Bytes> {
        self.port.call(&self.address, call, body).await.map_err(failed)
    }

    async fn bounded(&self, limit: Duration, call: Call, body: Bytes) -> Rpc<Bytes> {
        rt::timeout(limit, self.call(call, body)).await.unwrap_or_else(|_| Err(malformed("timed out")))
    }
}

impl RaftNetworkV2<C> for Simulated {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<C>> {
        let answer = self.call(Call::Append, wire::encode_append(&rpc, self.local.level())).await?;
        wire::decode_response(answer).map_err(malformed)
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
            let requests = input.map(move |request| wire::encode_append(&request, local.level()));
            let answers = self.port.stream(&self.address, requests).await.map_err(failed)?;
            let answers = answers.map(|answer| wire::decode_answer(answer.map_err(failed)?).map_err(malformed));
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
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let meta = wire::encode_json(&(vote, &snapshot.meta));
        let SnapshotData::Live(pieces) = snapshot.snapshot else {
            return Err(malformed("only snapshots of the own state are sent").into());
        };
        let sent = self.port.snapshot(&self.address, meta, pieces);
        match futures::future::select(Box::pin(cancel), Box::pin(sent)).await {
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
