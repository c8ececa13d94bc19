//! Clients in a closed loop: each has a connection of its own and one request outstanding.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kontiki_etcd_tests::{
    load::{
        figures::Column,
        latency::{quantile, tenths},
    },
    process::cpu_seconds,
};
use rand::{Rng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    objects::{self, Template},
    peer::Peer,
    wire::{Answer, Connection, Request},
};

/// Of all requests: more refusals, and there is nothing to measure.
const MOST_ERRORS: f64 = 0.01;
/// Nothing healthy takes a fixed count, or the last answers, longer.
const LIMIT: Duration = Duration::from_secs(1_200);
/// A client that was refused does not hammer.
const BACKOFF: Duration = Duration::from_millis(10);
const MIB: f64 = 1024.0 * 1024.0;

/// What a client does over and over.
pub enum Work {
    /// Creates objects, numbered by all clients together.
    Create { path: String, template: Arc<Template>, holes: fn(u64) -> Vec<String>, next: Arc<AtomicU64> },
    /// Replaces its own object under the version that it read last.
    Update { path: String, template: Template, version: String, turn: u64 },
    /// Patches its own object, each time with another number.
    Patch { path: String, media: &'static str, template: Template, turn: u64 },
    /// Reads one of many.
    Get { path: fn(u64) -> String, accept: &'static str, count: u64, rng: SmallRng },
    /// Reads many; an answer is as long as the first was, give or take what versions and ages have in digits.
    List { path: String, accept: &'static str, length: u64 },
}

pub struct Client {
    pub connection: Connection,
    pub work: Work,
    /// The body of the next request.
    pub body: Vec<u8>,
}

/// When clients stop.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After so many requests of all of them together.
    Requests(usize),
    Time(Duration),
}

/// What clients did until they stopped.
#[derive(Debug, Default)]
pub struct Run {
    pub seconds: f64,
    /// Sorted.
    pub latencies: Vec<u32>,
    /// Until the first byte of a body; sorted.
    pub first_bytes: Vec<u32>,
    pub refusals: usize,
    /// Bytes of all bodies.
    pub bytes: u64,
}

/// A run, and what it has cost.
#[derive(Debug)]
pub struct Sample {
    pub run: Run,
    server_cpu: f64,
    own_cpu: f64,
    /// Bytes by which the most memory in use exceeded that before.
    growth: f64,
}

/// What is worth telling of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Requests,
    /// Memory and first bytes too.
    Lists,
}

impl Sample {
    pub fn tell(&self, title: &str, tell: Tell, column: &mut Column<'_>) {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let (requests, refusals) = (self.run.latencies.len() as f64, self.run.refusals as f64);
        column.add(title, "requests/s", requests / self.run.seconds);
        column.add(title, "p50 ms", quantile(&self.run.latencies, 0.5));
        column.add(title, "p99 ms", quantile(&self.run.latencies, 0.99));
        column.add(title, "server CPU ms a request", self.server_cpu / requests * 1e3);
        column.add(title, "generator CPU ms a request", self.own_cpu / requests * 1e3);
        if tell == Tell::Lists {
            column.add(title, "first byte p50 ms", quantile(&self.run.first_bytes, 0.5));
            column.add(title, "first byte p99 ms", quantile(&self.run.first_bytes, 0.99));
            column.add(title, "peak RSS growth of all servers, MiB", self.growth / MIB);
        }
        if refusals > 0.0 {
            column.add(title, "refusals", refusals);
        }
    }
}

/// Lets the clients work and measures what that costs.
///
/// # Errors
/// Too many requests are refused, or a server ends.
pub async fn measure(peer: &Peer, clients: Vec<Client>, limit: Limit) -> Result<(Vec<Client>, Sample)> {
    let cpu = || Ok::<_, anyhow::Error>((peer.cpu()?, cpu_seconds(std::process::id())?));
    peer.forget_peaks()?;
    let (resident, before) = (peer.rss()?.iter().sum::<u64>(), cpu()?);
    let (clients, run) = run(clients, limit).await?;
    let after = cpu()?;
    #[expect(clippy::cast_precision_loss, reason = "a few gigabytes")]
    let growth = peer.peak_rss()?.saturating_sub(resident) as f64;
    Ok((clients, Sample { run, server_cpu: after.0 - before.0, own_cpu: after.1 - before.1, growth }))
}

/// Lets the clients work; gives them back.
///
/// # Errors
/// Too many requests are refused, or a connection breaks.
pub async fn run(clients: Vec<Client>, limit: Limit) -> Result<(Vec<Client>, Run)> {
    let (start, count) = (Instant::now(), clients.len());
    let tickets = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(client.run(limit, start, tickets.clone()));
    }
    let (mut run, mut back, mut last) = (Run::default(), Vec::with_capacity(count), None);
    while let Some(ended) = timeout(LIMIT, tasks.join_next()).await.context("a request is never answered")? {
        let (client, notes) = ended??;
        run.latencies.extend(notes.latencies);
        run.first_bytes.extend(notes.first_bytes);
        run.refusals += notes.refusals;
        run.bytes += notes.bytes;
        last = notes.last.or(last);
        back.push(client);
    }
    run.seconds = start.elapsed().as_secs_f64();
    run.latencies.sort_unstable();
    run.first_bytes.sort_unstable();
    let all = run.latencies.len() + run.refusals;
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let share = run.refusals as f64 / all.max(1) as f64;
    ensure!(share <= MOST_ERRORS, "{} of {all} requests were refused, the last with {last:?}", run.refusals);
    Ok((back, run))
}

