//! One run of a scenario.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kontiki_plan::planted::{Bug, plant};
use kontiki_store::simulation;
use tokio::runtime::Builder;

use crate::cluster::Cluster;
use crate::end_state::{EndState, end_state};
use crate::environment::Environment;
use crate::killer::Kill;
use crate::machine::on_virtual_time;
use crate::scenarios::Scenario;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The leaders' writes, in words.
    pub writes: Vec<String>,
    /// Leaders that died.
    pub kills: usize,
    /// What there is at the end.
    pub end_state: EndState,
    /// Rules that were broken, and why the scenario did not come to its end.
    pub broken: Vec<String>,
    /// A digest of all that was written, in order.
    pub trace: u64,
    /// Seconds that passed for those in it.
    pub seconds: u64,
}

/// Plays a scenario; with a kill, its leader dies; with a bug, plans make that mistake.
#[must_use]
pub fn play(scenario: &Scenario, kill: Option<Kill>, seed: u64, bug: Option<Bug>) -> Outcome {
    on_virtual_time(seed, || {
        plant(bug);
        simulation::install(Some(Arc::new(Environment::default())));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let outcome = runtime.block_on(run(scenario, kill));
        drop(runtime);
        simulation::install(None);
        outcome.unwrap_or_else(|error| Outcome { broken: vec![format!("{error:#}")], ..Outcome::default() })
    })
}

async fn run(scenario: &Scenario, kill: Option<Kill>) -> Result<Outcome> {
    let cluster = Cluster::start().await?;
    cluster.history.lock().begin();
    cluster.killer.begin(kill);
    let began = Instant::now();
    let mut played = (scenario.play)(&cluster).await;
    if played.is_ok() {
        played = cluster.settle().await;
    }
    let mut outcome = Outcome {
        writes: cluster.killer.writes(),
        kills: cluster.killer.kills(),
        seconds: began.elapsed().as_secs(),
        ..Outcome::default()
    };
    {
        let history = cluster.history.lock();
        outcome.end_state = end_state(&history);
        outcome.broken.clone_from(&history.broken);
        outcome.trace = history.trace;
    }
    outcome.broken.extend(played.err().map(|error| format!("{error:#}")));
    cluster.end().await;
    Ok(outcome)
}
