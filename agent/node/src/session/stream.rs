//! The session with a master: one stream out, everything on it.
//!
//! Invariants
//! - At most one session at a time. A master that has been silent for [`SILENCE`] is left for
//!   another, whether it died, hangs or was cut off.
//! - What arrives goes to the cache, the outbox or a tunnel; nothing here decides about pods.
//! - A session that ends takes its tunnels with it, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream::FuturesUnordered};
use kontiki_agent_plan::session::{Attempts, Beats, SILENCE};
use kontiki_proto::node::{
    FromAgent, Heartbeat, Hello, ToAgent, from_agent, node_client::NodeClient, to_agent::Message,
};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use super::{
    node_status::NodeStatus,
    objects::Objects,
    outbox::{Outbox, Token},
    tunnels::{Handler, Tunnels},
};
use crate::host::identity::{self, Current};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long one server may take before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);
const OPENING: Duration = Duration::from_secs(4);
/// Messages waiting for the stream; statuses beyond them stay in the outbox.
const QUEUE: usize = 64;

/// The parts of the agent that a session feeds and sends from.
pub(crate) struct Parts<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) outbox: &'a Outbox,
    /// Whether a session is up and synced.
    pub(crate) online: &'a AtomicBool,
    pub(crate) node: NodeStatus<'a>,
    pub(crate) tunnels: Arc<dyn Handler>,
    /// When the heartbeat was sent after which a master last renewed this node's Lease, and this node knew all.
    pub(crate) renewed: &'a watch::Sender<Option<std::time::Instant>>,
}

