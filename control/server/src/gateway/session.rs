//! One agent's session, from its first message to its end.
//!
//! Three tasks share it: the reader takes what the agent says, the feeder tells it what changed, the
//! outbox writes its reports. When one ends, all do, and the agent connects again.
//!
//! Invariants
//! - The snapshot is not older than the moment the session began (a linearizable barrier): an agent
//!   never stops a pod because a lagging master did not know it yet.
//! - The reader waits for nothing but the agent and its outgoing queue; an agent that does not read
//!   is silent, and a silent agent's session ends.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kontiki_api::{Api, Client, PatchKind, Status as ApiStatus, Target, User, Writer};
use kontiki_model::GroupResource;
use kontiki_proto::node::{
    FromAgent, Heartbeat, Hello, Object, PodCertificateAnswer, PodCertificateAsk, Refused, Servers, Synced, ToAgent,
    TokenRequest, TokenResponse, from_agent, to_agent,
};
use kontiki_store::Store;
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::{
    cache::Caches,
    certificates,
    feed::{Feed, Inbox},
    outbox::Outbox,
    report,
    sessions::{Handle, SILENCE, Sessions},
    tunnel::{Outbound, Tunnels},
};
use crate::servers;

const HELLO: Duration = Duration::from_secs(10);
const REGISTER_RETRY: Duration = Duration::from_millis(500);
/// Messages to an agent that are ready to be sent.
const OUTGOING: usize = 64;
/// Certificates of one agent's pods that signers have not decided about; as many more wait for their turn.
const CERTIFICATES: usize = 256;
/// How often silence is measured.
const LISTEN: Duration = Duration::from_millis(500);
const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };

/// What all sessions share.
pub struct Context {
    /// The API.
    pub api: Api,
    /// The store below it.
    pub store: Store,
    /// What agents are told.
    pub caches: Arc<Caches>,
    /// The others.
    pub sessions: Arc<Sessions>,
}

/// What an agent asks for and the reader does not answer itself.
struct Asks {
    tokens: mpsc::Sender<TokenRequest>,
    certificates: mpsc::Sender<PodCertificateAsk>,
}

struct Session {
    context: Arc<Context>,
    handle: Arc<Handle>,
    out: Outbound,
    client: Client,
    outbox: Outbox,
    inbox: Arc<Inbox>,
}

