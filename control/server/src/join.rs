//! The joining server's side: from a token to a member of the group.
//!
//! Invariants
//! - Nothing a server says is believed before its CA has shown the pinned key.
//! - What a person must correct (token, hash, name) fails at once; what time may heal is retried.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use kontiki_proto::node::{AdmitRequest, JoinServerRequest, JoinServerResponse, Peer, join_client::JoinClient};
use kontiki_store::{PeerTls, Store};
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tracing::{info, warn};

use crate::{config::JoinSettings, rpc, servers, tls};

/// How long the servers of the cluster may be silent before joining fails.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(15);
/// Catching up may mean a whole snapshot.
const ADMIT: Duration = Duration::from_secs(300);

/// Asks the servers in turn for what a server of the cluster needs.
///
/// # Errors
/// The reason, as one line for a person.
pub async fn ask(join: &JoinSettings, name: &str, peer_address: &str) -> anyhow::Result<JoinServerResponse> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut last = None;
        for server in &join.servers {
            match ask_one(server, join, name, peer_address).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(format!("{server}: {error:#}")),
            }
        }
        let last = last.context("no server to ask")?;
        if Instant::now() >= deadline {
            bail!("could not join through any of {}: {last}", join.servers.join(", "));
        }
        warn!(reason = last, "cannot join yet");
        sleep(RETRY).await;
    }
}

/// The outer error is final, the inner one may heal.
async fn ask_one(
    server: &str,
    join: &JoinSettings,
    name: &str,
    peer_address: &str,
) -> anyhow::Result<anyhow::Result<JoinServerResponse>> {
    let (tls, pin) = tls::pinned(join.ca_hash)?;
    let channel = match rpc::connect(server, tls).await {
        Ok(channel) => channel,
        Err(error) => match pin.unpinned() {
            Some(unpinned) => bail!("join.ca_hash: {server} has another CA than {}: {unpinned}", join.ca_hash),
            None => return Ok(Err(error)),
        },
    };
    let request =
        JoinServerRequest { token: join.token.reveal(), name: name.to_owned(), peer_address: peer_address.to_owned() };
    let mut client = JoinClient::new(channel).max_decoding_message_size(rpc::MAX_MESSAGE);
    match timeout(CALL, client.join_server(request)).await {
        Ok(Ok(answer)) => Ok(Ok(answer.into_inner())),
        Ok(Err(status)) if is_final(status.code()) => bail!("{server} refused: {}", status.message()),
        Ok(Err(status)) => Ok(Err(anyhow::anyhow!("{}", status.message().to_owned()))),
        Err(_) => Ok(Err(anyhow::anyhow!("no answer within {CALL:?}"))),
    }
}

/// The generation of the group: members of another one do not talk to this server.
///
/// # Errors
/// None of the members says so for a minute.
pub async fn generation(tls: &PeerTls, peers: &[Peer]) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for peer in peers {
            // Whoever does not lead answers with nobody.
            let members = kontiki_store::members_at(tls, &peer.address).await.unwrap_or_default();
            if !members.is_empty() {
                return Ok(kontiki_store::generation_of(&members));
            }
        }
        if Instant::now() >= deadline {
            let peers: Vec<&str> = peers.iter().map(|peer| &*peer.address).collect();
            bail!("no leader answers at any of {}", peers.join(", "));
        }
        warn!("no leader answers yet");
        sleep(RETRY).await;
    }
}

fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::InvalidArgument
            | Code::FailedPrecondition
    )
}

/// Asks to be taken into the group until this member is a voter.
///
/// # Errors
/// The group refuses for a reason that time does not heal.
pub async fn admit(
    store: &Store,
    request: AdmitRequest,
    known: &[String],
    tls: Arc<ClientConfig>,
) -> anyhow::Result<()> {
    let mut last = String::new();
    loop {
        // Addresses learnt from the cluster itself, once there are any, are newer than the known.
        let mut addresses = servers::session_addresses(&store.snapshot());
        addresses.extend(known.iter().cloned());
        for address in addresses {
            match admit_through(&address, &request, tls.clone()).await {
                Ok(()) => return Ok(()),
                Err(status) if is_final(status.code()) => bail!("{address} refused: {}", status.message()),
                Err(status) => {
                    let reason = format!("{address}: {}", status.message());
                    if reason != last {
                        info!(reason, "not a member yet");
                        last = reason;
                    }
                }
            }
        }
        sleep(RETRY).await;
    }
}

async fn admit_through(address: &str, request: &AdmitRequest, tls: Arc<ClientConfig>) -> Result<(), tonic::Status> {
    let channel = rpc::connect(address, tls).await.map_err(|error| tonic::Status::unavailable(format!("{error:#}")))?;
    match timeout(ADMIT, JoinClient::new(channel).admit(request.clone())).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer")),
    }
}
