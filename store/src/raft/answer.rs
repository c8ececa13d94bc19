//! Asking the leader, wherever it is, and answering whoever asks.
//!
//! Invariants
//! - A question is asked again only while it is certain that nobody acted on it, or if asking costs nothing.
//! - Every call ends in bounded time, with or without a leader.
//! - Only a member that surely leads, and shows all that was decided before, answers for a lease.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    MemberError, ReadError,
    raft::{
        engine::{Core, LEADER_WAIT, Leader, RETRY},
        forward::{self, Ask, LeaseTimes, Verdict},
        members,
        peer::ForwardError,
    },
    rt::{Instant, timeout},
};
use kontiki_state::{
    Lease, Refusal, Term,
    codec::Malformed,
    command::{Action, Command, Outcome},
};

/// Why the leader did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AskError {
    /// Nobody was asked.
    NoLeader,
    /// Somebody was, and may have done it.
    Lost,
}

/// Asks the leader about leases, until somebody who leads answers.
pub(crate) async fn ask_leases(core: &Core, ask: Ask) -> Result<Vec<(i64, u64)>, ReadError> {
    let started = Instant::now();
    let request = ask.encode();
    while started.elapsed() < LEADER_WAIT {
        if core.stop.is_cancelled() {
            return Err(ReadError::Stopped);
        }
        let said = match core.leader() {
            Leader::Here => answer(core, request.clone()).await.ok(),
            Leader::At(address) => core.peers.forward(&address, request.clone(), LEADER_WAIT).await.ok(),
            Leader::Nobody => None,
        };
        if let Some(Ok(Some(times))) = said.map(forward::decode_leases) {
            return Ok(times);
        }
        core.wait_for_leader().await;
    }
    Err(ReadError::NoLeader)
}

/// Asks the leader for something that it may do once.
pub(crate) async fn ask_leader(core: &Core, ask: Ask, wait: Duration) -> Result<Bytes, AskError> {
    let started = Instant::now();
    let request = ask.encode();
    while started.elapsed() < LEADER_WAIT {
        match core.leader() {
            Leader::Here => return answer(core, request).await.map_err(|_| AskError::NoLeader),
            Leader::At(address) => match core.peers.forward(&address, request.clone(), wait).await {
                Ok(said) => return Ok(said),
                Err(ForwardError::Lost) => return Err(AskError::Lost),
                Err(ForwardError::NotSent | ForwardError::Refused) => {}
            },
            Leader::Nobody => {}
        }
        core.wait_for_leader().await;
    }
    Err(AskError::NoLeader)
}

/// Answers another member, or this one.
pub(crate) async fn answer(core: &Core, request: Bytes) -> Result<Bytes, Malformed> {
    Ok(match Ask::decode(request)? {
        Ask::Propose(commands) => forward::encode_verdicts(&propose(core, commands).await),
        Ask::ReadIndex => forward::encode_index(core.read_index_here().await),
        Ask::AddMember { id, name, address } => forward::encode_change(&members::add(core, id, &name, &address).await),
        Ask::RemoveMember { id } => forward::encode_change(&members::remove(core, id).await),
        Ask::TransferLeadership { target } => {
            let moved = members::transfer(core, target).await;
            forward::encode_change(&moved.map_err(|error| MemberError::Refused(error.to_string())))
        }
        Ask::Members => forward::encode_members(&if core.leads() { members::list(core) } else { Vec::new() }),
        Ask::AddLearner { id, node } => forward::encode_change(&members::add_learner(core, id, node).await.map(|_| ())),
        Ask::Promote { id } => forward::encode_change(&members::promote(core, id).await),
        Ask::Update { id, node } => forward::encode_change(&members::update(core, id, node).await),
        Ask::KeepAlive { leases } => forward::encode_leases(&keep_alive(core, &leases).await),
        Ask::Level => forward::encode_level(core.local.newest),
        Ask::Digest { index } => forward::encode_digest(core.local.samples.at(index)),
        Ask::Differs { index, digest } => {
            core.condemn(index, digest);
            Bytes::new()
        }
        Ask::LeasesLeft { lease } => forward::encode_leases(&leases_left(core, lease).await),
    })
}

/// Puts another member's commands into the log. Those that not every member would understand are refused: in the log
/// they would stop whoever meets them.
async fn propose(core: &Core, commands: Vec<Command>) -> Vec<Verdict> {
    let level = core.local.level();
    let known = |command: &Command| Action::decode(command).is_ok_and(|action| action.needs() <= level);
    let fit: Vec<bool> = commands.iter().map(known).collect();
    let told = core.propose_all_here(commands.into_iter().zip(&fit).filter(|(_, fit)| **fit).map(|(c, _)| c).collect());
    let mut told = told.await.into_iter();
    let refused = || Verdict::Done(Outcome::Refused(Refusal::Malformed));
    fit.iter().map(|fit| if *fit { told.next().unwrap_or(Verdict::Unknown) } else { refused() }).collect()
}

/// The term in which this member surely leads, once it shows all that was decided before.
async fn leading_term(core: &Core) -> Option<Term> {
    let term = core.metrics(|metrics| metrics.current_term);
    let index = core.read_index_here().await?;
    let mut applied = core.view.applied();
    let shown = timeout(LEADER_WAIT, applied.wait_for(|at| *at >= index)).await;
    shown.is_ok_and(|shown| shown.is_ok()).then_some(Term(term))
}

/// Gives leases their whole time again, if this member leads: the times in seconds of those that there are.
async fn keep_alive(core: &Core, ids: &[i64]) -> LeaseTimes {
    let mut term = leading_term(core).await?;
    let (mut applied, mut times) = (core.view.applied(), Vec::with_capacity(ids.len()));
    let deadline = Instant::now() + LEADER_WAIT;
    for id in ids {
        loop {
            applied.mark_unchanged();
            let found = core.view.look(|state| state.leases().get(id).map(Lease::without_keys));
            let Some(lease) = found else { break };
            if core.local.leases.keep_alive(term, *id, &lease, || core.view.snapshot()) {
                times.push((*id, lease.ttl.unsigned_abs()));
                break;
            }
            if Instant::now() >= deadline {
                return None;
            }
            // Its end has been proposed: it is gone as soon as that is applied.
            let _ = timeout(RETRY, applied.changed()).await;
            // Others may have come to lead meanwhile.
            term = leading_term(core).await?;
        }
    }
    Some(times)
}

/// How long leases still have, in milliseconds: one, or all; if this member leads.
async fn leases_left(core: &Core, wanted: Option<i64>) -> LeaseTimes {
    let term = leading_term(core).await?;
    let snapshot = core.view.snapshot();
    let left = |id: i64, lease: &Lease| {
        let left = core.local.leases.remaining(term, id, lease);
        (id, u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    };
    let leases = snapshot.leases();
    Some(match wanted {
        Some(id) => leases.get(&id).map(|lease| left(id, lease)).into_iter().collect(),
        None => leases.iter().map(|(id, lease)| left(*id, lease)).collect(),
    })
}