/// Starts a session of `node`; it ends with either stream, or with `stop`.
pub fn start(
    context: Arc<Context>,
    node: &str,
    inbound: Streaming<FromAgent>,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<ToAgent, Status>> {
    let (out, rx) = mpsc::channel(OUTGOING);
    let tunnels = Tunnels::new(node, out.clone(), stop.clone());
    let user = User::new(&format!("system:node:{node}"), &[crate::pki::NODES, "system:authenticated"]);
    let client = context.api.client(user).counted_for(Writer::NodeGateway);
    let session = Session {
        handle: Handle::new(node, stop, tunnels),
        outbox: Outbox::new(node, client.clone(), context.caches.clone()),
        inbox: Arc::new(Inbox::default()),
        context,
        out,
        client,
    };
    let span = info_span!("session", node);
    tokio::spawn(async move { session.run(inbound).await }.instrument(span));
    rx
}

fn message(message: to_agent::Message) -> ToAgent {
    ToAgent { message: Some(message) }
}

impl Session {
    async fn run(self, mut inbound: Streaming<FromAgent>) {
        let hello = match timeout(HELLO, inbound.message()).await {
            Ok(Ok(Some(FromAgent { message: Some(from_agent::Message::Hello(hello)) }))) => hello,
            _ => return self.refuse(Status::invalid_argument("the first message must be Hello")).await,
        };
        let node = match parse_node(&self.handle.node, &hello) {
            Ok(node) => node,
            Err(reason) => return self.refuse(Status::invalid_argument(reason)).await,
        };
        self.handle.heard();
        if let Err(error) = self.context.sessions.claim(&self.handle).await {
            self.context.sessions.release(&self.handle).await;
            return self.refuse(Status::unavailable(error.to_string())).await;
        }
        info!(agent = hello.agent_version, "session began");
        self.context.caches.router.insert(&self.handle.node, self.inbox.clone());
        let ended = tokio::select! {
            () = self.handle.stop.cancelled() => "it was replaced, or this server is stopping",
            reason = self.read(&mut inbound) => reason,
            () = self.listen() => "the agent is silent",
            reason = self.tell_renewals() => reason,
            reason = self.register_then_feed(node, hello.serves_ingresses) => reason,
            () = self.outbox.drain(&self.handle.stop) => "it was replaced, or this server is stopping",
        };
        info!(reason = ended, "session ended");
        // First of all, so that the agent looks for another server; it may be gone already.
        let _ = self.out.try_send(Ok(message(to_agent::Message::Refused(Refused { reason: ended.to_owned() }))));
        self.context.caches.router.remove(&self.handle.node, &self.inbox);
        self.context.sessions.release(&self.handle).await;
    }

    async fn refuse(&self, status: Status) {
        debug!(reason = status.message(), "a session was refused");
        self.handle.stop.cancel();
        let _ = self.out.send(Err(status)).await;
    }

    async fn send(&self, content: to_agent::Message) -> Result<(), &'static str> {
        self.out.send(Ok(message(content))).await.map_err(|_| "the agent closed the connection")
    }

    async fn listen(&self) {
        while self.handle.silent_for() < SILENCE {
            tokio::time::sleep(LISTEN).await;
        }
    }

    /// The agent may rely on it that its node does not count as lost for a while.
    async fn tell_renewals(&self) -> &'static str {
        let mut renewals = self.handle.renewals();
        while renewals.changed().await.is_ok() {
            let sequence = *renewals.borrow_and_update();
            if let Err(reason) = self.send(to_agent::Message::Heartbeat(Heartbeat { sequence, renewed: true })).await {
                return reason;
            }
        }
        "it is no longer held"
    }

    async fn read(&self, inbound: &mut Streaming<FromAgent>) -> &'static str {
        // Tokens are made one after the other, beside the reader: signing waits for a read of the store.
        let (tokens_tx, mut tokens_rx) = mpsc::channel::<TokenRequest>(OUTGOING);
        let answer_tokens = async {
            while let Some(request) = tokens_rx.recv().await {
                let answer = self.token(request).await;
                if self.send(to_agent::Message::Token(answer)).await.is_err() {
                    break;
                }
            }
            "the agent closed the connection"
        };
        let (certificates_tx, certificates_rx) = mpsc::channel::<PodCertificateAsk>(CERTIFICATES);
        let asks = Asks { tokens: tokens_tx, certificates: certificates_tx };
        let read = async {
            loop {
                let content = match inbound.message().await {
                    Ok(Some(FromAgent { message: Some(content) })) => content,
                    Ok(Some(FromAgent { message: None })) => continue,
                    Ok(None) => return "the agent closed the session",
                    Err(_) => return "the connection broke",
                };
                self.handle.heard();
                if let Err(reason) = self.take(content, &asks).await {
                    return reason;
                }
            }
        };
        tokio::select! {
            reason = read => reason,
            reason = answer_tokens => reason,
            reason = self.answer_certificates(certificates_rx) => reason,
        }
    }

    /// Certificates are waited for side by side: how long it takes is their signers' business.
    async fn answer_certificates(&self, mut asks: mpsc::Receiver<PodCertificateAsk>) -> &'static str {
        let mut open = FuturesUnordered::new();
        let (caches, node) = (&self.context.caches, &self.handle.node);
        loop {
            // Cancel-safe: what is received is kept at once.
            tokio::select! {
                Some(ask) = asks.recv(), if open.len() < CERTIFICATES => {
                    open.push(certificates::answer(caches, &self.client, node, ask));
                }
                Some(answer) = open.next(), if !open.is_empty() => {
                    if let Err(reason) = self.send(to_agent::Message::PodCertificate(answer)).await {
                        return reason;
                    }
                }
                else => return "the agent closed the session",
            }
        }
    }

    async fn take(&self, content: from_agent::Message, asks: &Asks) -> Result<(), &'static str> {
        match content {
            from_agent::Message::Hello(_) => return Err("the agent greeted twice"),
            from_agent::Message::Heartbeat(Heartbeat { sequence, .. }) => {
                self.handle.beat(sequence);
                self.send(to_agent::Message::Heartbeat(Heartbeat { sequence, renewed: false })).await?;
            }
            from_agent::Message::Status(upsert) => self.outbox.status(upsert)?,
            from_agent::Message::Event(upsert) => self.outbox.event(upsert),
            from_agent::Message::PodGone(gone) => self.outbox.pod_gone(gone)?,
            from_agent::Message::Token(request) => {
                if let Err(mpsc::error::TrySendError::Full(request)) = asks.tokens.try_send(request) {
                    let error = "too many token requests at once".to_owned();
                    self.send(to_agent::Message::Token(TokenResponse {
                        id: request.id,
                        error,
                        ..TokenResponse::default()
                    }))
                    .await?;
                }
            }
            from_agent::Message::PodCertificate(ask) => {
                if let Err(mpsc::error::TrySendError::Full(ask)) = asks.certificates.try_send(ask) {
                    let error = "too many certificates are asked for at once".to_owned();
                    let answer = PodCertificateAnswer { id: ask.id, error, ..PodCertificateAnswer::default() };
                    self.send(to_agent::Message::PodCertificate(answer)).await?;
                }
            }
            from_agent::Message::Tunnel(tunnel) => self.handle.tunnels.handle(tunnel),
        }
        Ok(())
    }

    async fn token(&self, request: TokenRequest) -> TokenResponse {
        let pod = self.context.caches.pods.get(Some(&request.namespace), &request.pod_name);
        let entitled = pod.is_some_and(|pod| {
            pod.node.as_deref() == Some(&self.handle.node)
                && pod.uid == request.pod_uid
                && pod.service_account == request.service_account
        });
        let issued = if entitled {
            let pod = Some((request.pod_name.as_str(), request.pod_uid.as_str()));
            let (namespace, account) = (&request.namespace, &request.service_account);
            let issued =
                self.context.api.issue_token(namespace, account, pod, &request.audiences, request.expiration_seconds);
            issued.await.map_err(|status| status.message)
        } else {
            Err(format!("no pod {} of that ServiceAccount is bound to this node", request.pod_name))
        };
        match issued {
            Ok((token, expires)) => {
                TokenResponse { id: request.id, token, expiration: expires.to_string(), error: String::new() }
            }
            Err(error) => TokenResponse { id: request.id, error, ..TokenResponse::default() },
        }
    }

    async fn register_then_feed(&self, node: Value, serves_ingresses: bool) -> &'static str {
        while let Err(status) = self.register(&node).await {
            if (400..500).contains(&status.code) && status.code != 429 && !status.is_conflict() {
                warn!(reason = status.message, "the node could not be registered");
                return "the node could not be registered";
            }
            debug!(reason = status.message, "the node is not registered yet");
            tokio::time::sleep(REGISTER_RETRY).await;
        }
        match self.feed(serves_ingresses).await {
            Ok(()) => "the feed ended",
            Err(reason) => reason,
        }
    }

    /// Creates the Node, or brings its labels up to date.
    async fn register(&self, node: &Value) -> Result<(), ApiStatus> {
        let target = Target { resource: NODES, namespace: None, name: &self.handle.node, subresource: None };
        match self.client.get(target).await {
            Ok(stored) => {
                if let Some(patch) = report::node_patch(&stored, node) {
                    self.client.patch(target, PatchKind::Merge, patch).await?;
                }
            }
            Err(status) if status.is_not_found() => {
                self.client.create(NODES, None, node.clone()).await?;
                info!("the node was registered");
            }
            Err(status) => return Err(status),
        }
        if node["status"].is_object() {
            let status = self.outbox.status(kontiki_proto::node::Upsert {
                kind: "Node".to_owned(),
                json: node["status"].to_string(),
                ..kontiki_proto::node::Upsert::default()
            });
            status.map_err(ApiStatus::internal)?;
        }
        Ok(())
    }

    async fn feed(&self, serves_ingresses: bool) -> Result<(), &'static str> {
        let revision = loop {
            match self.context.store.barrier().await {
                Ok(revision) => break revision,
                // Without a leader the agent keeps what it has; `Sessions` ends this session in time.
                Err(_) => tokio::time::sleep(REGISTER_RETRY).await,
            }
        };
        let caches = &self.context.caches;
        caches.wait_for(revision).await;
        let addresses = servers::session_addresses(&self.context.store.snapshot());
        self.send(to_agent::Message::Servers(Servers { addresses })).await?;
        let mut feed = Feed::new(&self.handle.node, serves_ingresses, self.inbox.clone());
        let revision = caches.revision();
        self.tell(feed.turn(&**caches, caches.everything_for(&self.handle.node))).await?;
        self.send(to_agent::Message::Synced(Synced { revision: revision.0 })).await?;
        loop {
            let dirty = self.inbox.next().await;
            self.tell(feed.turn(&**caches, dirty)).await?;
        }
    }

    async fn tell(&self, objects: Vec<Object>) -> Result<(), &'static str> {
        for object in objects {
            self.send(to_agent::Message::Object(object)).await?;
        }
        Ok(())
    }
}

/// The Node that an agent brings, checked to be its own.
fn parse_node(name: &str, hello: &Hello) -> Result<Value, String> {
    let mut node: Value = serde_json::from_str(&hello.node_json).map_err(|error| format!("node_json: {error}"))?;
    if node["metadata"]["name"] != name {
        return Err(format!("node_json is not about node {name}"));
    }
    let object = node.as_object_mut().ok_or("node_json is not an object")?;
    object.insert("apiVersion".to_owned(), "v1".into());
    object.insert("kind".to_owned(), "Node".into());
    Ok(node)
}
