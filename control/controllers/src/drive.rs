//! The driver: turns of one controller, several keys at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kontiki_api::Api;
use kontiki_api::leader::Settings;
use kontiki_model::Revision;
use kontiki_plan::{Plan, action};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, instrument};

use crate::controller::{Context, Controller, Inputs};
use crate::execute::{Applied, Executor};
use crate::habit::Habits;
use crate::metrics::Measured;
use crate::queue::{Queue, Turn, TurnEnd};

/// What the driver of a controller works with.
pub(crate) struct Shell {
    pub api: Api,
    pub settings: Arc<Settings>,
    pub executor: Executor,
    pub metrics: Arc<Measured>,
    /// What every view has to show.
    pub floor: Revision,
    /// Changes when this process stood still.
    pub stalls: watch::Receiver<()>,
    pub stop: CancellationToken,
}

struct Driver<C: Controller> {
    controller: Arc<C>,
    shell: Shell,
    habits: Mutex<Habits<C::Key>>,
    failures: Mutex<HashMap<C::Key, C::Failure>>,
}

/// Runs one controller until its term ends. A turn that panics costs its key a pause, nothing more.
pub(crate) async fn run<C: Controller>(shell: Shell) {
    let (stop, mut stalls) = (shell.stop.clone(), shell.stalls.clone());
    let queue = Arc::new(Queue::new(shell.floor, shell.metrics.clone()));
    let controller = Arc::new(C::new(&shell.api));
    let inputs = Inputs::new(controller.clone(), queue.clone());
    let driver = Arc::new(Driver { controller, shell, habits: Mutex::default(), failures: Mutex::default() });
    let mut turns: JoinSet<TurnEnd> = JoinSet::new();
    let mut keys: HashMap<Id, C::Key> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel-safe: a watch receiver keeps the unseen version.
            Ok(()) = stalls.changed() => driver.controller.stood_still(),
            // Cancel-safe: a finished turn stays in the set.
            Some(ended) = turns.join_next_with_id() => {
                let (id, end) = match ended {
                    Ok((id, end)) => (id, end),
                    Err(error) => {
                        error!(controller = C::NAME, %error, "a turn failed; its key is tried again later");
                        (error.id(), TurnEnd { retry: true, ..TurnEnd::default() })
                    }
                };
                if let Some(key) = keys.remove(&id) {
                    queue.done(&key, end);
                }
            }
            // Cancel-safe: see there.
            turn = queue.next(), if turns.len() < C::WORKERS => {
                let key = turn.key.clone();
                keys.insert(turns.spawn(driver.clone().turn(turn)).id(), key);
            }
        }
    }
    drop(inputs);
    // What is under way may end; new writes of a lost term are refused by the log anyway.
    turns.shutdown().await;
}

impl<C: Controller> Driver<C> {
    /// One pass: wait for what the key wrote last, ask for what lies in no cache, plan, apply.
    #[instrument(name = "reconcile", level = "debug", skip_all, fields(controller = C::NAME, key = %turn.key))]
    async fn turn(self: Arc<Self>, turn: Turn<C::Key>) -> TurnEnd {
        self.shell.api.cache().wait_for(turn.floor).await;
        self.controller.learn(&turn.key).await;
        let (began, now) = (Instant::now(), Timestamp::now());
        let plan = self.decide(&turn.key, now);
        self.shell.metrics.planned(plan.why);
        let wake = plan.wake.map(|at| began + Duration::try_from(at.duration_since(now)).unwrap_or_default());
        if plan.actions.is_empty() {
            lock(&self.habits).forget(&turn.key);
            lock(&self.failures).remove(&turn.key);
            return TurnEnd { wake, floor: turn.floor, retry: false };
        }
        let fingerprint = action::fingerprint(&plan.actions);
        if let Some(until) = fingerprint.and_then(|asked| lock(&self.habits).held(&turn.key, asked, began)) {
            self.shell.metrics.held();
            return TurnEnd { wake: Some(wake.map_or(until, |at| at.min(until))), floor: turn.floor, retry: false };
        }
        debug!(why = plan.why, actions = plan.actions.len(), "reconciling");
        let first = plan.actions.iter().find_map(|action| Some((action.verb(), action.subject()?)));
        let applied = self.shell.executor.apply(plan.actions).await;
        self.shell.metrics.applied(applied.actions, applied.failed);
        self.remember(&turn.key, &applied);
        let habitual = fingerprint.is_some_and(|asked| {
            !applied.failed && lock(&self.habits).done(&turn.key, asked, applied.effect, Instant::now())
        });
        if let Some((verb, (key, uid))) = first.filter(|_| habitual) {
            self.shell.executor.tell_without_effect(verb, &key, &uid);
        }
        TurnEnd { floor: applied.floor, wake, retry: applied.failed }
    }

    fn decide(&self, key: &C::Key, now: Timestamp) -> Plan {
        let failure = lock(&self.failures).get(key).cloned();
        let context = Context { now, settings: &self.shell.settings, failure: failure.as_ref() };
        match self.controller.view(key, &context) {
            Some(view) => C::plan(&view, now),
            None => Plan::rest("it is gone"),
        }
    }

    fn remember(&self, key: &C::Key, applied: &Applied) {
        let mut failures = lock(&self.failures);
        match applied.refusals.iter().find_map(C::refused) {
            Some(failure) => drop(failures.insert(key.clone(), failure)),
            None => drop(failures.remove(key)),
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, so a poisoned one is whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
