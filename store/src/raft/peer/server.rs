//! The peer port: accepts masters, hands their requests to openraft and to the forwarding side.
//!
//! Invariants
//! - Nobody gets past the handshake without a master's certificate.
//! - A member that has just started grants no vote for one lease: it may have forgotten that it
//!   promised a leader not to.
//! - A snapshot reaches openraft only whole and with the right checksum.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt as _, Stream, StreamExt, TryFutureExt as _, TryStreamExt, future::BoxFuture, stream::BoxStream,
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kontiki_proto::raft::{Blob, SnapshotChunk, raft_server};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{
    rpc::MAX_MESSAGE,
    tls::{Members, PeerIdentity},
    wire,
};
use crate::{
    OpenError,
    disk::install::{Pieces, SnapshotData, Staged, stage},
    raft::{answer::answer, engine::Core},
    rt::Instant,
    types::{SnapshotMeta, Vote},
    world::{self, Call, Owned},
};
use kontiki_state::codec::Malformed;

const HANDSHAKE: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Streams of one peer at a time. Forwarded requests are batched, so few are needed.
const STREAMS: u32 = 4096;

/// Pieces of a snapshot that may wait for the disk.
const PIECES: usize = 16;

/// The bound peer port.
pub(crate) struct Listener {
    listener: TcpListener,
    tls: TlsAcceptor,
    members: Members,
}

impl Listener {
    pub fn bind(addr: SocketAddr, identity: &PeerIdentity) -> Result<Self, OpenError> {
        let listener = bind(addr).map_err(|error| OpenError::Listen { addr, reason: error.to_string() })?;
        let tls = TlsAcceptor::from(Arc::clone(&identity.server));
        Ok(Self { listener, tls, members: identity.members.clone() })
    }

