//! Watchers of Pods: how fast they hear of a change, and what that costs.
//!
//! The next update is sent when the one before has been answered and heard of by all whom it concerns: a latency is that
//! of a delivery, not of a queue that the generator fills. Reading is part of it: watchers share the generator's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kontiki_etcd_tests::{
    load::{
        figures::Column,
        latency::{quantile, tenths},
    },
    process::cpu_seconds,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use crate::{
    cases::fill_pods,
    closed::annotate,
    compare::Scale,
    objects::{name, node, part},
    peer::Peer,
    wire::{Connection, Request, STRATEGIC, Stream},
};

const PODS: &str = "/api/v1/namespaces/watch/pods";
/// Pods of the namespace, each on a node of its own.
const UPDATED: u64 = 200;
/// Nothing takes a healthy server this long.
const LIMIT: Duration = Duration::from_secs(60);
/// Connections that are made at the same time.
const OPENING: usize = 8;
const EVENT: &[u8] = br#"{"type":"MODIFIED""#;

/// Who watches what.
pub struct Case {
    whose: &'static str,
    watchers: usize,
    path: fn(usize) -> String,
    /// Whether each update concerns everybody, or one.
    everybody: bool,
}

pub const CASES: &[Case] = &[
    Case { whose: "watchers of all", watchers: 1_000, path: |_| PODS.to_owned(), everybody: true },
    Case {
        whose: "watchers each of another spec.nodeName",
        watchers: 5_000,
        path: |number| format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", part('w', number as u64)),
        everybody: false,
    },
];

/// What the watchers and the writer share about one update.
struct Round {
    sent: Instant,
    /// Who has not heard of it.
    waiting: AtomicUsize,
    heard: Notify,
    /// When lines were read.
    times: Mutex<Vec<Instant>>,
    broken: Mutex<Option<String>>,
}

/// The round that is on.
type Current = Arc<Mutex<Arc<Round>>>;

#[derive(Default)]
struct Latencies {
    since_sent: Vec<u32>,
    since_answer: Vec<u32>,
}

impl Case {
    pub fn title(&self, scale: &Scale) -> String {
        format!("watch: {UPDATED} changes, {} {}", self.count(scale), self.whose)
    }

    fn count(&self, scale: &Scale) -> usize {
        if scale.quick { self.watchers / 10 } else { self.watchers }
    }

    /// Measures the updates alone, then with watchers.
    ///
    /// # Errors
    /// A watch ends, or does not hear of an update.
    pub async fn measure(&self, peer: &Peer, scale: &Scale, column: &mut Column<'_>) -> Result<()> {
        prepare(peer).await?;
        let mut writer = peer.connect(0).await?;
        let current = Arc::new(Mutex::new(Arc::new(Round::new(0))));
        let before = peer.cpu()?;
        updates(&mut writer, &current, 0).await?;
        let alone = peer.cpu()? - before;

        let mut watchers = self.watch(peer, scale, &current).await?;
        let heard = if self.everybody { watchers.len() } else { 1 };
        // Servers close what was idle while thousands connected.
        let mut writer = peer.connect(0).await?;
        // Once for what is made when it is first used.
        updates(&mut writer, &current, heard).await?;
        let (server, own, start) = (peer.cpu()?, cpu_seconds(std::process::id())?, Instant::now());
        let latencies = updates(&mut writer, &current, heard).await?;
        let (server, own) = (peer.cpu()? - server, cpu_seconds(std::process::id())? - own);
        let (seconds, title) = (start.elapsed().as_secs_f64(), self.title(scale));
        watchers.shutdown().await;
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let events = latencies.since_sent.len() as f64;
        column.add(&title, "events/s", events / seconds);
        column.add(&title, "server CPU us an event, its update included", server / events * 1e6);
        #[expect(clippy::cast_precision_loss, reason = "a count of updates")]
        column.add(&title, "server CPU us an update without watchers", alone / UPDATED as f64 * 1e6);
        column.add(&title, "generator CPU us an event", own / events * 1e6);
        latencies.tell(&title, column);
        Ok(())
    }

    async fn watch(&self, peer: &Peer, scale: &Scale, current: &Current) -> Result<JoinSet<()>> {
        let version = version(&mut peer.connect(0).await?).await?;
        let count = self.count(scale);
        // Those whose events are awaited come first, so that a tenth has them too.
        let open = async |number: usize| {
            let path = (self.path)(number);
            let sign = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{sign}watch=1&resourceVersion={version}&timeoutSeconds=3600");
            let connection = peer.connect(number).await?;
            timeout(LIMIT, connection.follow(&Request::get(&path))).await.context("a watch does not begin")?
        };
        let streams: Vec<Stream> =
            futures::stream::iter(0..count).map(open).buffer_unordered(OPENING).try_collect().await?;
        let mut watchers = JoinSet::new();
        for stream in streams {
            watchers.spawn(listen(stream, current.clone()));
        }
        Ok(watchers)
    }
}

