//! RangeStream, which came with etcd 3.7: the same stories of etcd 3.7 and of ours.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kontiki_etcd_tests::{
    client::Clients,
    differential::streamed,
    group::{Group, Kind},
};
use kontiki_proto::etcd::{self as pb, request_op::Request};
use tonic::{Code, Streaming};

use crate::support::{equal, newest};

const MIB: u64 = 1 << 20;
/// Longer than ours keeps the state for a client that does not read.
const PAUSE: Duration = Duration::from_secs(6);

/// Puts `s/000000` and so on, some in each transaction.
async fn fill(clients: &mut Clients, keys: usize, value: &Bytes) -> Result<i64> {
    let each = (MIB as usize / (value.len() + 1)).clamp(1, 100);
    let mut revision = 0;
    for start in (0..keys).step_by(each) {
        let put = |key: usize| pb::PutRequest { key: key_of(key), value: value.clone(), ..pb::PutRequest::default() };
        let puts = (start..keys.min(start + each)).map(|key| Some(Request::RequestPut(put(key))));
        let success = puts.map(|request| pb::RequestOp { request }).collect();
        let answer = clients.kv.txn(pb::TxnRequest { success, ..pb::TxnRequest::default() }).await?;
        revision = answer.into_inner().header.context("a header")?.revision;
    }
    Ok(revision)
}

fn key_of(number: usize) -> Bytes {
    format!("s/{number:06}").into()
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "s/".into(), range_end: "s0".into(), ..pb::RangeRequest::default() }
}

