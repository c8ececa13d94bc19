//! Closed loads over the KV service, cheap enough to share the machine with what they measure.
//!
//! Requests are built once and cloned (their keys and values are shared bytes); each client keeps its
//! own latencies, which are merged and sorted after the load has ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kontiki_proto::etcd::{self as pb, compare::TargetUnion, kv_client::KvClient, request_op::Request};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Status, transport::Channel};

use super::{
    CONNECTIONS,
    figures::Column,
    latency::{quantile, tenths},
};
use crate::{
    client::{self, Clients},
    group::Group,
    process::cpu_seconds,
};

/// Keys that puts and reads are spread over.
const KEYS: u32 = 10_000;
const VALUE: usize = 256;
/// Of the requests measured: more, and there is nothing to measure.
const MOST_ERRORS: f64 = 0.01;
/// A client whose request failed does not hammer.
const BACKOFF: Duration = Duration::from_millis(10);

/// The last requests have been sent: nothing healthy takes this long.
const LAST_ANSWER: Duration = Duration::from_secs(30);

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const STOPPED: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What each client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    Put,
    Range {
        serializable: bool,
    },
    /// Compares its own key's revision, which is always as it left it, and puts.
    Txn,
}

/// Connections, client by client.
pub struct Pool {
    channels: Vec<Channel>,
}

impl Pool {
    /// Client `i` is to speak to member `first + i`; several share a connection, at most
    /// [`CONNECTIONS`] for each member.
    ///
    /// # Errors
    /// A member cannot be reached.
    pub async fn connect(group: &Group, first: usize, clients: usize) -> Result<Self> {
        let members = group.members().len();
        let mut channels = Vec::new();
        for i in 0..clients.min(CONNECTIONS * members) {
            let address = group.members()[(first + i) % members].client;
            channels.push(client::patient(address, &group.certs)?.connect().await?);
        }
        Ok(Self { channels })
    }

    /// A client's connection. The number of connections is a multiple of the members' or that of the
    /// clients, so that all members get their share.
    pub fn clients(&self, client: usize) -> Clients {
        Clients::new(self.channels[client % self.channels.len()].clone())
    }
}

/// Requests of one measured time.
#[derive(Debug)]
pub struct Sample {
    pub ops: usize,
    pub errors: usize,
    pub seconds: f64,
    pub server_cpu: f64,
    pub own_cpu: f64,
    latencies: Vec<u32>,
}

impl Sample {
    /// Milliseconds under which a share of the requests stayed.
    pub fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share)
    }

    pub fn tell(&self, title: &str, column: &mut Column<'_>) {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let ops = self.ops as f64;
        column.add(title, "ops/s", ops / self.seconds);
        for (name, share) in [("p50 ms", 0.5), ("p99 ms", 0.99), ("p999 ms", 0.999)] {
            column.add(title, name, self.quantile(share));
        }
        column.add(title, "server CPU s per 100k", self.server_cpu / ops * 1e5);
        column.add(title, "generator CPU s per 100k", self.own_cpu / ops * 1e5);
        if self.errors > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
            column.add(title, "errors", self.errors as f64);
        }
    }
}

fn key(i: u32) -> Bytes {
    format!("load/{i:08}").into()
}

pub fn random_value(length: usize) -> Bytes {
    let mut value = vec![0; length];
    rand::rng().fill(&mut value[..]);
    value.into()
}

/// Puts every key once, if that was not done before.
///
/// # Errors
/// A put fails.
pub async fn fill(pool: &Pool) -> Result<()> {
    let last = pb::RangeRequest { key: key(KEYS - 1), ..pb::RangeRequest::default() };
    if pool.clients(0).kv.range(last).await?.into_inner().count == 1 {
        return Ok(());
    }
    fill_with(pool, "load/", 0..KEYS, VALUE).await
}

