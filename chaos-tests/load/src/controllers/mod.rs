//! Controllers at work: ours beside kube-controller-manager.
//!
//! How it is kept fair
//! - Both have the same objects, clients and [`hollow`] nodes, which write what kubelets would, as fast as they are let.
//! - One peer runs at a time, from nothing: what is measured may need the whole machine.
//! - Where one manager runs alone it does not elect a leader; where one is killed, another stands by.

mod cases;
mod follow;
mod hollow;
mod objects;
mod takeover;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::{load::figures::Figures, select::select};

use crate::{compare::Column, peer::Peer};

use cases::{CASES, Case};

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    pub repetitions: usize,
    pub replicas: usize,
    pub jobs: usize,
    pub cron_jobs: usize,
    /// How often a leader is killed.
    pub kills: usize,
}

impl Amounts {
    pub fn full() -> Self {
        Self { repetitions: 3, replicas: 10_000, jobs: 1_000, cron_jobs: 5_000, kills: 20 }
    }

    /// To see that everything works; its figures are rough.
    pub fn quick() -> Self {
        Self { repetitions: 1, replicas: 1_000, jobs: 100, cron_jobs: 500, kills: 3 }
    }
}

/// Measures all whose title holds one of the words, all without words, and writes them to `out` as they come in.
///
/// # Errors
/// A peer does not start, controllers do not do what they should, or no title holds a word.
pub async fn run(columns: &[Column], amounts: &Amounts, only: &[String], out: &Path) -> Result<Figures> {
    let mut figures = Figures::new(&columns.iter().map(|column| &column.name).collect::<Vec<_>>());
    let titles: Vec<String> = CASES.iter().map(|case| case.title(amounts)).collect();
    let wanted = select(&titles, String::as_str, only)?;
    let wanted: Vec<Case> = CASES.iter().copied().filter(|case| wanted.contains(&&case.title(amounts))).collect();
    let mut measured = false;
    for repetition in 1..=amounts.repetitions {
        for (place, column) in columns.iter().enumerate() {
            for standby in [false, true] {
                let cases: Vec<Case> = wanted.iter().copied().filter(|case| case.wants_standby() == standby).collect();
                let kind = column.kind.with_controllers(standby);
                if cases.is_empty() || (standby && !kind.outlives_its_leader()) {
                    continue;
                }
                eprintln!("{repetition}/{}: starting {}", amounts.repetitions, column.name);
                let Some(mut peer) = Peer::start(&kind).await.with_context(|| column.name.clone())? else { continue };
                for case in cases {
                    let title = case.title(amounts);
                    eprintln!("{repetition}/{}: {title}, {}", amounts.repetitions, column.name);
                    let done = case.measure(&mut peer, amounts, &mut figures.of(place)).await;
                    done.with_context(|| format!("{title} of {}:\n{}", column.name, peer.tails()))?;
                    figures.save(out)?;
                    measured = true;
                }
            }
        }
    }
    ensure!(measured, "there is nothing to measure");
    Ok(figures)
}