impl Latencies {
    fn tell(mut self, title: &str, column: &mut Column<'_>) {
        for (what, latencies) in
            [("since the request", &mut self.since_sent), ("after the answer", &mut self.since_answer)]
        {
            latencies.sort_unstable();
            column.add(title, &format!("delivery {what} p50 ms"), quantile(latencies, 0.5));
            column.add(title, &format!("delivery {what} p99 ms"), quantile(latencies, 0.99));
        }
    }
}

impl Round {
    fn new(waiting: usize) -> Self {
        Self {
            sent: Instant::now(),
            waiting: AtomicUsize::new(waiting),
            heard: Notify::new(),
            times: Mutex::new(Vec::with_capacity(waiting)),
            broken: Mutex::new(None),
        }
    }

    fn note(&self, line: &[u8]) {
        if !line.starts_with(EVENT) {
            *self.broken.lock() = Some(format!("a line begins with {:?}", String::from_utf8_lossy(line)));
            self.heard.notify_one();
            return;
        }
        self.times.lock().push(Instant::now());
        // One more than expected is found when the lines are counted.
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.heard.notify_one();
        }
    }

    async fn all_heard(&self) -> Result<()> {
        while self.waiting.load(Ordering::Acquire) > 0 {
            self.heard.notified().await;
            if let Some(reason) = self.broken.lock().take() {
                bail!("{reason}");
            }
        }
        Ok(())
    }
}

async fn prepare(peer: &Peer) -> Result<()> {
    let mut connection = peer.connect(0).await?;
    let last = format!("{PODS}/{}", name(UPDATED - 1));
    if connection.ask(&Request::get(&last)).await?.status == 200 {
        return Ok(());
    }
    for number in 0..UPDATED {
        peer.ensure("/api/v1/nodes", &node(&part('w', number))).await?;
    }
    let holes = |number| vec![name(number), part('g', number), part('w', number)];
    fill_pods(peer, "watch", holes, UPDATED).await?;
    peer.calm().await
}

/// The version from which watches go on.
async fn version(connection: &mut Connection) -> Result<String> {
    let (_, list) = connection.json("GET", &format!("{PODS}?limit=1"), None).await?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("a list's version")?.to_owned())
}

/// Changes each Pod once; each change is heard of by so many.
async fn updates(writer: &mut Connection, current: &Current, heard: usize) -> Result<Latencies> {
    static TURN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let mut latencies = Latencies::default();
    for number in 0..UPDATED {
        let round = Arc::new(Round::new(heard));
        *current.lock() = round.clone();
        let patch = annotate(&format!("{:010}", TURN.fetch_add(1, Ordering::Relaxed)));
        let path = format!("{PODS}/{}", name(number));
        let body = Some((STRATEGIC, patch.as_bytes()));
        let answer = writer.skim(&Request { method: "PATCH", body, ..Request::get(&path) }).await?;
        let answered = Instant::now();
        ensure!(answer.status == 200, "{}", String::from_utf8_lossy(writer.body()));
        let all = timeout(LIMIT, round.all_heard()).await;
        let missing = || format!("{} watchers have not heard of an update", round.waiting.load(Ordering::Relaxed));
        all.with_context(missing)??;
        let times = std::mem::take(&mut *round.times.lock());
        ensure!(times.len() == heard, "{} have heard what {heard} should", times.len());
        latencies.since_sent.extend(times.iter().map(|time| tenths(*time - round.sent)));
        latencies.since_answer.extend(times.iter().map(|time| tenths(time.saturating_duration_since(answered))));
    }
    Ok(latencies)
}

async fn listen(mut stream: Stream, current: Current) {
    // The beginning of the line that is being read.
    let mut line: Vec<u8> = Vec::with_capacity(EVENT.len());
    let reason = loop {
        let next = stream.next(|piece| {
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                let missing = EVENT.len() - line.len();
                line.extend_from_slice(&part[..part.len().min(missing)]);
                if part.ends_with(b"\n") {
                    let round = current.lock().clone();
                    round.note(&line);
                    line.clear();
                }
            }
        });
        match next.await {
            Ok(true) => {}
            Ok(false) => break "a watch has ended".to_owned(),
            Err(error) => break format!("a watch broke: {error:#}"),
        }
    };
    let round = current.lock().clone();
    *round.broken.lock() = Some(reason);
    round.heard.notify_one();
}