/// Keeps a session open until `stop`.
pub(crate) async fn run(parts: Parts<'_>, identity: &Current, stop: CancellationToken) {
    let servers = merge(&parts.node.config.servers, &identity.get().cluster.servers);
    let mut session = Session { parts, identity, servers, last: None };
    let connected = AtomicBool::new(false);
    let mut attempts = Attempts::default();
    loop {
        let result = tokio::select! {
            // Cancel-safe: dropping a session closes its stream, and the outbox sends again.
            result = session.once(&connected) => result,
            () = stop.cancelled() => return,
        };
        session.parts.online.store(false, Ordering::SeqCst);
        let reason = result.map_or_else(|error| format!("{error:#}"), |()| "the master closed it".to_owned());
        let was_up = connected.swap(false, Ordering::SeqCst);
        attempts.failed(was_up);
        if attempts.is_news() {
            tracing::warn!(%reason, was_up, failures = attempts.count(), "no session");
        }
        tokio::select! {
            () = tokio::time::sleep(Attempts::pause(was_up, rand::random())) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn merge(configured: &[String], learned: &[String]) -> Vec<String> {
    let mut out = configured.to_vec();
    out.extend(learned.iter().filter(|s| !configured.contains(s)).cloned());
    out
}

struct Session<'a> {
    parts: Parts<'a>,
    identity: &'a Current,
    servers: Vec<String>,
    /// The server of the session that just ended: it is tried last.
    last: Option<String>,
}

impl Session<'_> {
    async fn once(&mut self, connected: &AtomicBool) -> anyhow::Result<()> {
        let (server, channel) = self.connect().await?;
        self.last = Some(server.clone());
        let (tx, rx) = mpsc::channel::<FromAgent>(QUEUE);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            node_json: self.parts.node.registration().await.to_string(),
            force: true,
            serves_ingresses: self.parts.node.config.ingress,
        };
        tx.send(message(from_agent::Message::Hello(hello))).await.context("queueing the greeting")?;
        let mut client =
            NodeClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20);
        let opening = client.session(ReceiverStream::new(rx));
        let inbound = tokio::time::timeout(OPENING, opening).await.context("the master did not open the session")?;
        let inbound = inbound.map_err(|status| anyhow::anyhow!("{server}: {}", status.message()))?.into_inner();
        self.serve(&server, tx, inbound, connected).await
    }

    /// The first server that completes a handshake; they start one after another.
    async fn connect(&self) -> anyhow::Result<(String, Channel)> {
        let mut servers = self.servers.clone();
        servers.shuffle(&mut rand::rng());
        servers.sort_by_key(|server| self.last.as_ref() == Some(server));
        let mut attempts = FuturesUnordered::new();
        let identity = self.identity.get();
        for (place, server) in servers.into_iter().enumerate() {
            let endpoint = identity.endpoint(&server)?;
            attempts.push(async move {
                tokio::time::sleep(STAGGER * u32::try_from(place).unwrap_or(u32::MAX)).await;
                // The handshake too: a frozen process still accepts connections.
                let result = tokio::time::timeout(OPENING, endpoint.connect()).await;
                (server, result)
            });
        }
        let mut reasons = Vec::new();
        while let Some((server, result)) = attempts.next().await {
            match result {
                Ok(Ok(channel)) => return Ok((server, channel)),
                Ok(Err(error)) => reasons.push(format!("{server}: {}", identity::chain(&error))),
                Err(_) => reasons.push(format!("{server}: no answer")),
            }
        }
        bail!("no master can be reached ({})", reasons.join("; "))
    }

    async fn serve(
        &mut self,
        server: &str,
        tx: mpsc::Sender<FromAgent>,
        mut inbound: Streaming<ToAgent>,
        connected: &AtomicBool,
    ) -> anyhow::Result<()> {
        let Parts { objects, outbox, online, .. } = self.parts;
        objects.begin_snapshot();
        let _snapshot = AbandonSnapshot(objects);
        let mut tunnels = Tunnels::new(self.parts.tunnels.clone(), tx.clone());
        let mut heard = Instant::now();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = Beats::default();
        let mut synced = false;
        let mut renewed = None;
        loop {
            tokio::select! {
                // Cancel-safe: tonic keeps a partly read message in the stream.
                received = inbound.message() => {
                    let Some(received) = received.map_err(|s| anyhow::anyhow!("{server}: {}", s.message()))? else {
                        return Ok(());
                    };
                    heard = Instant::now();
                    if let Some(Message::Synced(_)) = &received.message {
                        synced = true;
                        tracing::info!(%server, "session is up");
                        connected.store(true, Ordering::SeqCst);
                        outbox.resend();
                        objects.end_snapshot();
                        online.store(true, Ordering::SeqCst);
                        self.keep(renewed);
                    } else if let Some(Message::Heartbeat(Heartbeat { sequence, renewed: true })) = received.message {
                        renewed = beats.sent(sequence).or(renewed);
                        // What was known before the snapshot may be long out of date.
                        self.keep(renewed.filter(|_| synced));
                    } else if let Some(message) = received.message {
                        self.handle(message, &mut tunnels)?;
                    }
                }
                _ = beat.tick() => {
                    let beat = Heartbeat { sequence: beats.next(Instant::now().into_std()), renewed: false };
                    send(&tx, message(from_agent::Message::Heartbeat(beat))).await?;
                }
                // Cancel-safe: the outbox keeps what nobody took.
                () = outbox.filled(), if synced => flush(outbox, &tx).await?,
                () = tokio::time::sleep_until(heard + SILENCE) => bail!("{server} has been silent for {SILENCE:?}"),
            }
        }
    }

    /// The Lease was renewed after this.
    fn keep(&self, renewed: Option<std::time::Instant>) {
        if renewed.is_some() {
            self.parts.renewed.send_replace(renewed);
        }
    }

    fn handle(&mut self, message: Message, tunnels: &mut Tunnels) -> anyhow::Result<()> {
        match message {
            Message::Object(object) => {
                if let Err(error) = self.parts.objects.apply(&object) {
                    tracing::error!(resource = %object.resource, namespace = %object.namespace, name = %object.name, %error,
                        "an object could not be read; it is left as it was");
                }
            }
            Message::Token(answer) => {
                let token = if answer.error.is_empty() {
                    let expires = answer.expiration.parse().map_err(|e| format!("unreadable expiration: {e}"));
                    expires.map(|expires| Token { token: answer.token, expires })
                } else {
                    Err(answer.error)
                };
                self.parts.outbox.token_answer(answer.id, token);
            }
            Message::PodCertificate(answer) => self.parts.outbox.certificate_answer(answer),
            Message::Tunnel(tunnel) => tunnels.handle(tunnel),
            Message::Refused(refused) => bail!("refused: {}", refused.reason),
            Message::Servers(servers) => self.servers = merge(&self.parts.node.config.servers, &servers.addresses),
            Message::Heartbeat(_) | Message::Synced(_) => {}
        }
        Ok(())
    }
}

/// Whatever ends a session, an unfinished snapshot must not drop anything.
struct AbandonSnapshot<'a>(&'a Objects);

impl Drop for AbandonSnapshot<'_> {
    fn drop(&mut self) {
        self.0.abandon_snapshot();
    }
}

fn message(message: from_agent::Message) -> FromAgent {
    FromAgent { message: Some(message) }
}

async fn flush(outbox: &Outbox, tx: &mpsc::Sender<FromAgent>) -> anyhow::Result<()> {
    for message in outbox.take() {
        send(tx, message).await?;
    }
    Ok(())
}

/// A stream that takes nothing for so long is dead.
async fn send(tx: &mpsc::Sender<FromAgent>, message: FromAgent) -> anyhow::Result<()> {
    tokio::time::timeout(SILENCE, tx.send(message))
        .await
        .context("the session takes no messages")?
        .context("the session is closed")
}