    /// Accepts until told to stop. Connections are cut then.
    pub async fn run(self, service: Service, tasks: TaskTracker, stop: CancellationToken) {
        let grpc = raft_server::RaftServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: an unaccepted connection stays in the backlog.
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => {
                    let (tls, grpc, stop) = (self.tls.clone(), grpc.clone(), stop.clone());
                    let members = self.members.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            // Dropped when told to stop: peers see a broken connection and retry elsewhere.
                            result = serve(tcp, tls, members, grpc) => if let Err(error) = result {
                                tracing::debug!(%from, %error, "a peer's connection ended");
                            }
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors or the like: the peer tries again, and so do we.
                    tracing::warn!(%error, "accepting a peer failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

async fn serve(
    tcp: TcpStream,
    tls: TlsAcceptor,
    members: Members,
    grpc: raft_server::RaftServer<Service>,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await??;
    if !members.admits(stream.get_ref().1.peer_certificates()) {
        return Err(io::Error::other("its certificate is not a member's"));
    }
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(4))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(grpc))
        .await
        .map_err(io::Error::other)
}

/// What the peer port serves.
#[derive(Clone)]
pub(crate) struct Service {
    core: Arc<Core>,
    /// Held while a snapshot is received and installed.
    installing: Arc<tokio::sync::Mutex<()>>,
    /// No vote is granted before.
    votes_from: Instant,
}

impl Service {
    pub fn new(core: Arc<Core>) -> Self {
        let votes_from = Instant::now() + core.timing.lease;
        Self { core, installing: Arc::default(), votes_from }
    }

    fn may_vote(&self) -> Result<(), Status> {
        if Instant::now() < self.votes_from {
            return Err(Status::unavailable("just started: a leader may hold a lease"));
        }
        Ok(())
    }

    /// Answers a request.
    pub async fn unary(&self, call: Call, body: Bytes) -> Result<Bytes, Status> {
        let raft = &self.core.raft;
        Ok(match call {
            Call::Append => {
                let append = wire::decode_append(body).map_err(malformed)?;
                wire::encode_response(raft.append_entries(append).await.map_err(failed)?)
            }
            Call::Vote => {
                self.may_vote()?;
                let vote = wire::decode_json(&body).map_err(malformed)?;
                wire::encode_json(&raft.vote(vote).await.map_err(failed)?)
            }
            Call::PreVote => {
                self.may_vote()?;
                let vote = wire::decode_json(&body).map_err(malformed)?;
                wire::encode_json(&raft.pre_vote(vote).await.map_err(failed)?)
            }
            Call::TransferLeader => {
                let transfer = wire::decode_json(&body).map_err(malformed)?;
                wire::encode_json(&raft.handle_transfer_leader(transfer).await.map_err(failed)?)
            }
            Call::Forward => answer(&self.core, body).await.map_err(malformed)?,
        })
    }

    /// Answers a stream of appends. An answer that would repeat the last one is left out: what only
    /// tells a commit moves nothing, and the leader counts answers by what they match, not one by one.
    pub fn appends(&self, requests: impl Stream<Item = Bytes> + Send + 'static) -> Answers {
        // A broken or unreadable stream just ends; the leader opens another.
        let appends = requests.map(|body| wire::decode_append(body).ok());
        let appends = appends.take_while(|append| std::future::ready(append.is_some())).filter_map(std::future::ready);
        let mut told = None;
        let answers = self.core.raft.stream_append(appends.boxed()).filter_map(move |answer| {
            let news = match answer {
                Ok(Ok(matched)) => {
                    (told.replace(matched) != Some(matched)).then(|| Ok(wire::encode_answer(&Ok(matched))))
                }
                Ok(refusal) => Some(Ok(wire::encode_answer(&refusal))),
                Err(fatal) => Some(Err(failed(fatal))),
            };
            std::future::ready(news)
        });
        Box::pin(answers)
    }

    /// Takes over a snapshot that came whole.
    pub async fn install(&self, meta: Bytes, snapshot: SnapshotData) -> Result<Bytes, Status> {
        let (vote, meta): (Vote, SnapshotMeta) = wire::decode_json(&meta).map_err(malformed)?;
        let snapshot = openraft::Snapshot { meta, snapshot };
        let answer = self.core.raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?;
        Ok(wire::encode_json(&answer))
    }
}

/// See [`Service::appends`].
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

fn blob(data: Bytes) -> Response<Blob> {
    Response::new(Blob { data })
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl raft_server::Raft for Service {
    async fn append_entries(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.unary(Call::Append, request.into_inner().data).await.map(blob)
    }

    type StreamAppendStream = Pin<Box<dyn Stream<Item = Result<Blob, Status>> + Send>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<Blob>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let requests = request.into_inner().map(|blob| blob.ok().map(|blob| blob.data));
        let requests = requests.take_while(|body| std::future::ready(body.is_some())).filter_map(std::future::ready);
        Ok(Response::new(Box::pin(self.appends(requests).map_ok(|data| Blob { data }))))
    }

    async fn vote(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.unary(Call::Vote, request.into_inner().data).await.map(blob)
    }

    async fn pre_vote(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.unary(Call::PreVote, request.into_inner().data).await.map(blob)
    }

    async fn install_snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Blob>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no snapshot"))?;
        // One at a time: the rows are written for the epoch after the present one. Whoever comes meanwhile tries again.
        let _one = self.installing.try_lock().map_err(|_| Status::unavailable("another snapshot is being received"))?;
        let staged = receive(&self.core, chunks).await.map_err(failed)?;
        self.install(first.meta, SnapshotData::Staged(staged)).await.map(blob)
    }

    async fn transfer_leader(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.unary(Call::TransferLeader, request.into_inner().data).await.map(blob)
    }

    async fn forward(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.unary(Call::Forward, request.into_inner().data).await.map(blob)
    }
}

/// The same for members of a simulated world.
impl world::Peer for Service {
    fn call(&self, call: Call, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        self.unary(call, body).map_err(said).boxed()
    }

    fn appends(&self, appends: BoxStream<'static, Bytes>) -> BoxStream<'static, Result<Bytes, String>> {
        self.appends(appends).map_err(said).boxed()
    }

    fn install(&self, meta: Bytes, snapshot: Owned<Bytes>) -> BoxFuture<'_, Result<Bytes, String>> {
        self.install(meta, SnapshotData::Whole(snapshot)).map_err(said).boxed()
    }
}

fn said(status: Status) -> String {
    status.message().to_owned()
}

/// Reads a snapshot into the database's directory as it comes, and checks it.
async fn receive(core: &Arc<Core>, mut chunks: Streaming<SnapshotChunk>) -> io::Result<Box<Staged>> {
    let (tx, rx) = mpsc::channel(PIECES);
    let core = Arc::clone(core);
    let staging = tokio::task::spawn_blocking(move || stage(&core.db, core.disk.writer(), &mut Pieces::new(rx)));
    let mut hash = Sha256::new();
    let mut right = None;
    while let Some(chunk) = chunks.message().await.map_err(io::Error::other)? {
        if !chunk.sha256.is_empty() {
            right = Some(chunk.sha256[..] == hash.finalize_reset()[..]);
            break;
        }
        hash.update(&chunk.data);
        if tx.send(Ok(chunk.data)).await.is_err() {
            // It has failed, and says why below.
            break;
        }
    }
    drop(tx);
    let staged = staging.await.map_err(io::Error::other)??;
    match right {
        Some(true) => Ok(Box::new(staged)),
        Some(false) => Err(io::Error::other("the snapshot's checksum is wrong")),
        None => Err(io::Error::other("the snapshot ended early")),
    }
}
