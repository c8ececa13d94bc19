//! The shell around the controllers' plans: watches, snapshots, plans, applies. It holds no policy.
//!
//! Every controller is a row of one static table: its name, which changes concern which keys, and
//! how a key's view becomes a plan. One driver runs all rows.
//!
//! Invariants
//! - A row's turn is pure reading and planning; only [`execute`] writes.
//! - All rows share the caches of [`World`], which are kept warm on followers too, so that taking
//!   over is starting tasks and not reading lists.
//! - A row whose actions come to nothing waits before it asks for them again, longer each time ([`habit`]).
//! - Everything ends with the term: the driver watches the term's stop token, and the client is
//!   fenced by the term.

mod drive;
mod execute;
mod habit;
mod liveness;
mod metrics;
mod queue;
mod rows;
mod world;

use std::sync::Arc;

use kontiki_api::leader::LeaderContext;
use kontiki_api::recorder::Recorder;
use kontiki_api::{Api, Writer};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::execute::Executor;
use crate::world::World;

/// Fills the caches that the controllers work on, and keeps them filled. To be called on every
/// master at start, from within the runtime.
pub fn warm(api: &Api) {
    world::Caches::new(api.informers());
}

/// Runs all controllers until the term ends.
pub async fn run(context: LeaderContext) {
    let (recorder, recording) = Recorder::new(context.client.clone(), Writer::Server, context.stop.clone());
    let world = Arc::new(World::new(context.api.informers(), context.settings.clone()));
    let mut tasks: JoinSet<()> = JoinSet::new();
    tasks.spawn(recording);
    tasks.spawn(liveness::run(world.clone(), context.stop.clone()));
    let mut loops = Vec::new();
    for row in rows::TABLE {
        let metrics = Arc::new(metrics::Loop::default());
        loops.push((row.name, metrics.clone()));
        let executor = Executor {
            controller: row.name,
            client: context.client.counted_for(Writer::Controller(row.name)),
            store: context.api.store().clone(),
            recorder: recorder.counted_for(Writer::Controller(row.name)),
        };
        tasks.spawn(drive::run(row, world.clone(), executor, metrics, context.stop.clone()));
    }
    context.api.add_metrics("controllers", Arc::new(move |out: &mut String| metrics::write(&loops, out)));
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
