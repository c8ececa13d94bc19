//! Figures of etcd and of ours, measured in one run on one machine.
//!
//! How it is kept fair
//! - Both groups get the same flags, certificates, clients, connections and keys. Only the measured one is
//!   under load; the other idles (its members' own heartbeats are the only cost, for both alike).
//! - Repetitions alternate between the stores; a figure is the median of them.
//! - The load is closed: each client has one request outstanding. Client 0 is connected to the leader,
//!   the following ones to the other members in turn.
//! - Values are random, so that no store gains from compressing them.
//! - What the generator itself uses is a figure too: on few cores it takes part in the result.

mod bulk;
mod driver;
mod fanout;
pub mod figures;
pub mod latency;
mod renewals;
mod rest;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

pub use driver::{Load, Pool, Sample, Timing, measure};
pub use figures::Figures;

use crate::{
    group::{Group, Kind, Options},
    select::select,
};

/// Connections to one member at most.
pub const CONNECTIONS: usize = 16;
/// etcd refuses writes above 2 GiB unless told otherwise; ours has no such bound.
const QUOTA: &str = "--quota-backend-bytes=8589934592";

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub timing: Timing,
    pub repetitions: usize,
    pub watchers: usize,
    pub idle_watches: usize,
    /// Keys of 256 bytes that memory is measured with.
    pub keys: usize,
    /// Values of 8 KiB that are added for a snapshot.
    pub large: usize,
}

impl Scale {
    pub fn full() -> Self {
        let timing = Timing { warm_up: Duration::from_secs(2), measured: Duration::from_secs(8) };
        let (keys, large) = (1_000_000, 100_000);
        Self { timing, repetitions: 3, watchers: 1_000, idle_watches: 10_000, keys, large }
    }

    /// To see that everything works; its figures are rough.
    pub fn quick() -> Self {
        let timing = Timing { warm_up: Duration::from_millis(500), measured: Duration::from_secs(2) };
        let (keys, large) = (50_000, 5_000);
        Self { timing, repetitions: 1, watchers: 1_000, idle_watches: 10_000, keys, large }
    }
}

/// One closed load and how its figures are called.
struct Case {
    name: &'static str,
    clients: usize,
    /// Where client 0 is connected: the leader, or the member after it.
    offset: usize,
    load: Load,
}

const CASES: &[Case] = &[
    Case { name: "put", clients: 1, offset: 0, load: Load::Put },
    Case { name: "put at a follower", clients: 1, offset: 1, load: Load::Put },
    Case { name: "put", clients: 64, offset: 0, load: Load::Put },
    Case { name: "put", clients: 512, offset: 0, load: Load::Put },
    Case { name: "linearizable read", clients: 64, offset: 0, load: Load::Range { serializable: false } },
    Case { name: "linearizable read", clients: 512, offset: 0, load: Load::Range { serializable: false } },
    Case { name: "serializable read", clients: 64, offset: 0, load: Load::Range { serializable: true } },
    Case { name: "serializable read", clients: 512, offset: 0, load: Load::Range { serializable: true } },
    Case { name: "compare and put", clients: 64, offset: 0, load: Load::Txn },
];

fn options(kind: Kind) -> Options {
    let options = Options::new(kind, 3);
    if kind.is_etcd() { options.extra(&[QUOTA]) } else { options }
}

/// Measures all whose name holds `only` and writes them to `out` as they come in.
///
/// # Errors
/// A group does not start, or too many requests fail.
pub async fn compare(peers: &[Kind], scale: &Scale, only: &str, out: &Path) -> Result<Figures> {
    let mut figures = Figures::new(&peers.iter().map(|kind| kind.name()).collect::<Vec<_>>());
    let cases: Vec<String> = CASES.iter().map(Case::title).collect();
    let closed = [cases, vec![fanout::TITLE.to_owned(), renewals::TITLE.to_owned()]].concat();
    let titles = [&closed[..], &[bulk::TITLE.to_owned(), rest::TITLE.to_owned()]].concat();
    select(&titles, String::as_str, &[only.to_owned()])?;
    if closed.iter().any(|title| title.contains(only)) {
        closed_loads(peers, scale, only, &mut figures, out).await?;
    }
    for (peer, kind) in peers.iter().enumerate() {
        if bulk::TITLE.contains(only) {
            let group = Group::start(options(*kind)).await?;
            bulk::measure(group, scale, &mut figures.of(peer)).await.with_context(|| kind.name())?;
            figures.save(out)?;
        }
        if rest::TITLE.contains(only) {
            eprintln!("{}, {}", rest::TITLE, kind.name());
            let group = Group::start(options(*kind)).await?;
            rest::measure(group, scale, &mut figures.of(peer)).await.with_context(|| kind.name())?;
            figures.save(out)?;
        }
    }
    Ok(figures)
}

async fn closed_loads(peers: &[Kind], scale: &Scale, only: &str, figures: &mut Figures, out: &Path) -> Result<()> {
    let mut groups = Vec::new();
    for kind in peers {
        groups.push(Group::start(options(*kind)).await?);
    }
    let wanted: Vec<&Case> = CASES.iter().filter(|case| case.title().contains(only)).collect();
    for repetition in 1..=scale.repetitions {
        for case in &wanted {
            for (peer, group) in groups.iter().enumerate() {
                eprintln!("{repetition}/{}: {}, {}", scale.repetitions, case.title(), group.kind().name());
                let outcome = case.measure(group, &scale.timing).await;
                let sample = outcome.with_context(|| format!("{} of {}", case.title(), group.kind().name()))?;
                sample.tell(&case.title(), &mut figures.of(peer));
            }
            figures.save(out)?;
        }
        for (peer, group) in groups.iter().enumerate() {
            if fanout::TITLE.contains(only) {
                eprintln!("{repetition}/{}: {}, {}", scale.repetitions, fanout::TITLE, group.kind().name());
                let outcome = fanout::measure(group, scale, &mut figures.of(peer)).await;
                outcome.with_context(|| format!("{} of {}", fanout::TITLE, group.kind().name()))?;
            }
            if renewals::TITLE.contains(only) {
                eprintln!("{repetition}/{}: {}, {}", scale.repetitions, renewals::TITLE, group.kind().name());
                let outcome = renewals::measure(group, &mut figures.of(peer)).await;
                outcome.with_context(|| format!("{} of {}", renewals::TITLE, group.kind().name()))?;
            }
        }
        figures.save(out)?;
    }
    Ok(())
}

impl Case {
    fn title(&self) -> String {
        let plural = if self.clients == 1 { "client" } else { "clients" };
        format!("{}, {} {plural}", self.name, self.clients)
    }

    async fn measure(&self, group: &Group, timing: &Timing) -> Result<Sample> {
        let first = (group.leader().await? + self.offset) % group.members().len();
        let pool = Pool::connect(group, first, self.clients).await?;
        driver::fill(&pool).await?;
        measure(group, &pool, self.clients, self.load, timing).await
    }
}