#[derive(Default)]
struct Notes {
    latencies: Vec<u32>,
    first_bytes: Vec<u32>,
    refusals: usize,
    bytes: u64,
    last: Option<String>,
}

impl Client {
    pub fn new(connection: Connection, work: Work) -> Self {
        Self { connection, work, body: Vec::new() }
    }

    async fn run(mut self, limit: Limit, start: Instant, tickets: Arc<AtomicUsize>) -> Result<(Self, Notes)> {
        let mut notes = Notes::default();
        while limit.lets(start, &tickets) {
            let asked = Instant::now();
            let answer = self.once().await?;
            if self.accepts(&answer) {
                notes.latencies.push(tenths(asked.elapsed()));
                notes.first_bytes.push(tenths(answer.first_byte - asked));
                notes.bytes += answer.length;
            } else {
                notes.refusals += 1;
                let text = String::from_utf8_lossy(self.connection.body()).into_owned();
                notes.last = Some(format!("{}, {} bytes: {text:.300}", answer.status, answer.length));
                tokio::time::sleep(BACKOFF).await;
            }
        }
        Ok((self, notes))
    }

    async fn once(&mut self) -> Result<Answer> {
        let Self { connection, work, body } = self;
        match work {
            Work::Create { path, template, holes, next } => {
                let texts = holes(next.fetch_add(1, Ordering::Relaxed));
                template.fill(&texts.iter().map(String::as_str).collect::<Vec<_>>(), body);
                connection.skim(&Request::with("POST", path, body)).await
            }
            Work::Update { path, template, version, turn } => {
                *turn += 1;
                template.fill(&[&format!("{turn:010}"), version], body);
                let answer = connection.ask(&Request::with("PUT", path, body)).await?;
                if answer.status == 200 {
                    *version = stored_version(connection.body())?.to_owned();
                }
                Ok(answer)
            }
            Work::Patch { path, media, template, turn } => {
                *turn += 1;
                template.fill(&[&format!("{turn:010}")], body);
                let body = Some((*media, &body[..]));
                connection.skim(&Request { method: "PATCH", body, ..Request::get(path) }).await
            }
            Work::Get { path, accept, count, rng } => {
                let path = path(rng.random_range(0..*count));
                connection.skim(&Request { accept, ..Request::get(&path) }).await
            }
            Work::List { path, accept, .. } => connection.skim(&Request { accept, ..Request::get(path) }).await,
        }
    }

    fn accepts(&self, answer: &Answer) -> bool {
        match self.work {
            Work::Create { .. } => answer.status == 201,
            Work::List { length, .. } => answer.status == 200 && answer.length.abs_diff(length) < 1024 + length / 100,
            _ => answer.status == 200,
        }
    }
}

impl Limit {
    fn lets(self, start: Instant, tickets: &AtomicUsize) -> bool {
        match self {
            Self::Requests(count) => tickets.fetch_add(1, Ordering::Relaxed) < count,
            Self::Time(time) => start.elapsed() < time,
        }
    }
}

/// A patch that sets the annotation which writes change.
pub fn annotate(turn: &str) -> String {
    format!("{{\"metadata\":{{\"annotations\":{{\"{}\":\"{turn}\"}}}}}}", objects::ANNOTATION)
}

/// The first `resourceVersion` of an answer, which is the object's own.
fn stored_version(body: &[u8]) -> Result<&str> {
    const KEY: &str = "\"resourceVersion\":\"";
    let text = std::str::from_utf8(body)?;
    let Some(at) = text.find(KEY) else { bail!("no version in {text:.300}") };
    let rest = &text[at + KEY.len()..];
    Ok(&rest[..rest.find('"').context("a version's end")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_object_is_found_without_reading_it_all() {
        let body = br#"{"kind":"Pod","metadata":{"name":"a","resourceVersion":"42","uid":"x"}}"#;
        assert_eq!(stored_version(body).expect("a version"), "42");
        assert!(stored_version(b"{}").is_err());
    }

    #[test]
    fn a_count_is_that_of_all_clients() {
        let (tickets, limit) = (AtomicUsize::new(0), Limit::Requests(2));
        let lets = [(); 3].map(|()| limit.lets(Instant::now(), &tickets));
        assert_eq!(lets, [true, true, false]);
        assert!(!Limit::Time(Duration::ZERO).lets(Instant::now(), &tickets));
    }
}
