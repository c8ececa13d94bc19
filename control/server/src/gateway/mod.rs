//! The gateway: node sessions and joining, on one port.
//!
//! ```text
//! agent ──Session──▶ session ──▶ outbox ──▶ API (as the node)
//!                       ▲ feed ◀── caches ◀── store
//! API ──NodeProxy──▶ sessions ──▶ tunnel in a local session, or relay ──Relay──▶ other master
//! ```

pub mod bounds;
pub mod cache;
pub mod certificates;
pub mod feed;
pub mod joining;
pub mod leases;
pub mod needs;
pub mod outbox;
pub mod projection;
pub mod relay;
pub mod report;
pub mod session;
pub mod sessions;
pub mod tunnel;

use std::sync::Arc;

use jiff::Timestamp;
use kontiki_gate::Gate;
use kontiki_proto::node::{
    FromAgent, RenewRequest, RenewResponse, ToAgent, Tunnel, join_server::JoinServer, node_server, tunnel::Step,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::{joining::Joining, session::Context};
use crate::{
    pki::{Bearer, Pki},
    rpc,
};

/// The largest message of an agent: a status, and as much again for what surrounds it.
const FROM_AGENT: usize = 2 * bounds::STATUS;

struct Nodes {
    context: Arc<Context>,
    pki: Arc<Pki>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl node_server::Node for Nodes {
    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;
    type RelayStream = ReceiverStream<Result<Tunnel, Status>>;

    async fn session(&self, request: Request<Streaming<FromAgent>>) -> Result<Response<Self::SessionStream>, Status> {
        let Bearer::Node(node) = rpc::caller(&request) else {
            return Err(Status::permission_denied("only a node's certificate opens a session"));
        };
        if self.stop.is_cancelled() || !self.context.sessions.healthy() {
            return Err(Status::unavailable("this server has no contact with the leader"));
        }
        let rx = session::start(self.context.clone(), &node, request.into_inner(), self.stop.child_token());
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn relay(&self, request: Request<Streaming<Tunnel>>) -> Result<Response<Self::RelayStream>, Status> {
        let Bearer::Server(_) = rpc::caller(&request) else {
            return Err(Status::permission_denied("only a server's certificate relays"));
        };
        let mut asked = request.into_inner();
        let Some(Tunnel { step: Some(Step::Open(open)), .. }) = asked.message().await? else {
            return Err(Status::invalid_argument("the first message must be Open"));
        };
        let answers = match self.context.sessions.open_local(open).await {
            Ok(stream) => relay::serve(stream, asked),
            Err(error) => relay::refuse(error),
        };
        Ok(Response::new(answers))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let Bearer::Node(node) = rpc::caller(&request) else {
            return Err(Status::permission_denied("only a node's certificate is renewed"));
        };
        let certificate_pem = self
            .pki
            .sign_node(&node, &request.into_inner().csr_pem, Timestamp::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(RenewResponse { ca_pem: self.pki.ca_pem.clone(), certificate_pem }))
    }
}

/// Serves the gateway until `stop`; sessions end with it.
///
/// # Errors
/// The server itself failed.
pub async fn serve(
    context: Arc<Context>,
    joining: Joining,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    gate: Gate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let nodes = Nodes { context, pki: joining.pki.clone(), stop: stop.clone() };
    let nodes = node_server::NodeServer::new(nodes).max_decoding_message_size(FROM_AGENT);
    let incoming = rpc::incoming(listener, tls, gate, stop.clone());
    rpc::server()
        .add_service(nodes)
        .add_service(JoinServer::new(joining))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}
