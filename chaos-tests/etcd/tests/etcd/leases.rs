//! Leases outlive their leader, and not by much what they were granted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::client::Clients;
use kontiki_proto::etcd as pb;

use crate::support::{equal, group, until};

const TTL: i64 = 6;
/// A new leader may grant the whole time anew, from when it leads; then it has to notice.
const LATE: Duration = Duration::from_secs(5);

async fn grant(clients: &mut Clients, id: i64, ttl: i64, key: &'static str) -> Result<()> {
    clients.lease.lease_grant(pb::LeaseGrantRequest { ttl, id }).await?;
    let put = pb::PutRequest { key: key.into(), value: "1".into(), lease: id, ..pb::PutRequest::default() };
    clients.kv.put(put).await?;
    Ok(())
}

async fn exists(clients: &mut Clients, key: &'static str) -> Result<bool> {
    let read = pb::RangeRequest { key: key.into(), ..pb::RangeRequest::default() };
    let answer = tokio::time::timeout(Duration::from_secs(1), clients.kv.range(read)).await.context("no answer")?;
    Ok(answer?.into_inner().count == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_their_leader() -> Result<()> {
    let mut group = group(3).await?;
    let leader = group.leader().await?;
    let mut survivor = group.clients((leader + 1) % 3)?;
    let granted = Instant::now();
    grant(&mut survivor, 1, TTL, "short").await?;
    grant(&mut survivor, 2, 300, "long").await?;
    grant(&mut survivor, 3, TTL, "kept").await?;
    group.kill(leader)?;
    let killed = Instant::now();
    until("a read after the leader's death", async || exists(&mut survivor, "short").await).await?;
    println!("reads again after {:?}", killed.elapsed());

    let mut keeping = tokio::time::interval(Duration::from_millis(500));
    let gone = loop {
        keeping.tick().await;
        let once = futures::stream::iter([pb::LeaseKeepAliveRequest { id: 3 }]);
        let mut answers = survivor.lease.lease_keep_alive(once).await?.into_inner();
        let kept = answers.message().await?.context("an answer to a keep-alive")?;
        equal(kept.ttl, TTL)?;
        if !exists(&mut survivor, "short").await? {
            break Instant::now();
        }
        let limit = Duration::from_secs(TTL.cast_unsigned()) + LATE;
        ensure!(killed.elapsed() < limit, "still there {:?} after the kill", killed.elapsed());
    };
    println!("expired {:?} after the grant", gone - granted);
    ensure!(gone - granted >= Duration::from_secs(TTL.cast_unsigned()), "expired early: {:?}", gone - granted);
    ensure!(exists(&mut survivor, "long").await?, "a lease of 300 s is gone");
    ensure!(exists(&mut survivor, "kept").await?, "a lease that is kept alive is gone");
    let ask = pb::LeaseTimeToLiveRequest { id: 2, keys: true };
    let told = survivor.lease.lease_time_to_live(ask).await?.into_inner();
    ensure!(told.granted_ttl == 300 && (280..=300).contains(&told.ttl), "{told:?}");
    equal(told.keys, vec!["long".into()])?;
    // It comes back and agrees.
    group.restart(leader)?;
    group.answers(leader).await?;
    let mut back = group.clients(leader)?;
    ensure!(!exists(&mut back, "short").await? && exists(&mut back, "long").await?, "the old leader disagrees");
    Ok(())
}

/// Ten leases of ten keys each that end at one moment: each lease deletes its keys at one revision.
#[tokio::test(flavor = "multi_thread")]
async fn expiring_leases_delete_all_their_keys_at_once() -> Result<()> {
    let group = group(1).await?;
    let mut clients = group.clients(0)?;
    for id in 1..=10 {
        clients.lease.lease_grant(pb::LeaseGrantRequest { ttl: 2, id }).await?;
        for key in 0..10 {
            let key = format!("l/{id}/{key}").into();
            clients.kv.put(pb::PutRequest { key, lease: id, ..pb::PutRequest::default() }).await?;
        }
    }
    let create = pb::WatchCreateRequest {
        key: "l/".into(),
        range_end: "l0".into(),
        start_revision: 2,
        filters: vec![pb::watch_create_request::FilterType::Noput as i32],
        ..pb::WatchCreateRequest::default()
    };
    let union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    let requests = futures::StreamExt::chain(
        futures::stream::iter([pb::WatchRequest { request_union: union }]),
        futures::stream::pending(),
    );
    let mut stream = clients.watch.watch(requests).await?.into_inner();
    let mut revisions = std::collections::BTreeMap::new();
    while revisions.values().sum::<usize>() < 100 {
        let message = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
        let message = message.with_context(|| format!("no event in 20 s; so far {revisions:?}"))??;
        for event in message.context("the stream ended")?.events {
            *revisions.entry(event.kv.context("a key")?.mod_revision).or_insert(0) += 1;
        }
    }
    ensure!(revisions.len() == 10 && revisions.values().all(|keys| *keys == 10), "{revisions:?}");
    Ok(())
}

/// Many at once, also of leases that there are not: each is answered, in its place.
#[tokio::test(flavor = "multi_thread")]
async fn renewals_of_one_stream_are_answered_in_order() -> Result<()> {
    let group = group(3).await?;
    let leader = group.leader().await?;
    let mut clients = group.clients(leader)?;
    for id in 1..=20 {
        clients.lease.lease_grant(pb::LeaseGrantRequest { ttl: 100 + id, id }).await?;
    }
    clients.lease.lease_revoke(pb::LeaseRevokeRequest { id: 13 }).await?;
    for member in [leader, (leader + 1) % 3] {
        let ids = (0..2_000_i64).map(|number| number % 23);
        let requests = futures::stream::iter(ids.clone().map(|id| pb::LeaseKeepAliveRequest { id }));
        let mut answers = group.clients(member)?.lease.lease_keep_alive(requests).await?.into_inner();
        for id in ids {
            let answer = answers.message().await?.with_context(|| format!("ended before {id} was answered"))?;
            let ttl = if (1..=20).contains(&id) && id != 13 { 100 + id } else { 0 };
            equal((answer.id, answer.ttl), (id, ttl))?;
            ensure!(answer.header.is_some_and(|header| header.revision == 1), "{answer:?}");
        }
        ensure!(answers.message().await?.is_none(), "more answers than requests");
    }
    Ok(())
}