/// Puts `prefix` and eight digits for each number, by single puts of 512 clients, in order.
///
/// # Errors
/// A put fails.
pub async fn fill_with(pool: &Pool, prefix: &'static str, keys: std::ops::Range<u32>, length: usize) -> Result<()> {
    let next = Arc::new(std::sync::atomic::AtomicU32::new(keys.start));
    let mut tasks = JoinSet::new();
    for i in 0..512 {
        let (next, mut kv) = (next.clone(), pool.clients(i).kv);
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys.end {
                    return anyhow::Ok(());
                }
                let (key, value) = (format!("{prefix}{number:08}").into(), random_value(length));
                kv.put(pb::PutRequest { key, value, ..pb::PutRequest::default() }).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Runs `clients` clients and measures what they do after the warm-up.
///
/// # Errors
/// Too many requests fail, or a member ends.
pub async fn measure(group: &Group, pool: &Pool, clients: usize, load: Load, timing: &Timing) -> Result<Sample> {
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut tasks = JoinSet::new();
    for i in 0..clients {
        tasks.spawn(Client::new(i, pool, load).run(phase.clone()));
    }
    tokio::time::sleep(timing.warm_up).await;
    let cpu = || Ok::<_, anyhow::Error>((group.cpu()?, cpu_seconds(std::process::id())?));
    let (before, start) = (cpu()?, Instant::now());
    phase.store(MEASURED, Ordering::Relaxed);
    tokio::time::sleep(timing.measured).await;
    phase.store(STOPPED, Ordering::Relaxed);
    let (seconds, after) = (start.elapsed().as_secs_f64(), cpu()?);
    let (mut latencies, mut errors, mut last) = (Vec::new(), 0, None);
    while let Some(ended) = timeout(LAST_ANSWER, tasks.join_next()).await.context("a request is never answered")? {
        let client = ended?;
        latencies.extend(client.latencies);
        errors += client.errors;
        last = client.last_error.or(last);
    }
    latencies.sort_unstable();
    let ops = latencies.len();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let share = errors as f64 / (ops + errors).max(1) as f64;
    ensure!(ops > 0 && share <= MOST_ERRORS, "{errors} of {} requests failed, the last with {last:?}", ops + errors);
    let (server_cpu, own_cpu) = (after.0 - before.0, after.1 - before.1);
    Ok(Sample { ops, errors, seconds, server_cpu, own_cpu, latencies })
}

struct Client {
    kv: KvClient<Channel>,
    load: Load,
    rng: SmallRng,
    own: Bytes,
    revision: i64,
    value: Bytes,
    latencies: Vec<u32>,
    errors: usize,
    last_error: Option<Status>,
}

impl Client {
    fn new(index: usize, pool: &Pool, load: Load) -> Self {
        let kv = pool.clients(index).kv;
        let rng = SmallRng::seed_from_u64(index as u64);
        let (own, value) = (format!("own/{index:04}").into(), random_value(VALUE));
        let latencies = Vec::with_capacity(1 << 12);
        Self { kv, load, rng, own, revision: -1, value, latencies, errors: 0, last_error: None }
    }

    async fn run(mut self, phase: Arc<AtomicU8>) -> Self {
        while phase.load(Ordering::Relaxed) != STOPPED {
            let start = Instant::now();
            let outcome = self.once().await;
            let measured = phase.load(Ordering::Relaxed) == MEASURED;
            match outcome {
                Ok(()) if measured => self.latencies.push(tenths(start.elapsed())),
                Ok(()) => {}
                Err(status) => {
                    self.errors += usize::from(measured);
                    self.last_error = Some(status);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
        self
    }

    async fn once(&mut self) -> Result<(), Status> {
        match self.load {
            Load::Put => {
                let (key, value) = (key(self.rng.random_range(0..KEYS)), self.value.clone());
                self.kv.put(pb::PutRequest { key, value, ..pb::PutRequest::default() }).await?;
            }
            Load::Range { serializable } => {
                let key = key(self.rng.random_range(0..KEYS));
                let range = pb::RangeRequest { key, serializable, ..pb::RangeRequest::default() };
                let answer = self.kv.range(range).await?.into_inner();
                if answer.kvs.len() != 1 {
                    return Err(Status::data_loss("a key that was put is not there"));
                }
            }
            Load::Txn => self.compare_and_put().await?,
        }
        Ok(())
    }

    async fn compare_and_put(&mut self) -> Result<(), Status> {
        if self.revision < 0 {
            let range = pb::RangeRequest { key: self.own.clone(), ..pb::RangeRequest::default() };
            self.revision = self.kv.range(range).await?.into_inner().kvs.first().map_or(0, |kv| kv.mod_revision);
        }
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Mod as i32,
            key: self.own.clone(),
            target_union: Some(TargetUnion::ModRevision(self.revision)),
            range_end: Bytes::new(),
        };
        let (key, value) = (self.own.clone(), self.value.clone());
        let put = Request::RequestPut(pb::PutRequest { key, value, ..pb::PutRequest::default() });
        let success = vec![pb::RequestOp { request: Some(put) }];
        let txn = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        let answer = match self.kv.txn(txn).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                self.revision = -1; // it may have been applied
                return Err(status);
            }
        };
        if !answer.succeeded {
            return Err(Status::data_loss("a key that nobody else writes has changed"));
        }
        self.revision = answer.header.map_or(-1, |header| header.revision);
        Ok(())
    }
}

/// Members' keys as each holds them itself.
///
/// # Errors
/// The member does not answer.
pub async fn held(clients: &mut Clients, prefix: &'static str) -> Result<i64> {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().context("a prefix")? += 1;
    let read = pb::RangeRequest {
        key: prefix.into(),
        range_end: range_end.into(),
        count_only: true,
        serializable: true,
        ..pb::RangeRequest::default()
    };
    Ok(clients.kv.range(read).await?.into_inner().count)
}
