//! Who belongs to the group, and changing that. Runs on the leader.
//!
//! Invariants
//! - A member votes only once it has caught up.
//! - No change is begun after which the members that answer would not be a majority.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};

use crate::{
    Member, MemberError, PeerTls, Role, StoreError,
    raft::{
        engine::Core,
        forward::{Ask, decode_members},
        generation,
        peer::{PeerIdentity, Peers},
    },
    rt::{self, Instant},
    types::{Metrics, Node, TypeConfig},
};
use kontiki_state::Term;

/// A member that has not answered for this long counts as gone.
const SILENT: Duration = Duration::from_secs(1);
/// How long a new member has to catch up.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Entries a new member may be behind by when it becomes a voter.
const CLOSE: u64 = 1000;
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long handing over may take.
const HAND_OVER: Duration = Duration::from_secs(2);

/// All members, as the leader knows them; elsewhere without their progress.
pub(crate) fn list(core: &Core) -> Vec<Member> {
    let last = core.log.last_index();
    core.metrics(|metrics| {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let nodes = membership.nodes().map(|(id, node)| member(core.id, last, metrics, &voters, *id, node));
        nodes.collect()
    })
}

fn member(own: u64, last: u64, metrics: &Metrics, voters: &BTreeSet<u64>, id: u64, node: &Node) -> Member {
    let role = if metrics.current_leader == Some(id) {
        Role::Leader
    } else if voters.contains(&id) {
        Role::Follower
    } else {
        Role::Learner
    };
    let reachable = id == own || metrics.current_leader == Some(id) || answered(metrics, id);
    let matched = if id == own { Some(last) } else { matched(metrics, id) };
    Member {
        id,
        name: node.name.clone(),
        address: node.address.clone(),
        client_urls: node.client_urls.clone(),
        role,
        reachable,
        matched,
        lag: matched.map(|matched| last.saturating_sub(matched)),
        term: Term(if reachable { metrics.current_term } else { 0 }),
    }
}

/// All members but `own`.
pub(crate) fn others(metrics: &Metrics, own: u64) -> impl Iterator<Item = (u64, &Node)> {
    let nodes = metrics.membership_config.membership().nodes().filter(move |(id, _)| **id != own);
    nodes.map(|(id, node)| (*id, node))
}

/// Whether something of the current term was applied here. A leader for which that is not so may still show an old
/// state.
pub(crate) fn shows_own_term(metrics: &Metrics) -> bool {
    metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term)
}

fn answered(metrics: &Metrics, id: u64) -> bool {
    let last = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&id)?.as_ref());
    last.is_some_and(|last| last.elapsed() < SILENT)
}

fn matched(metrics: &Metrics, id: u64) -> Option<u64> {
    Some(metrics.replication.as_ref()?.get(&id)?.as_ref()?.index)
}

/// The members as the member at `address` knows them from the leader, asked by somebody who is none yet.
///
/// # Errors
/// If the certificates cannot be used, or that member does not answer.
pub async fn members_at(tls: &PeerTls, address: &str) -> Result<Vec<Member>, StoreError> {
    let identity = PeerIdentity::new(tls).map_err(|error| StoreError::Storage(error.to_string()))?;
    let peers = Peers::new(generation::asking(identity));
    let answer = peers.forward(address, Ask::Members.encode(), SILENT).await.map_err(|_| StoreError::NoLeader)?;
    decode_members(answer).map_err(|error| StoreError::Storage(error.to_string()))
}

/// Adds a member: first as a learner, then, when it has caught up, as a voter.
pub(crate) async fn add(core: &Core, id: u64, name: &str, address: &str) -> Result<(), MemberError> {
    let node = Node { name: name.to_owned(), address: address.to_owned(), ..Node::default() };
    if add_learner(core, id, node).await? {
        return Ok(());
    }
    let started = Instant::now();
    while !caught_up(core, id)? {
        if started.elapsed() >= CATCH_UP {
            return Err(MemberError::NotCaughtUp(id));
        }
        rt::sleep(LOOK).await;
    }
    make_voter(core, id).await
}

/// Adds a member that does not vote, whether it runs already or not. True if it votes already.
pub(crate) async fn add_learner(core: &Core, id: u64, node: Node) -> Result<bool, MemberError> {
    flatten(core).await?;
    let known = core.metrics(|metrics| {
        let membership = metrics.membership_config.membership();
        for (other, its) in membership.nodes() {
            let named = !node.name.is_empty() && its.name == node.name;
            if *other != id && (named || its.address == node.address) {
                return Err(MemberError::Conflict(format!("member {other} is already {its}")));
            }
        }
        match membership.get_node(&id) {
            Some(its) if (&its.name, &its.address) != (&node.name, &node.address) => {
                Err(MemberError::Conflict(format!("member {id} is already {its}")))
            }
            Some(_) => Ok(Some(membership.voter_ids().any(|voter| voter == id))),
            None => Ok(None),
        }
    })?;
    if known.is_none() {
        core.raft.add_learner(id, node, false).await.map_err(|error| failed(&error))?;
    }
    Ok(known.unwrap_or(false))
}

/// Lets a learner vote, if it has caught up.
pub(crate) async fn promote(core: &Core, id: u64) -> Result<(), MemberError> {
    flatten(core).await?;
    if core.raft.voter_ids().any(|voter| voter == id) {
        return Err(MemberError::Refused("it votes already".to_owned()));
    }
    if !core.raft.learner_ids().any(|learner| learner == id) {
        return Err(MemberError::NotFound(id));
    }
    if !caught_up(core, id)? {
        return Err(MemberError::NotCaughtUp(id));
    }
    make_voter(core, id).await
}

