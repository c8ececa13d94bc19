//! The driver: turns of one row, several keys at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kontiki_plan::action;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::execute::Executor;
use crate::habit::Habits;
use crate::metrics::Loop;
use crate::queue::{Outcome, Queue, Start};
use crate::rows::Row;
use crate::world::World;

/// Runs one row until `stop`. A turn that panics costs its key a pause, nothing more.
pub(crate) async fn run(
    row: &'static Row,
    world: Arc<World>,
    executor: Executor,
    metrics: Arc<Loop>,
    stop: CancellationToken,
) {
    let queue = Arc::new(Queue::default());
    let habits: Arc<Mutex<Habits>> = Arc::default();
    let inputs = (row.inputs)(&world, &queue);
    let mut turns: JoinSet<Outcome> = JoinSet::new();
    let mut keys: HashMap<Id, String> = HashMap::new();
    loop {
        metrics.depth(queue.depth());
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel-safe: a finished turn stays in the set.
            Some(ended) = turns.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, outcome)) => (id, outcome),
                    Err(error) => {
                        error!(controller = row.name, %error, "a turn failed; its key is tried again later");
                        (error.id(), Outcome { retry: true, ..Outcome::default() })
                    }
                };
                if let Some(key) = keys.remove(&id) {
                    queue.done(&key, outcome);
                }
            }
            // Cancel-safe: see there.
            start = queue.next(), if turns.len() < row.workers => {
                let key = start.key.clone();
                let turn = turn(row, world.clone(), executor.clone(), metrics.clone(), habits.clone(), start);
                keys.insert(turns.spawn(turn).id(), key);
            }
        }
    }
    drop(inputs);
    // What is under way may end; new writes of a lost term are refused by the log anyway.
    turns.shutdown().await;
}

/// One pass: wait for what the key wrote last, plan, apply.
async fn turn(
    row: &'static Row,
    world: Arc<World>,
    executor: Executor,
    metrics: Arc<Loop>,
    habits: Arc<Mutex<Habits>>,
    start: Start,
) -> Outcome {
    world.caches.informers.wait_for(start.floor).await;
    let (began, now) = (Instant::now(), Timestamp::now());
    let plan = (row.turn)(&world, &start.key, now, start.failure.as_ref());
    let wake = plan.wake.map(|at| began + Duration::try_from(at.duration_since(now)).unwrap_or_default());
    if plan.actions.is_empty() {
        lock(&habits).forget(&start.key);
        metrics.turn(began.elapsed(), false);
        return Outcome { wake, floor: start.floor, ..Outcome::default() };
    }
    let gist = action::gist(&plan.actions);
    if let Some(until) = gist.and_then(|gist| lock(&habits).held(&start.key, gist, began)) {
        metrics.held();
        let wake = Some(wake.map_or(until, |at| at.min(until)));
        return Outcome { wake, floor: start.floor, failure: start.failure, retry: false };
    }
    debug!(controller = row.name, key = start.key, actions = plan.actions.len(), "reconciling");
    let first = plan.actions.iter().find_map(|action| Some((action.verb(), action.subject()?)));
    let done = executor.apply(plan.actions, &metrics).await;
    metrics.turn(began.elapsed(), done.failed);
    let told =
        gist.is_some_and(|gist| !done.failed && lock(&habits).done(&start.key, gist, done.effect, Instant::now()));
    if let Some((verb, (key, uid))) = first.filter(|_| told) {
        executor.complain(verb, &key, &uid);
    }
    Outcome { floor: done.floor, wake, retry: done.failed, failure: done.failure }
}

fn lock(habits: &Mutex<Habits>) -> MutexGuard<'_, Habits> {
    // Nothing panics while it holds the lock, so a poisoned one is whole.
    habits.lock().unwrap_or_else(PoisonError::into_inner)
}
