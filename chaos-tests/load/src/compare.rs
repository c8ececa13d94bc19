//! All cases in one run, all peers under the same clients.
//!
//! How it is kept fair
//! - All get the same objects, connections and requests. Only the measured one is under load; the others idle.
//! - Repetitions alternate between the peers; a figure is the median of them.
//! - Latencies hold what the generator takes, which shares the machine: it has one thread, and its own CPU is a figure.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use kontiki_etcd_tests::{
    load::{Timing, figures::Figures},
    select::select,
};

use crate::{
    cases::{self, CASES},
    memory,
    peer::{Kind, Peer},
    start, watches,
};

/// What is measured of one server that has nothing else to do.
const ALONE: [&str; 2] = [memory::TITLE, start::TITLE];

/// How long and how much.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Of loads that are not counted.
    pub timing: Timing,
    pub repetitions: usize,
    /// Objects that 16 clients create in one case.
    pub creations: usize,
    /// Pods that are listed.
    pub pods: u64,
    /// Pods that memory is measured with.
    pub kept: u64,
    /// How long a server rests until its memory is looked at again.
    pub rest: Duration,
    /// A tenth of the watchers.
    pub quick: bool,
}

impl Scale {
    pub fn full() -> Self {
        let timing = Timing { warm_up: Duration::from_secs(2), measured: Duration::from_secs(10) };
        let rest = Duration::from_secs(180);
        Self { timing, repetitions: 3, creations: 20_000, pods: 10_000, kept: 150_000, rest, quick: false }
    }

    /// To see that everything works; its figures are rough.
    pub fn quick() -> Self {
        let timing = Timing { warm_up: Duration::from_millis(500), measured: Duration::from_secs(3) };
        let rest = Duration::from_secs(60);
        Self { timing, repetitions: 1, creations: 4_000, pods: 10_000, kept: 10_000, rest, quick: true }
    }
}

/// A column of the table.
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// Measures all whose title holds one of the words, all without words, and writes them to `out` as they come in.
///
/// # Errors
/// A peer does not start, too many requests are refused, or no title holds a word.
pub async fn compare(columns: &[Column], scale: &Scale, only: &[String], out: &Path) -> Result<Figures> {
    let mut figures = Figures::new(&columns.iter().map(|column| &column.name).collect::<Vec<_>>());
    let closed: Vec<String> = CASES.iter().map(cases::Case::title).collect();
    let watched: Vec<String> = watches::CASES.iter().map(|case| case.title(scale)).collect();
    let titles = [&closed[..], &watched[..], &ALONE.map(str::to_owned)].concat();
    let wanted: Vec<String> = select(&titles, String::as_str, only)?.into_iter().cloned().collect();
    if wanted.iter().any(|title| !ALONE.contains(&title.as_str())) {
        under_load(columns, scale, &wanted, &mut figures, out).await?;
    }
    for title in ALONE.into_iter().filter(|title| wanted.iter().any(|wanted| wanted == title)) {
        alone(title, columns, scale, &mut figures, out).await?;
    }
    Ok(figures)
}

/// Starts the columns' peers; those that cannot be had are left out.
async fn start(columns: &[Column], scale: &Scale) -> Result<Vec<(usize, Peer)>> {
    let mut peers = Vec::new();
    for (place, column) in columns.iter().enumerate() {
        eprintln!("starting {}, {} Pods", column.name, scale.pods);
        let Some(peer) = Peer::start(&column.kind).await.with_context(|| column.name.clone())? else { continue };
        cases::fill(&peer, scale).await.with_context(|| column.name.clone())?;
        peers.push((place, peer));
    }
    if peers.is_empty() {
        bail!("there is nothing to measure");
    }
    Ok(peers)
}

async fn under_load(
    columns: &[Column],
    scale: &Scale,
    wanted: &[String],
    figures: &mut Figures,
    out: &Path,
) -> Result<()> {
    let peers = start(columns, scale).await?;
    for repetition in 1..=scale.repetitions {
        let say = |title: &str, place: usize| {
            eprintln!("{repetition}/{}: {title}, {}", scale.repetitions, columns[place].name);
            format!("{title} of {}", columns[place].name)
        };
        // Watches first, while there is nothing that only creations have left.
        for case in watches::CASES.iter().filter(|case| wanted.contains(&case.title(scale))) {
            for (place, peer) in &peers {
                let what = say(&case.title(scale), *place);
                case.measure(peer, scale, &mut figures.of(*place)).await.context(what)?;
            }
            figures.save(out)?;
        }
        for case in CASES.iter().filter(|case| wanted.contains(&case.title())) {
            for (place, peer) in &peers {
                let what = say(&case.title(), *place);
                case.measure(peer, scale, &mut figures.of(*place)).await.context(what)?;
            }
            figures.save(out)?;
        }
    }
    Ok(())
}

/// One peer at a time: memory is short.
async fn alone(title: &str, columns: &[Column], scale: &Scale, figures: &mut Figures, out: &Path) -> Result<()> {
    for (place, column) in columns.iter().enumerate() {
        eprintln!("{title}, {}", column.name);
        let Some(mut peer) = Peer::start(&column.kind.alone()).await.with_context(|| column.name.clone())? else {
            continue;
        };
        let mut own = figures.of(place);
        let measured = match title {
            memory::TITLE => memory::measure(&peer, scale, &mut own).await,
            _ => start::measure(&mut peer, scale, &mut own).await,
        };
        measured.with_context(|| column.name.clone())?;
        figures.save(out)?;
    }
    Ok(())
}
