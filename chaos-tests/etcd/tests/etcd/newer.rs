//! What etcd does since 3.5, 3.6 or 3.7 and its 3.4 does not: the same stories of etcd 3.7 and of ours.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::group::{Group, Kind};
use kontiki_proto::etcd::{self as pb, request_op::Request, watch_request::RequestUnion};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{equal, newest};

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

/// It is answered from the index, which has no leases, unless the values are needed to sort by them.
#[tokio::test(flavor = "multi_thread")]
async fn newer_keys_only_carries_a_lease_only_if_sorted_by_value() -> Result<()> {
    for group in newest().await? {
        let mut clients = group.clients(0)?;
        clients.lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 5 }).await?;
        put(&group, "leased", 5).await?;
        let read = |keys_only, sort_order, sort_target| pb::RangeRequest {
            key: "leased".into(),
            keys_only,
            sort_order,
            sort_target,
            ..pb::RangeRequest::default()
        };
        equal(clients.kv.range(read(false, 0, 0)).await?.into_inner().kvs[0].lease, 5)?;
        for (sort_order, sort_target, lease) in
            [(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 3, 0), (0, 4, 5), (1, 4, 5), (2, 4, 5)]
        {
            let asked = read(true, sort_order, sort_target);
            let kv = clients.kv.range(asked.clone()).await?.into_inner().kvs.remove(0);
            let bare = kv.value.is_empty() && kv.version == 1 && kv.create_revision == 2 && kv.mod_revision == 2;
            ensure!(bare && kv.lease == lease, "{}: {asked:?}: {kv:?}", group.kind().name());
            let inside = pb::RequestOp { request: Some(Request::RequestRange(asked)) };
            let txn = pb::TxnRequest { success: vec![inside], ..pb::TxnRequest::default() };
            let answer = clients.kv.txn(txn).await?.into_inner().responses.remove(0).response;
            let Some(pb::response_op::Response::ResponseRange(answer)) = answer else {
                anyhow::bail!("{answer:?}");
            };
            equal(&answer.kvs[0], &kv)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_unknown_sort_options_are_refused() -> Result<()> {
    for group in newest().await? {
        refuses_unknown_sorts(&group).await.with_context(|| group.kind().name())?;
    }
    Ok(())
}

async fn refuses_unknown_sorts(group: &Group) -> Result<()> {
    let mut kv = group.clients(0)?.kv;
    put(group, "a", 0).await?;
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
    for group in newest().await? {
        let revision = put(&group, "a", 0).await?;
        for (start_revision, watch_id, range_end) in [(-1, 0, ""), (i64::MIN, 7, ""), (-1, 0, "A")] {
            let (key, range_end) = ("a".into(), range_end.into());
            let create = pb::WatchCreateRequest { key, range_end, start_revision, watch_id, ..Default::default() };
            let (_tx, mut stream) = watch(&group, create).await?;
            let told = next(&mut stream).await?;
            ensure!(told.created && told.canceled && told.watch_id == -1 && told.compact_revision == 0, "{told:?}");
            equal(told.cancel_reason.as_str(), "etcdserver: mvcc: required revision has been compacted")?;
            equal(told.header.context("a header")?.revision, revision)?;
        }
    }
    Ok(())
}

/// Of several reasons to refuse a transaction the first operation's is told, of a put the lease's.
#[tokio::test(flavor = "multi_thread")]
async fn newer_refusals_come_in_the_order_of_operations() -> Result<()> {
    for group in newest().await? {
        let now = put(&group, "a", 0).await?;
        let mut kv = group.clients(0)?.kv;
        let range =
            Request::RequestRange(pb::RangeRequest { key: "a".into(), revision: now + 5, ..Default::default() });
        let ignoring = pb::PutRequest { key: "b".into(), lease: 77, ignore_value: true, ..Default::default() };
        let missing = pb::PutRequest { lease: 0, ..ignoring.clone() };
        let (lease, key) = ("etcdserver: requested lease not found", "etcdserver: key not found");
        let future = "etcdserver: mvcc: required revision is a future revision";
        let (put, missing) = (Request::RequestPut(ignoring), Request::RequestPut(missing));
        for (ops, text) in [
            (vec![&put], lease),
            (vec![&range, &put], future),
            (vec![&put, &range], lease),
            (vec![&missing, &range], key),
            (vec![&range, &missing], future),
        ] {
            let op = |request: &Request| pb::RequestOp { request: Some(request.clone()) };
            let plain = pb::TxnRequest { success: ops.into_iter().map(op).collect(), ..pb::TxnRequest::default() };
            let nested = vec![op(&Request::RequestTxn(plain.clone())), op(&range)];
            for txn in [plain, pb::TxnRequest { success: nested, ..pb::TxnRequest::default() }] {
                let refused = kv.txn(txn.clone()).await.err().with_context(|| format!("{txn:?} is answered"))?;
                equal(refused.message(), text).with_context(|| format!("{}: {txn:?}", group.kind().name()))?;
            }
        }
    }
    Ok(())
}

/// Progress is told only once it is true of every watch of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn newer_progress_waits_for_watches_of_the_future() -> Result<()> {
    for group in newest().await? {
        waits_for_the_future(&group).await.with_context(|| group.kind().name())?;
    }
    Ok(())
}

