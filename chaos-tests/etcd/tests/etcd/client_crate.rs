//! The `etcd-client` crate, which knows nothing of us.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, Identity,
    LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, TlsOptions, Txn, TxnOp,
    TxnOpResponse, WatchFilterType, WatchOptions, WatchStream,
};
use kontiki_etcd_tests::group::Group;

use crate::support::{equal, group, until};

pub async fn connect(group: &Group) -> Result<Client> {
    let certs = &group.certs;
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(&certs.ca)?))
        .identity(Identity::from_pem(std::fs::read(&certs.cert)?, std::fs::read(&certs.key)?));
    let endpoints: Vec<String> = group.endpoints().split(',').map(str::to_owned).collect();
    Ok(Client::connect(endpoints, Some(ConnectOptions::new().with_tls(tls))).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_crate_reads_and_writes() -> Result<()> {
    let group = group(3).await?;
    let mut client = connect(&group).await?;
    for (key, value) in [("k/a", "3"), ("k/b", "1"), ("k/c", "2")] {
        client.put(key, value, None).await?;
    }
    let previous = client.put("k/a", "4", Some(PutOptions::new().with_prev_key())).await?;
    equal(previous.prev_key().context("a previous value")?.value(), b"3")?;
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend).with_limit(2);
    let sorted = client.get("k/", Some(options)).await?;
    equal(sorted.kvs().iter().map(|kv| kv.value()).collect::<Vec<_>>(), vec![b"4", b"2"])?;
    ensure!(sorted.more() && sorted.count() == 3, "{sorted:?}");
    let counted = client.get("k/", Some(GetOptions::new().with_prefix().with_count_only())).await?;
    ensure!(counted.count() == 3 && counted.kvs().is_empty(), "{counted:?}");
    let deleted = client.delete("k/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await?;
    ensure!(deleted.deleted() == 3 && deleted.prev_kvs().len() == 3, "{deleted:?}");
    ensure!(client.get("k/a", None).await?.kvs().is_empty(), "a deleted key is read");
    Ok(())
}

/// A lock as election-free clients build it: whoever creates the key holds it, the lease frees it.
#[tokio::test(flavor = "multi_thread")]
async fn client_crate_locks_by_transaction() -> Result<()> {
    let group = group(3).await?;
    let take = async |name: &str| {
        let mut client = connect(&group).await?;
        let lease = client.lease_grant(60, None).await?.id();
        let free = Compare::create_revision("lock", CompareOp::Equal, 0);
        let put = TxnOp::put("lock", name, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([free]).and_then([put]).or_else([TxnOp::get("lock", None)]);
        let answer = client.txn(txn).await?;
        let holder = match answer.op_responses().into_iter().next().context("an answer")? {
            TxnOpResponse::Get(get) => get.kvs()[0].value_str()?.to_owned(),
            _ => name.to_owned(),
        };
        anyhow::Ok((answer.succeeded(), holder, lease))
    };
    let names = ["one", "two", "three", "four"];
    let taken = futures::future::try_join_all(names.iter().map(|name| take(name))).await?;
    let winners: Vec<_> = taken.iter().filter(|(won, ..)| *won).collect();
    ensure!(winners.len() == 1, "held by {winners:?}");
    ensure!(taken.iter().all(|(_, holder, _)| *holder == winners[0].1), "they disagree: {taken:?}");
    connect(&group).await?.lease_revoke(winners[0].2).await?;
    ensure!(take("five").await?.0, "a revoked lease does not free the lock");
    Ok(())
}

async fn created(stream: &mut WatchStream) -> Result<i64> {
    let first = stream.message().await?.context("an answer")?;
    ensure!(first.created() && !first.canceled(), "{first:?}");
    Ok(first.watch_id())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_crate_watches() -> Result<()> {
    let group = group(3).await?;
    let mut client = connect(&group).await?;
    let options = WatchOptions::new().with_prefix().with_prev_key().with_watch_id(5);
    let mut stream = client.watch("w/", Some(options)).await?;
    equal(created(&mut stream).await?, 5)?;
    client.put("w/a", "1", None).await?;
    client.put("other", "1", None).await?;
    client.put("w/a", "2", None).await?;
    client.delete("w/a", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await??.context("an event")?;
        for event in message.events() {
            let kv = event.kv().context("a key")?;
            let previous = event.prev_kv().map(|kv| kv.value_str().map(str::to_owned)).transpose()?;
            seen.push((event.event_type() == EventType::Delete, kv.value_str()?.to_owned(), previous));
        }
    }
    let text = |value: &str| Some(value.to_owned());
    let want =
        vec![(false, "1".to_owned(), None), (false, "2".to_owned(), text("1")), (true, String::new(), text("2"))];
    equal(seen, want)?;
    stream.watch("w/", Some(WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]))).await?;
    let second = created(&mut stream).await?;
    stream.request_progress().await?;
    let progress = stream.message().await?.context("a progress")?;
    ensure!(progress.events().is_empty() && progress.header().is_some_and(|h| h.revision() >= 5), "{progress:?}");
    for id in [5, second] {
        stream.cancel(id).await?;
        let canceled = stream.message().await?.context("an answer")?;
        ensure!(canceled.canceled() && canceled.watch_id() == id, "{canceled:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_crate_keeps_a_lease_alive_and_lets_it_expire() -> Result<()> {
    let group = group(3).await?;
    let mut client = connect(&group).await?;
    let ttl = 2;
    let lease = client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(42))).await?;
    equal((lease.id(), lease.ttl()), (42, ttl))?;
    client.put("leased", "1", Some(PutOptions::new().with_lease(42))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(42).await?;
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut last = start;
    while start.elapsed() < Duration::from_secs(5) {
        ticks.tick().await;
        last = Instant::now();
        keeper.keep_alive().await?;
        equal(answers.message().await?.context("an answer")?.ttl(), ttl)?;
        equal(client.get("leased", None).await?.count(), 1)?;
    }
    let told = client.lease_time_to_live(42, Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    equal(told.keys(), &[b"leased".to_vec()][..])?;
    until("the lease expires", async || equal(client.get("leased", None).await?.count(), 0)).await?;
    let after = last.elapsed();
    println!("expired {after:?} after the last keep-alive of a lease of {ttl} s");
    // Checked every half second by etcd; one second more for a busy machine.
    ensure!((1.9..4.5).contains(&after.as_secs_f32()), "expired {after:?} after the last keep-alive");
    equal(client.lease_time_to_live(42, None).await?.ttl(), -1)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_crate_sees_members_status_and_a_snapshot() -> Result<()> {
    let group = group(3).await?;
    let mut client = connect(&group).await?;
    let listed = client.member_list().await?;
    let mut names: Vec<_> = listed.members().iter().map(|member| member.name().to_owned()).collect();
    names.sort();
    equal(names, vec!["s1".to_owned(), "s2".to_owned(), "s3".to_owned()])?;
    let status = client.status().await?;
    ensure!(status.version().starts_with("3."), "{status:?}");
    ensure!(listed.members().iter().any(|member| member.id() == status.leader()), "no such leader: {status:?}");
    ensure!(status.raft_index() > 0 && status.raft_term() > 0 && status.db_size() > 0, "{status:?}");
    for i in 0..100 {
        client.put(format!("s/{i}"), vec![7; 10_000], None).await?;
    }
    let mut stream = client.snapshot().await?;
    let (mut length, mut last) = (0, u64::MAX);
    while let Some(part) = stream.message().await? {
        length += part.blob().len();
        ensure!(part.remaining_bytes() <= last, "{} remain after {last}", part.remaining_bytes());
        last = part.remaining_bytes();
    }
    ensure!(last == 0 && length > 0, "{length} bytes, {last} remain");
    Ok(())
}
