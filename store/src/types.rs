//! openraft's type parameters, chosen once.
//!
//! `leader_id_std` gives at most one leader per term, which is what makes a term a fence.

use std::fmt;

use openraft::vote::leader_id_std;
use serde::{Deserialize, Serialize};

use kontiki_state::{
    EntryId, Term,
    codec::{Malformed, Reader, Writer},
    command::{Command, Outcome},
};

/// What the group knows about a member.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Member name.
    pub name: String,
    /// Peer address, `host:port`.
    pub address: String,
    /// Where it serves clients of the etcd API.
    #[serde(default)]
    pub client_urls: Vec<String>,
    /// A learner that is to vote as soon as it has caught up.
    #[serde(default)]
    pub promote: bool,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

openraft::declare_raft_types!(
    /// The store's choice of types for openraft.
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::rt::Runtime,
);

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeader = leader_id_std::CommittedLeaderId<u64>;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogEntry = openraft::Entry<CommittedLeader, Payload>;
pub(crate) type Payload = openraft::EntryPayload<Command, u64, Node>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, Node>;
pub(crate) type RaftSnapshot<D> = openraft::Snapshot<CommittedLeader, u64, Node, D>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// The id of the entry that the leader of `term` put at `index`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::new(term), index)
}

/// An entry's id without openraft's types.
pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: Term(id.leader_id.term), index: id.index }
}

/// And back.
pub(crate) fn of_entry_id(id: EntryId) -> LogId {
    log_id(id.term.0, id.index)
}

/// Writes openraft's values.
pub(crate) trait WriteRaft {
    fn log_id(&mut self, id: Option<&LogId>);
    fn vote(&mut self, vote: &Vote);
}

impl WriteRaft for Writer {
    fn log_id(&mut self, id: Option<&LogId>) {
        self.entry_id(id.map(entry_id));
    }

    fn vote(&mut self, vote: &Vote) {
        self.varint(vote.leader_id.term);
        self.varint(vote.leader_id.voted_for);
        self.bool(vote.committed);
    }
}

/// Reads them back.
pub(crate) trait ReadRaft {
    fn log_id(&mut self) -> Result<Option<LogId>, Malformed>;
    fn vote(&mut self) -> Result<Vote, Malformed>;
}

impl ReadRaft for Reader {
    fn log_id(&mut self) -> Result<Option<LogId>, Malformed> {
        Ok(self.entry_id()?.map(of_entry_id))
    }

    fn vote(&mut self) -> Result<Vote, Malformed> {
        let (term, node, committed) = (self.varint()?, self.varint()?, self.bool()?);
        Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
    }
}
