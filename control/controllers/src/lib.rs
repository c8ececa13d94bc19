//! The shell around the controllers' plans: watches, views, plans, applies. It holds no policy.
//!
//! Every controller is one row of a static table: a [`controller::Controller`] in one file of `rows`, over a plan of
//! `kontiki-plan`. One driver runs them all.
//!
//! Invariants
//! - A turn is pure reading and planning; only [`Executor`] writes.
//! - All rows share the caches of the master, which are kept warm on followers too, so that taking
//!   over is starting tasks and not reading lists.
//! - No turn sees less than everything that was acknowledged before the term began.
//! - A key whose actions come to nothing waits before it asks for them again, longer each time ([`habit`]).
//! - Everything ends with the term: the driver watches the term's stop token, and the client is
//!   fenced by the term.

mod controller;
mod drive;
mod execute;
mod habit;
mod index;
mod metrics;
mod queue;
mod rows;

use std::sync::Arc;
use std::time::Instant;

use kontiki_api::leader::LeaderContext;
use kontiki_api::recorder::Recorder;
use kontiki_api::{Api, Writer};
use kontiki_model::Revision;
use kontiki_plan::clock::Pulse;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use crate::execute::{Applied, Executor};

/// Fills the caches that the controllers work on, and keeps them filled. To be called on every
/// master at start, from within the runtime.
pub fn warm(api: &Api) {
    rows::TABLE.iter().for_each(|row| (row.warm)(api));
}

/// Runs all controllers until the term ends.
pub async fn run(context: LeaderContext) {
    let Some(floor) = beginning(&context).await else { return };
    let (recorder, recording) = Recorder::new(context.client.clone(), Writer::Server, context.stop.clone());
    let (stalled, stalls) = watch::channel(());
    let mut tasks: JoinSet<()> = JoinSet::new();
    tasks.spawn(recording);
    tasks.spawn(feel_pulse(stalled, context.stop.clone()));
    let mut measured = Vec::new();
    for row in rows::TABLE {
        let metrics = Arc::new(metrics::Measured::default());
        measured.push((row.name, metrics.clone()));
        let shell = drive::Shell {
            api: context.api.clone(),
            settings: context.settings.clone(),
            executor: Executor::new(&context, &recorder, row.name, Writer::Controller(row.name)),
            metrics,
            floor,
            stalls: stalls.clone(),
            stop: context.stop.clone(),
        };
        tasks.spawn((row.run)(shell));
    }
    context.api.add_metrics("controllers", Arc::new(move |out: &mut String| metrics::write(&measured, out)));
    info!(controllers = rows::TABLE.len(), "controllers are running");
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(()) if context.stop.is_cancelled() => {}
            // Whoever started us starts us again; half a set of controllers is worse than none.
            outcome => {
                error!(?outcome, "a controller task ended by itself");
                return;
            }
        }
    }
}

/// What all turns of the term have to see at least: two nodes must not get one range because the last leader's writes
/// are not applied here yet. `None` if that cannot be known: the term is over, or whoever started us tries again.
async fn beginning(context: &LeaderContext) -> Option<Revision> {
    tokio::select! {
        () = context.stop.cancelled() => None,
        // Cancel-safe: it only reads.
        shown = context.api.store().barrier() => shown
            .inspect_err(|error| warn!(%error, "what was acknowledged before this term is not known"))
            .ok(),
    }
}

/// Watches for stalls of this process until `stop`.
async fn feel_pulse(stalled: watch::Sender<()>, stop: CancellationToken) {
    let mut pulse = Pulse::new(Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: a timer holds nothing.
            () = tokio::time::sleep(Pulse::EVERY) => {}
        }
        if let Some(gap) = pulse.beat(Instant::now()) {
            warn!(gap_ms = gap.as_millis(), "this process stood still; nobody is blamed for the time it missed");
            stalled.send_replace(());
        }
    }
}
