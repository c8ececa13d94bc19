//! The shell around the scheduler's decision: follows pods, nodes and Services, decides, binds.
//! It holds no policy; that is `kontiki_plan::scheduler`.
//!
//! Invariants
//! - One task decides, so no two decisions use the same room. A pod that was placed takes up its
//!   room from that moment (it is *assumed*), whether or not its binding has landed.
//! - Bindings run beside the decisions, many at a time; each ends with the pod bound, or with its
//!   room given back and the pod looked at again on a cache that shows what really happened.
//! - A pod that fits nowhere is tried again when something changed that the plugins which refused it
//!   say may help it, and every five minutes; never in a tight loop. What is already said of it is
//!   not written again.
//! - Everything ends with the term.

mod bind;
mod claims;
mod metrics;
mod preempt;
mod queue;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kontiki_api::leader::LeaderContext;
use kontiki_api::recorder::Recorder;
use kontiki_api::{Api, Writer};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::bind::Binder;
use crate::metrics::Metrics;
use crate::state::{Caches, State};

/// Bindings and status writes under way at once.
const IN_FLIGHT: usize = 128;
/// Decisions between two looks at what changed.
const BATCH: usize = 256;

/// Fills the caches that the scheduler works on, and keeps them filled. To be called on every
/// master at start, from within the runtime.
pub fn warm(api: &Api) {
    Caches::new(api.cache());
}

/// Runs the scheduler until the term ends.
pub async fn run(context: LeaderContext) {
    let client = context.client.counted_for(Writer::Scheduler);
    let (recorder, recording) = Recorder::new(client.clone(), Writer::Scheduler, context.stop.clone());
    let mut recording = JoinSet::from_iter([recording]);
    let metrics = Arc::new(Metrics::default());
    let shown = metrics.clone();
    context.api.add_metrics("scheduler", Arc::new(move |out: &mut String| shown.write(out)));
    let cache = context.api.cache().clone();
    let waiting = Arc::new(AtomicUsize::new(0));
    let store = context.api.store().clone();
    let binder = Binder { client, store, cache: cache.clone(), recorder, waiting: waiting.clone() };
    let caches = Caches::new(&cache);
    let (mut pods, mut nodes, mut services) =
        (caches.pods.subscribe(), caches.nodes.subscribe(), caches.services.subscribe());
    let (mut namespaces, mut budgets) = (caches.namespaces.subscribe(), caches.budgets.subscribe());
    let (mut claims, mut volumes) = (caches.claims.subscribe(), caches.volumes.subscribe());
    let (mut classes, mut csi_nodes) = (caches.classes.subscribe(), caches.csi_nodes.subscribe());
    let mut state = State::new(caches, metrics);
    let mut writes = JoinSet::new();
    info!("the scheduler is running");
    loop {
        let under_way = writes.len().saturating_sub(waiting.load(Ordering::Relaxed));
        let room = IN_FLIGHT.saturating_sub(under_way).min(BATCH);
        for decision in state.decide(room) {
            writes.spawn(binder.clone().carry_out(decision));
        }
        let retry = state.next_retry(room > 0);
        tokio::select! {
            biased;
            () = context.stop.cancelled() => break,
            // Cancel-safe: a finished write stays in the set.
            Some(ended) = writes.join_next() => match ended {
                Ok(result) => state.settle(result),
                Err(error) => {
                    // Its pod is assumed for ever; a fresh start is the safe way out.
                    error!(%error, "a binding failed in an unexpected way; the scheduler starts anew");
                    break;
                }
            },
            // Cancel-safe: keys stay until they are returned.
            keys = services.next() => state.services_changed(keys),
            keys = namespaces.next() => state.namespaces_changed(keys),
            _ = budgets.next() => state.budgets_changed(),
            keys = classes.next() => state.classes_changed(keys),
            keys = csi_nodes.next() => state.csi_nodes_changed(keys),
            keys = volumes.next() => state.volumes_changed(keys),
            keys = claims.next() => state.claims_changed(keys),
            keys = nodes.next() => state.nodes_changed(keys),
            keys = pods.next() => state.pods_changed(keys),
            // Cancel-safe: a timer holds nothing.
            () = sleep_until(retry) => {}
        }
    }
    writes.shutdown().await;
    recording.shutdown().await;
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
