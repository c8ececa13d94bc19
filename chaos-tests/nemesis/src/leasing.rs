//! Clients that hold keys by leases: they grant, tie keys, keep alive for a while, and then revoke or
//! fall silent.

use std::{collections::BTreeSet, time::Duration};

use kontiki_proto::etcd::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use rand::Rng;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::{
    clients::{Client, Lie},
    history::{Ask, Kind, LeaseAsk, LeaseOp, LeaseOutcome, Line, Outcome, Rev, Step},
    wire,
};

/// The longest time to live asked for, in seconds.
pub const LONGEST: i64 = 5;
const PATIENCE: Duration = Duration::from_millis(1500);
/// A keep-alive that found no such lease is asked no more often than this.
const TRIES: u32 = 3;

/// Holds leases until the run ends.
pub async fn work(mut client: Client) {
    let stop = client.shared.stop.clone();
    let mut round = 0;
    while !stop.is_cancelled() {
        round += 1;
        let lease = i64::from(client.process()) * 1_000_000 + round;
        let ttl = client.rng.random_range(3..=LONGEST);
        one(&mut client, lease, ttl).await;
        sleep(Duration::from_millis(200)).await;
    }
}

/// The life of one lease.
async fn one(client: &mut Client, lease: i64, ttl: i64) {
    if !matches!(ask(client, LeaseAsk::Grant, lease, ttl).await, LeaseOutcome::Ok { .. }) {
        return;
    }
    let prefix = format!("l/{:03}/", client.process());
    let mut keys = BTreeSet::new();
    for number in 0..client.rng.random_range(1..4) {
        let key = format!("{prefix}{number}");
        let put = Step::Put { key: key.clone(), value: client.value(), lease };
        if matches!(client.ask(Ask::plain(Kind::LeasePut, vec![put])).await, Outcome::Ok(_)) {
            keys.insert(key);
        }
    }
    let stop = client.shared.stop.clone();
    let third = Duration::from_millis(u64::try_from(ttl * 1000 / 3).unwrap_or(1000));
    let mut lost = 0;
    for _ in 0..client.rng.random_range(0..8) {
        // Cancel-safe: a pause.
        if stop.run_until_cancelled(sleep(third)).await.is_none() {
            return;
        }
        match ask(client, LeaseAsk::KeepAlive, lease, ttl).await {
            LeaseOutcome::Ok { ttl: 0, .. } => break,
            LeaseOutcome::Ok { .. } => {}
            _ if lost == TRIES => break,
            _ => lost += 1,
        }
    }
    if client.rng.random_bool(0.4) {
        ask(client, LeaseAsk::Revoke, lease, ttl).await;
    }
    // Somebody has to see the keys go.
    let read = Step::Range { from: prefix.clone(), to: format!("{prefix}~") };
    let mut looks = 0;
    while looks < 3 * (ttl + 4) && !stop.is_cancelled() {
        looks += 1;
        let outcome = client.ask(Ask::plain(Kind::Range, vec![read.clone()])).await;
        if matches!(&outcome, Outcome::Ok(answer) if gone(answer)) {
            return;
        }
        sleep(Duration::from_millis(333)).await;
    }
}

fn gone(answer: &crate::history::Answer) -> bool {
    answer.parts.iter().all(|part| matches!(part, crate::history::Part::Items(items) if items.is_empty()))
}

/// Asks something about a lease, and records it. `ttl` is in seconds.
pub async fn ask(client: &mut Client, ask: LeaseAsk, lease: i64, ttl: i64) -> LeaseOutcome {
    let shared = client.shared.clone();
    let asked = if shared.lie == Some(Lie::ShortLease) { (ttl / 2).max(2) } else { ttl };
    let process = client.process();
    let (_, clients) = client.connection();
    let start = shared.recorder.now();
    let answer = timeout(PATIENCE, async {
        match ask {
            LeaseAsk::Grant => {
                let answer = clients.lease.lease_grant(LeaseGrantRequest { ttl: asked, id: lease }).await?.into_inner();
                Ok((answer.ttl, revision(answer.header)))
            }
            LeaseAsk::Revoke => {
                let answer = clients.lease.lease_revoke(LeaseRevokeRequest { id: lease }).await?.into_inner();
                Ok((0, revision(answer.header)))
            }
            LeaseAsk::KeepAlive => {
                let request = tokio_stream::once(LeaseKeepAliveRequest { id: lease });
                let mut answers = clients.lease.lease_keep_alive(request).await?.into_inner();
                let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                Ok((answer.ttl, revision(answer.header)))
            }
        }
    });
    let outcome: LeaseOutcome = match answer.await {
        Ok(Ok((granted, revision))) => {
            let granted = if asked < ttl && granted > 0 { ttl } else { granted };
            LeaseOutcome::Ok { ttl: granted, revision }
        }
        Ok(Err(status)) if wire::refused(&status) => LeaseOutcome::Failed(wire::short(&status)),
        Ok(Err(status)) => LeaseOutcome::Unknown(wire::short(&status)),
        Err(_) => LeaseOutcome::Unknown("no answer in time".into()),
    };
    let end = shared.recorder.now();
    if !matches!(outcome, LeaseOutcome::Ok { .. }) {
        client.disappointed();
    }
    let line = LeaseOp { process, lease, ttl, start, end, ask, outcome: outcome.clone() };
    shared.recorder.line(&Line::Lease(line));
    outcome
}

fn revision(header: Option<kontiki_proto::etcd::ResponseHeader>) -> Rev {
    header.map_or(0, |header| header.revision)
}
