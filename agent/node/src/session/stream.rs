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
use kontiki_proto::node::{
    FromAgent, Heartbeat, Hello, ToAgent, from_agent, node_client::NodeClient, to_agent::Message,
};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use crate::{identity::Current, node::Node, outbox::Token, tunnels::Tunnels};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// Two heartbeats unanswered.
const SILENCE: Duration = Duration::from_secs(4);
/// How long one server may take before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);
const OPENING: Duration = Duration::from_secs(4);
/// Messages waiting for the stream; statuses beyond them stay in the outbox.
const QUEUE: usize = 64;

/// Keeps a session open until `stop`.
pub async fn run(node: Arc<Node>, identity: Arc<Current>, stop: CancellationToken) {
    let mut session = Session { node, identity, servers: Vec::new(), last: None };
    session.servers = merge(&session.node.config.servers, &session.identity.get().cluster.servers);
    let connected = AtomicBool::new(false);
    let mut failures = 0_u32;
    loop {
        let result = tokio::select! {
            // Cancel-safe: dropping a session closes its stream, and the outbox sends again.
            result = session.once(&connected) => result,
            () = stop.cancelled() => return,
        };
        session.node.online.store(false, Ordering::SeqCst);
        let reason = result.map_or_else(|error| format!("{error:#}"), |()| "the master closed it".to_owned());
        let was_up = connected.swap(false, Ordering::SeqCst);
        failures = if was_up { 1 } else { failures.saturating_add(1) };
        // A long outage is told ever less often.
        if failures.is_power_of_two() {
            tracing::warn!(%reason, was_up, failures, "no session");
        }
        // After a working session the next master is tried at once.
        let pause = if was_up { rand::random_range(0..50) } else { rand::random_range(300..700) };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn merge(configured: &[String], learned: &[String]) -> Vec<String> {
    let mut out = configured.to_vec();
    out.extend(learned.iter().filter(|s| !configured.contains(s)).cloned());
    out
}

struct Session {
    node: Arc<Node>,
    identity: Arc<Current>,
    servers: Vec<String>,
    /// The server of the session that just ended: it is tried last.
    last: Option<String>,
}

impl Session {
    async fn once(&mut self, connected: &AtomicBool) -> anyhow::Result<()> {
        let (server, channel) = self.connect().await?;
        self.last = Some(server.clone());
        let (tx, rx) = mpsc::channel::<FromAgent>(QUEUE);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            node_json: self.node.registration().await.to_string(),
            force: true,
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
                Ok(Err(error)) => reasons.push(format!("{server}: {}", crate::identity::chain(&error))),
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
        let node = self.node.clone();
        node.objects.begin_snapshot();
        let _snapshot = AbandonSnapshot(&node);
        let mut tunnels = Tunnels::new(node.clone(), tx.clone());
        let mut heard = Instant::now();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        let mut synced = false;
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
                        node.outbox.resend();
                        node.objects.end_snapshot();
                        node.online.store(true, Ordering::SeqCst);
                    } else if let Some(message) = received.message {
                        self.handle(message, &mut tunnels)?;
                    }
                }
                _ = beat.tick() => {
                    sequence += 1;
                    send(&tx, message(from_agent::Message::Heartbeat(Heartbeat { sequence }))).await?;
                }
                // Cancel-safe: the outbox keeps what nobody took.
                () = node.outbox.filled(), if synced => flush(&node, &tx).await?,
                () = tokio::time::sleep_until(heard + SILENCE) => bail!("{server} has been silent for {SILENCE:?}"),
            }
        }
    }

    fn handle(&mut self, message: Message, tunnels: &mut Tunnels) -> anyhow::Result<()> {
        match message {
            Message::Object(object) => {
                if let Err(error) = self.node.objects.apply(&object) {
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
                self.node.outbox.token_answer(answer.id, token);
            }
            Message::Tunnel(tunnel) => tunnels.handle(tunnel),
            Message::Refused(refused) => bail!("refused: {}", refused.reason),
            Message::Servers(servers) => self.servers = merge(&self.node.config.servers, &servers.addresses),
            Message::Heartbeat(_) | Message::Synced(_) => {}
        }
        Ok(())
    }
}

/// Whatever ends a session, an unfinished snapshot must not drop anything.
struct AbandonSnapshot<'a>(&'a Node);

impl Drop for AbandonSnapshot<'_> {
    fn drop(&mut self) {
        self.0.objects.abandon_snapshot();
    }
}

fn message(message: from_agent::Message) -> FromAgent {
    FromAgent { message: Some(message) }
}

async fn flush(node: &Node, tx: &mpsc::Sender<FromAgent>) -> anyhow::Result<()> {
    for message in node.outbox.take() {
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