async fn waits_for_the_future(group: &Group) -> Result<()> {
    let now = put(group, "a", 0).await?;
    let create = |watch_id, start_revision| pb::WatchCreateRequest {
        key: "a".into(),
        watch_id,
        start_revision,
        ..pb::WatchCreateRequest::default()
    };
    let (tx, mut stream) = watch(group, create(1, now + 2)).await?;
    ensure!(next(&mut stream).await?.created, "no watch");
    let progress = || request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    tx.send(progress()).await?;
    // The answer to what is asked later comes first: the progress was not answered.
    tx.send(request(RequestUnion::CreateRequest(create(2, 0)))).await?;
    let second = next(&mut stream).await?;
    ensure!(second.created && second.watch_id == 2, "{second:?}");
    put(group, "a", 0).await?;
    let reached = put(group, "a", 0).await?;
    let mut heard = 0;
    while heard < 3 {
        heard += next(&mut stream).await?.events.len();
    }
    tx.send(progress()).await?;
    let told = next(&mut stream).await?;
    ensure!(told.watch_id == -1 && told.events.is_empty(), "{told:?}");
    equal(told.header.context("a header")?.revision, reached)
}

/// Without a watch there is nothing whose progress could be told.
#[tokio::test(flavor = "multi_thread")]
async fn newer_progress_of_no_watch_is_not_told() -> Result<()> {
    for group in newest().await? {
        let create =
            |watch_id| pb::WatchCreateRequest { key: "a".into(), watch_id, ..pb::WatchCreateRequest::default() };
        let (tx, mut stream) = watch(&group, create(4)).await?;
        ensure!(next(&mut stream).await?.created, "no watch");
        tx.send(request(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 4 }))).await?;
        ensure!(next(&mut stream).await?.canceled, "not canceled");
        tx.send(request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))).await?;
        tx.send(request(RequestUnion::CreateRequest(create(5)))).await?;
        let second = next(&mut stream).await?;
        ensure!(second.created && second.watch_id == 5, "{}: {second:?}", group.kind().name());
        put(&group, "a", 0).await?;
        let event = next(&mut stream).await?;
        ensure!(event.watch_id == 5 && event.events.len() == 1, "{}: {event:?}", group.kind().name());
    }
    Ok(())
}

/// etcd does not see that a delete of an open range meets a put: the put then finds nothing whose value it
/// could keep, and that ends etcd's process. Refused or done with the value from before, but alive.
#[tokio::test(flavor = "multi_thread")]
async fn newer_what_kills_etcd_does_not_kill_ours() -> Result<()> {
    let mut group = Group::of(Kind::Kontiki, 1).await?;
    put(&group, "a", 0).await?;
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let ignoring = pb::PutRequest { key: "a".into(), ignore_value: true, ..pb::PutRequest::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let success = vec![op(Request::RequestDeleteRange(delete)), op(Request::RequestPut(ignoring))];
    let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
    if let Err(refused) = group.clients(0)?.kv.txn(txn).await {
        equal(refused.code(), Code::InvalidArgument)?;
    }
    group.healthy().await?;
    let read = pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() };
    let kvs = group.clients(0)?.kv.range(read).await?.into_inner().kvs;
    ensure!(kvs.len() == 1 && kvs[0].value == "1", "{kvs:?}");
    Ok(())
}