async fn merged(clients: &mut Clients, request: pb::RangeRequest) -> Result<pb::RangeResponse> {
    streamed(&mut clients.kv, request).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn range_stream_is_range_in_chunks() -> Result<()> {
    for group in newest().await? {
        let mut clients = group.clients(0)?;
        fill(&mut clients, 1_500, &vec![1; 2_000].into()).await?;
        let now = fill(&mut clients, 1_500, &vec![2; 3_000].into()).await?;
        for request in [
            all(),
            pb::RangeRequest { limit: 1, ..all() },
            pb::RangeRequest { limit: 1_499, ..all() },
            pb::RangeRequest { limit: 1_500, ..all() },
            pb::RangeRequest { limit: 1_501, ..all() },
            pb::RangeRequest { limit: -1, ..all() },
            pb::RangeRequest { limit: 1_200, keys_only: true, ..all() },
            pb::RangeRequest { limit: 7, count_only: true, ..all() },
            pb::RangeRequest { revision: now, ..all() },
            pb::RangeRequest { revision: now - 8, limit: 1_400, ..all() },
            pb::RangeRequest { revision: -7, ..all() },
            pb::RangeRequest { sort_order: 1, serializable: true, ..all() },
            pb::RangeRequest { limit: 5, sort_target: 3, ..all() },
            pb::RangeRequest { key: key_of(1_400), range_end: "\0".into(), ..pb::RangeRequest::default() },
            pb::RangeRequest { key: key_of(3), ..pb::RangeRequest::default() },
            pb::RangeRequest { key: "nothing".into(), ..pb::RangeRequest::default() },
            pb::RangeRequest { key: "s0".into(), range_end: "s/".into(), ..pb::RangeRequest::default() },
        ] {
            let whole = clients.kv.range(request.clone()).await?.into_inner();
            let merged = merged(&mut clients, request.clone()).await?;
            let (counts, want) = ((merged.kvs.len(), merged.count), (whole.kvs.len(), whole.count));
            ensure!(merged == whole, "{}: {request:?}: {counts:?} instead of {want:?}", group.kind().name());
        }
        let mut stream = clients.kv.range_stream(all()).await?.into_inner();
        let mut chunks = 0;
        while let Some(chunk) = stream.message().await? {
            let size = chunk.range_response.context("a part")?.kvs.iter().map(|kv| kv.value.len()).sum::<usize>();
            ensure!(size < 4 << 20, "a chunk of {size} bytes");
            chunks += 1;
        }
        ensure!(chunks > 1, "all in one chunk");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn range_stream_refuses_what_etcd_refuses() -> Result<()> {
    for group in newest().await? {
        let mut clients = group.clients(0)?;
        let now = fill(&mut clients, 300, &"1".into()).await?;
        clients.kv.compact(pb::CompactionRequest { revision: now, physical: false }).await?;
        let unsorted = "RangeStream does not support custom sort orders";
        let unfiltered = "RangeStream does not support revision filters";
        let invalid = "etcdserver: invalid sort option";
        for (request, code, text) in [
            (pb::RangeRequest::default(), Code::InvalidArgument, "etcdserver: key is not provided"),
            (pb::RangeRequest { sort_order: 3, ..all() }, Code::InvalidArgument, invalid),
            (pb::RangeRequest { sort_target: 5, min_mod_revision: 1, ..all() }, Code::InvalidArgument, invalid),
            (pb::RangeRequest { sort_order: 2, ..all() }, Code::Unimplemented, unsorted),
            (
                pb::RangeRequest { sort_order: 1, sort_target: 1, max_mod_revision: 9, ..all() },
                Code::Unimplemented,
                unsorted,
            ),
            (pb::RangeRequest { min_mod_revision: 1, ..all() }, Code::Unimplemented, unfiltered),
            (pb::RangeRequest { max_create_revision: -1, count_only: true, ..all() }, Code::Unimplemented, unfiltered),
            (
                pb::RangeRequest { revision: now - 1, ..all() },
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                pb::RangeRequest { revision: now + 1, count_only: true, ..all() },
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
        ] {
            let refused = streamed(&mut clients.kv, request.clone()).await.err();
            let refused = refused.with_context(|| format!("{}: {request:?} is answered", group.kind().name()))?;
            equal((refused.code(), refused.message()), (code, text)).with_context(|| format!("{request:?}"))?;
        }
        equal(merged(&mut clients, pb::RangeRequest { revision: now, ..all() }).await?.count, 300)?;
    }
    Ok(())
}

/// The next chunk's keys; empty at the end.
async fn next(stream: &mut Streaming<pb::RangeStreamResponse>) -> Result<Vec<pb::KeyValue>, tonic::Status> {
    Ok(stream.message().await?.and_then(|chunk| chunk.range_response).map(|part| part.kvs).unwrap_or_default())
}

/// What is written while a stream is read, all of it more than a connection holds, is not seen by it.
#[tokio::test(flavor = "multi_thread")]
async fn range_stream_is_of_one_revision() -> Result<()> {
    for group in newest().await? {
        let (mut clients, keys) = (group.clients(0)?, 400);
        let old = Bytes::from(vec![1; 64 << 10]);
        let then = fill(&mut clients, keys, &old).await?;
        for revision in [0, then] {
            let before = clients.kv.range(pb::RangeRequest { revision: then, ..all() }).await?.into_inner().kvs;
            let mut reader = group.clients(0)?.kv;
            let mut stream = reader.range_stream(pb::RangeRequest { revision, ..all() }).await?.into_inner();
            let mut seen = next(&mut stream).await?;
            ensure!(!seen.is_empty() && seen.len() < keys, "{} keys in the first chunk", seen.len());
            for key in ["s/000399", "s/000350", "s/9"] {
                clients.kv.put(pb::PutRequest { key: key.into(), ..pb::PutRequest::default() }).await?;
            }
            let delete = pb::DeleteRangeRequest { key: "s/000300".into(), ..pb::DeleteRangeRequest::default() };
            clients.kv.delete_range(delete).await?;
            while seen.len() < keys {
                let more = next(&mut stream).await?;
                ensure!(!more.is_empty(), "{}: ended after {} keys", group.kind().name(), seen.len());
                seen.extend(more);
            }
            ensure!(seen == before, "{}: not as at revision {then}", group.kind().name());
            // The second time from the past.
            if revision == 0 {
                equal(clients.kv.range(all()).await?.into_inner().count, 400)?;
            }
        }
    }
    Ok(())
}

/// Clients that stop reading cost a store neither the range's memory nor its past.
#[tokio::test(flavor = "multi_thread")]
async fn range_stream_does_not_wait_for_those_that_stop_reading() -> Result<()> {
    let group = Group::of(Kind::Kontiki, 1).await?;
    let (mut clients, keys) = (group.clients(0)?, 1_000);
    fill(&mut clients, keys, &vec![1; 64 << 10].into()).await?;
    let old = merged(&mut clients, all()).await?;
    let before = group.members()[0].rss()?;
    let mut stopped = Vec::new();
    for _ in 0..8 {
        let mut stream = group.clients(0)?.kv.range_stream(all()).await?.into_inner();
        let seen = next(&mut stream).await?;
        stopped.push((stream, seen));
    }
    let grown = group.members()[0].rss()?.saturating_sub(before) / MIB;
    println!("eight streams of 62 MiB that wait: {grown} MiB");
    ensure!(grown < 60, "eight streams that wait take {grown} MiB");

    let now = fill(&mut clients, keys, &vec![2; 64 << 10].into()).await?;
    tokio::time::sleep(PAUSE).await;
    // From history.
    let (mut stream, mut seen) = stopped.pop().context("a stream")?;
    loop {
        let more = next(&mut stream).await?;
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    ensure!(seen == old.kvs, "a stream went on with {} keys, not all as they were", seen.len());
    clients.kv.compact(pb::CompactionRequest { revision: now, physical: false }).await?;
    for (mut stream, _) in stopped {
        let ended = loop {
            match next(&mut stream).await {
                Ok(more) => ensure!(!more.is_empty(), "a stream knows what was compacted"),
                Err(status) => break status,
            }
        };
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        equal((ended.code(), ended.message()), (Code::OutOfRange, compacted))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn range_stream_of_100_000_keys() -> Result<()> {
    let mut answers = Vec::new();
    for group in newest().await? {
        let mut clients = group.clients(0)?;
        fill(&mut clients, 100_000, &vec![7; 100].into()).await?;
        let start = Instant::now();
        let mut merged = merged(&mut clients, all()).await?;
        println!("{}: 100,000 keys in {:?}", group.kind().name(), start.elapsed());
        ensure!(merged.count == 100_000 && merged.kvs.len() == 100_000 && !merged.more, "{}", merged.count);
        merged.header =
            merged.header.map(|header| pb::ResponseHeader { revision: header.revision, ..Default::default() });
        answers.push(merged);
    }
    ensure!(answers.windows(2).all(|pair| pair[0] == pair[1]), "not the same keys");
    Ok(())
}
