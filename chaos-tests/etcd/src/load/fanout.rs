//! One key, many watchers: how fast all of them hear of a put.
//!
//! The next put is sent when every watcher has heard of the one before, so that a latency is that of
//! the delivery and not of a queue that the generator fills.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kontiki_proto::etcd::{self as pb, watch_request::RequestUnion};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use tonic::Streaming;

use super::{
    CONNECTIONS, Scale,
    driver::{Pool, random_value},
    figures::Column,
    latency::{quantile, tenths},
};
use crate::{group::Group, process::cpu_seconds};

pub const TITLE: &str = "fan-out of one key";
const KEY: &str = "fan-out";
/// Nothing takes a healthy group this long.
const LIMIT: Duration = Duration::from_secs(30);

/// What the watchers and the writer share.
struct Round {
    sent: Mutex<Instant>,
    waiting: AtomicUsize,
    heard: Notify,
    measured: AtomicBool,
    /// Latencies; each watcher adds its own when it ends.
    noted: Mutex<Vec<u32>>,
}

pub async fn measure(group: &Group, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
    let pool = Pool::connect(group, group.leader().await?, CONNECTIONS * group.members().len()).await?;
    let round = Arc::new(Round {
        sent: Mutex::new(Instant::now()),
        waiting: AtomicUsize::new(0),
        heard: Notify::new(),
        measured: AtomicBool::new(false),
        noted: Mutex::new(Vec::new()),
    });
    let mut watchers = JoinSet::new();
    for i in 0..scale.watchers {
        let stream = watch(&pool, i, [KEY.to_owned()]).await?;
        watchers.spawn(listen(stream, round.clone()));
    }
    let warm = Instant::now();
    while warm.elapsed() < scale.timing.warm_up {
        put(&pool, &round, scale.watchers).await?;
    }
    round.measured.store(true, Ordering::Relaxed);
    let (start, server, own) = (Instant::now(), group.cpu()?, cpu_seconds(std::process::id())?);
    let mut puts = 0_u32;
    while start.elapsed() < scale.timing.measured {
        put(&pool, &round, scale.watchers).await?;
        puts += 1;
    }
    let (seconds, server) = (start.elapsed().as_secs_f64(), group.cpu()? - server);
    let own = cpu_seconds(std::process::id())? - own;
    watchers.shutdown().await;
    let mut latencies = std::mem::take(&mut *round.noted.lock());
    latencies.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    let events = f64::from(puts) * scale.watchers as f64;
    let title = format!("{TITLE}, {} watchers", scale.watchers);
    column.add(&title, "events/s", events / seconds);
    column.add(&title, "delivery p50 ms", quantile(&latencies, 0.5));
    column.add(&title, "delivery p99 ms", quantile(&latencies, 0.99));
    column.add(&title, "server CPU s per 1M events", server / events * 1e6);
    column.add(&title, "generator CPU s per 1M events", own / events * 1e6);
    Ok(())
}

/// What one watcher noted, which it leaves to all however it ends.
struct Notes {
    own: Vec<u32>,
    round: Arc<Round>,
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.round.noted.lock().append(&mut self.own);
    }
}

async fn put(pool: &Pool, round: &Round, watchers: usize) -> Result<()> {
    round.waiting.store(watchers, Ordering::Release);
    *round.sent.lock() = Instant::now();
    let put = pb::PutRequest { key: KEY.into(), value: random_value(256), ..pb::PutRequest::default() };
    pool.clients(0).kv.put(put).await?;
    let heard = async {
        while round.waiting.load(Ordering::Acquire) > 0 {
            round.heard.notified().await;
        }
    };
    let waiting = || round.waiting.load(Ordering::Relaxed);
    timeout(LIMIT, heard).await.with_context(|| format!("{} watchers have not heard of a put", waiting()))
}

/// A stream with a watch for each key, all of them created.
///
/// # Errors
/// A watch is not created.
pub async fn watch(
    pool: &Pool,
    client: usize,
    keys: impl IntoIterator<Item = String>,
) -> Result<Streaming<pb::WatchResponse>> {
    let create = |key: String| {
        let create = pb::WatchCreateRequest { key: key.into(), ..pb::WatchCreateRequest::default() };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    };
    let requests: Vec<_> = keys.into_iter().map(create).collect();
    let count = requests.len();
    let requests = futures::StreamExt::chain(futures::stream::iter(requests), futures::stream::pending());
    let opening = async {
        let mut stream = pool.clients(client).watch.watch(requests).await?.into_inner();
        for _ in 0..count {
            let first = stream.message().await?.context("the stream has ended")?;
            ensure!(first.created && !first.canceled, "{first:?}");
        }
        Ok(stream)
    };
    timeout(LIMIT, opening).await.context("a watch is not created in time")?
}

async fn listen(mut stream: Streaming<pb::WatchResponse>, round: Arc<Round>) {
    let mut notes = Notes { own: Vec::new(), round: round.clone() };
    while let Ok(Some(message)) = stream.message().await {
        let elapsed = round.sent.lock().elapsed();
        for _ in &message.events {
            if round.measured.load(Ordering::Relaxed) {
                notes.own.push(tenths(elapsed));
            }
            if round.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
                round.heard.notify_one();
            }
        }
    }
}
