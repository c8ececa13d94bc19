//! What etcd does since 3.5 or 3.6 and its 3.4 does not: ours alone is told about.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::group::{Group, Kind};
use kontiki_proto::etcd::{self as pb, request_op::Request, watch_request::RequestUnion};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::equal;

async fn ours() -> Result<Group> {
    Group::of(Kind::Kontiki, 1).await
}

async fn put(group: &Group, key: &'static str, lease: i64) -> Result<i64> {
    let put = pb::PutRequest { key: key.into(), value: "1".into(), lease, ..pb::PutRequest::default() };
    Ok(group.clients(0)?.kv.put(put).await?.into_inner().header.context("a header")?.revision)
}

/// A watch stream and what is sent on it.
async fn watch(
    group: &Group,
    create: pb::WatchCreateRequest,
) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>)> {
    let (tx, rx) = mpsc::channel(8);
    tx.send(request(RequestUnion::CreateRequest(create))).await?;
    let stream = group.clients(0)?.watch.watch(ReceiverStream::new(rx)).await?.into_inner();
    Ok((tx, stream))
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

async fn next(stream: &mut Streaming<pb::WatchResponse>) -> Result<pb::WatchResponse> {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    message.context("no answer in 10 s")??.context("the stream has ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_keys_only_carries_no_lease() -> Result<()> {
    let group = ours().await?;
    let mut clients = group.clients(0)?;
    clients.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await?;
    put(&group, "leased", 5).await?;
    let read = |keys_only| pb::RangeRequest { key: "leased".into(), keys_only, ..pb::RangeRequest::default() };
    equal(clients.kv.range(read(false)).await?.into_inner().kvs[0].lease, 5)?;
    let kv = clients.kv.range(read(true)).await?.into_inner().kvs.remove(0);
    ensure!(kv.lease == 0 && kv.value.is_empty() && kv.version == 1 && kv.mod_revision > 0, "{kv:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_unknown_sort_options_are_refused() -> Result<()> {
    let group = ours().await?;
    let mut kv = group.clients(0)?.kv;
    put(&group, "a", 0).await?;
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (1, 99), (0, -1)] {
        let read = pb::RangeRequest { key: "a".into(), sort_order, sort_target, ..pb::RangeRequest::default() };
        let refused = kv.range(read.clone()).await.err().with_context(|| format!("{read:?} is answered"))?;
        equal((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: invalid sort option"))?;
        let inside = pb::RequestOp { request: Some(Request::RequestRange(read)) };
        let txn = pb::TxnRequest { success: vec![inside], ..pb::TxnRequest::default() };
        let refused = kv.txn(txn).await.err().context("the same in a transaction is answered")?;
        equal(refused.code(), Code::InvalidArgument)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_a_watch_does_not_start_before_the_first_revision() -> Result<()> {
    let group = ours().await?;
    put(&group, "a", 0).await?;
    for start_revision in [-1, i64::MIN] {
        let create = pb::WatchCreateRequest { key: "a".into(), start_revision, ..pb::WatchCreateRequest::default() };
        let (_tx, mut stream) = watch(&group, create).await?;
        let first = next(&mut stream).await?;
        ensure!(first.created && first.events.is_empty(), "{first:?}");
        let last = if first.canceled { first } else { next(&mut stream).await? };
        ensure!(last.canceled && last.events.is_empty(), "a watch from {start_revision} lives: {last:?}");
    }
    Ok(())
}

/// Progress is told only once it is true of every watch of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn newer_progress_waits_for_watches_of_the_future() -> Result<()> {
    let group = ours().await?;
    let now = put(&group, "a", 0).await?;
    let create = |watch_id, start_revision| pb::WatchCreateRequest {
        key: "a".into(),
        watch_id,
        start_revision,
        ..pb::WatchCreateRequest::default()
    };
    let (tx, mut stream) = watch(&group, create(1, now + 2)).await?;
    ensure!(next(&mut stream).await?.created, "no watch");
    let progress = || request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    tx.send(progress()).await?;
    // The answer to what is asked later comes first: the progress was not answered.
    tx.send(request(RequestUnion::CreateRequest(create(2, 0)))).await?;
    let second = next(&mut stream).await?;
    ensure!(second.created && second.watch_id == 2, "{second:?}");
    put(&group, "a", 0).await?;
    let reached = put(&group, "a", 0).await?;
    let mut heard = 0;
    while heard < 3 {
        heard += next(&mut stream).await?.events.len();
    }
    tx.send(progress()).await?;
    let told = next(&mut stream).await?;
    ensure!(told.watch_id == -1 && told.events.is_empty(), "{told:?}");
    equal(told.header.context("a header")?.revision, reached)
}

/// etcd does not see that an open range meets a put: the put then finds nothing whose value it could keep,
/// and that ends etcd's process.
#[tokio::test(flavor = "multi_thread")]
async fn newer_what_kills_etcd_is_an_error_here() -> Result<()> {
    let mut group = ours().await?;
    put(&group, "a", 0).await?;
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let ignoring = pb::PutRequest { key: "a".into(), ignore_value: true, ..pb::PutRequest::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let success = vec![op(Request::RequestDeleteRange(delete)), op(Request::RequestPut(ignoring))];
    let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
    let refused = group.clients(0)?.kv.txn(txn).await.err().context("a value is taken from a key that is gone")?;
    println!("{refused:?}");
    equal(refused.code(), Code::InvalidArgument)?;
    group.healthy().await?;
    let read = pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() };
    equal(group.clients(0)?.kv.range(read).await?.into_inner().count, 1)
}
