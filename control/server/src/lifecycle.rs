//! What the leader alone does: started by election, cancelled by loss.
//!
//! Invariants
//! - At most one term's work runs in this process; the next is not started before the last has ended
//!   or its deadline has passed (its writes are fenced by then anyway).
//! - Everything is written through a client fenced by the term.

use std::{sync::Arc, time::Duration};

use kontiki_api::{
    Api, User, Writer,
    leader::{LeaderContext, Settings, Signer},
};
use kontiki_store::{Status, Store, Term};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::{availability, basics, pki};

/// How long the work of a lost term may take to end.
const WIND_DOWN: Duration = Duration::from_secs(5);

/// A leader that heard no quorum for so long gives its work up; a moment's silence costs nothing, as
/// all writes are fenced.
const UNCONFIRMED: Duration = Duration::from_secs(5);

/// The term this member leads, if it does.
fn leading(status: &Status) -> Option<Term> {
    status.is_leader.then_some(status.term)
}

/// Whether the leadership of `term` is over.
fn lost(status: &Status, term: Term) -> bool {
    status.term != term
        || status.leader != Some(status.id)
        || (!status.is_leader && status.last_quorum_ack.is_none_or(|at| at.elapsed() >= UNCONFIRMED))
}

async fn loss(status: &mut watch::Receiver<Status>, term: Term) {
    // An error means that the store has stopped, and leadership with it.
    let _ = status.wait_for(|status| lost(status, term)).await;
}

/// Runs the leader's work whenever this member leads, until `stop`.
pub async fn run(
    api: Api,
    store: Store,
    settings: Arc<Settings>,
    signer: Arc<dyn Signer>,
    basics: basics::Basics,
    stop: CancellationToken,
) {
    // Followers keep the caches filled too, so that taking over reads no lists.
    kontiki_controllers::warm(&api);
    kontiki_scheduler::warm(&api);
    let basics = Arc::new(basics);
    let mut status = store.status();
    loop {
        let Some(term) = leading(&status.borrow_and_update().clone()) else {
            tokio::select! {
                () = stop.cancelled() => return,
                // Cancel-safe: a watch receiver keeps the unseen version.
                changed = status.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let over = stop.child_token();
        let user = User::new("system:kontiki-leader", &[pki::MASTERS, "system:authenticated"]);
        let context = LeaderContext {
            api: api.clone(),
            client: api.client(user).fenced(term).counted_for(Writer::Server),
            term,
            stop: over.clone(),
            settings: settings.clone(),
            signer: signer.clone(),
        };
        info!(%term, "leading: controllers and scheduler start");
        let mut work = JoinSet::new();
        work.spawn(kontiki_controllers::run(context.clone()).instrument(info_span!("controllers", %term)));
        work.spawn(kontiki_scheduler::run(context.clone()).instrument(info_span!("scheduler", %term)));
        work.spawn(availability::lead(context.clone()).instrument(info_span!("availability", %term)));
        work.spawn(basics.clone().run(context, store.clone()).instrument(info_span!("basics", %term)));
        tokio::select! {
            () = stop.cancelled() => {}
            // Cancel-safe: `wait_for` looks at the current value first. The store ending counts as loss.
            () = loss(&mut status, term) => {}
            ended = work.join_next() => if !stop.is_cancelled() {
                error!(%term, outcome = ?ended, "the leader's work ended early; it is started again");
                // Not at once: whatever ended it would end it again.
                tokio::time::sleep(Duration::from_secs(1)).await;
            },
        }
        over.cancel();
        wind_down(work, term).await;
        info!(%term, "no longer leading: controllers and scheduler have stopped");
        if stop.is_cancelled() {
            return;
        }
    }
}

async fn wind_down(mut work: JoinSet<()>, term: Term) {
    let all = async {
        while let Some(ended) = work.join_next().await {
            if let Err(error) = ended {
                error!(%term, %error, "a part of the leader's work failed");
            }
        }
    };
    if timeout(WIND_DOWN, all).await.is_err() {
        warn!(%term, "the leader's work did not stop in time and is dropped; its writes are fenced");
        work.shutdown().await;
    }
}