/// The learners that are to vote as soon as they can.
pub(crate) fn waiting(core: &Core) -> Vec<u64> {
    core.metrics(|metrics| {
        let membership = metrics.membership_config.membership();
        let wanted = membership.nodes().filter(|(_, node)| node.promote).map(|(id, _)| *id);
        wanted.filter(|id| membership.learner_ids().any(|learner| learner == *id)).collect()
    })
}

/// Changes what the group knows about a member.
pub(crate) async fn update(core: &Core, id: u64, node: Node) -> Result<(), MemberError> {
    flatten(core).await?;
    let known = core.metrics(|metrics| {
        let membership = metrics.membership_config.membership();
        let taken = membership.nodes().any(|(other, its)| *other != id && its.address == node.address);
        (membership.get_node(&id).cloned(), taken)
    });
    match known {
        (None, _) => Err(MemberError::NotFound(id)),
        (_, true) => Err(MemberError::Conflict(format!("another member is at {} already", node.address))),
        (Some(its), _) if its == node => Ok(()),
        (Some(_), _) => {
            let change = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
            core.raft.change_membership(change, true).await.map_err(|error| failed(&error))?;
            Ok(())
        }
    }
}

async fn make_voter(core: &Core, id: u64) -> Result<(), MemberError> {
    let voters: BTreeSet<u64> = core.raft.voter_ids().chain([id]).collect();
    keeps_majority(core, &voters)?;
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
    core.raft.change_membership(change, true).await.map_err(|error| failed(&error))?;
    Ok(())
}

/// Removes a member.
pub(crate) async fn remove(core: &Core, id: u64) -> Result<(), MemberError> {
    flatten(core).await?;
    let voters: BTreeSet<u64> = core.raft.voter_ids().collect();
    let change = if voters.contains(&id) {
        let left: BTreeSet<u64> = voters.into_iter().filter(|voter| *voter != id).collect();
        if left.is_empty() {
            return Err(MemberError::Refused("it is the last voting member".to_owned()));
        }
        keeps_majority(core, &left)?;
        ChangeMembers::RemoveVoters(BTreeSet::from([id]))
    } else if core.raft.learner_ids().any(|learner| learner == id) {
        ChangeMembers::RemoveNodes(BTreeSet::from([id]))
    } else {
        return Err(MemberError::NotFound(id));
    };
    core.raft.change_membership(change, false).await.map_err(|error| failed(&error))?;
    Ok(())
}

/// Finishes a change that an earlier leader left half done.
async fn flatten(core: &Core) -> Result<(), MemberError> {
    if !core.leads() {
        return Err(MemberError::NoLeader);
    }
    let joint = core.metrics(|metrics| metrics.membership_config.membership().get_joint_config().len() > 1);
    if joint {
        let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
        core.raft.change_membership(nothing, true).await.map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn caught_up(core: &Core, id: u64) -> Result<bool, MemberError> {
    if core.stop.is_cancelled() {
        return Err(MemberError::Stopped);
    }
    if !core.leads() {
        return Err(MemberError::NoLeader);
    }
    let last = core.log.last_index();
    Ok(core.metrics(|m| matched(m, id).is_some_and(|at| at + CLOSE >= last) && answered(m, id)))
}

fn keeps_majority(core: &Core, voters: &BTreeSet<u64>) -> Result<(), MemberError> {
    let silent: Vec<u64> =
        core.metrics(|m| voters.iter().copied().filter(|id| *id != core.id && !answered(m, *id)).collect());
    let needed = voters.len() / 2 + 1;
    if voters.len() - silent.len() >= needed {
        return Ok(());
    }
    let silent: Vec<String> = silent.iter().map(u64::to_string).collect();
    Err(MemberError::Refused(format!(
        "{needed} of {} voting members would be needed, and {} did not answer",
        voters.len(),
        silent.join(", ")
    )))
}

/// Hands leadership to a voter: the one that is wanted, or the one that is furthest along.
pub(crate) async fn transfer(core: &Core, wanted: Option<u64>) -> Result<(), StoreError> {
    if !core.leads() {
        return Err(StoreError::NoLeader);
    }
    if wanted == Some(core.id) {
        return Ok(());
    }
    let target = core.metrics(|metrics| {
        let voters = metrics.membership_config.membership().voter_ids();
        let able = voters.filter(|id| *id != core.id && answered(metrics, *id));
        let able = able.filter(|id| wanted.is_none_or(|wanted| wanted == *id));
        able.max_by_key(|id| matched(metrics, *id))
    });
    let target = target.ok_or(StoreError::NoSuccessor)?;
    core.raft.trigger().transfer_leader(target).await.map_err(|_| StoreError::Stopped)?;
    let started = Instant::now();
    while started.elapsed() < HAND_OVER {
        let leader = core.metrics(|metrics| metrics.current_leader);
        if leader.is_some_and(|leader| leader != core.id) {
            return Ok(());
        }
        rt::sleep(LOOK).await;
    }
    Err(StoreError::NoSuccessor)
}

fn failed(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MemberError::NoLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => {
            MemberError::Busy
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(other)) => MemberError::Refused(other.to_string()),
        _ => MemberError::Unknown,
    }
}
