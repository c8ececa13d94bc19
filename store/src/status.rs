//! How the group does, as a member sees it. Plain data; `raft::reporter` makes it.

use std::time::Instant;

use kontiki_state::Term;

/// A member's part in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes.
    Follower,
    /// Receives the log, does not vote yet.
    Learner,
}

/// One member as seen from here. Only the leader knows how far the others are.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// Member id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Peer address, `host:port`.
    pub address: String,
    /// Where it serves clients of the etcd API, as far as it has told.
    pub client_urls: Vec<String>,
    /// Its part.
    pub role: Role,
    /// Whether it answered lately.
    pub reachable: bool,
    /// Index of the last log entry known to be durable there.
    pub matched: Option<u64>,
    /// Log entries it is behind by.
    pub lag: Option<u64>,
    /// Its term, as far as known.
    pub term: Term,
}

/// This member's view of the group.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// This member's name.
    pub name: String,
    /// Who leads.
    pub leader: Option<u64>,
    /// Current term.
    pub term: Term,
    /// Whether this member leads and its lease is valid.
    pub is_leader: bool,
    /// On the leader: when a quorum last confirmed it.
    pub last_quorum_ack: Option<Instant>,
    /// Index of the last applied log entry.
    pub applied: u64,
    /// Index of the last log entry here.
    pub last_log: u64,
    /// All members, by id.
    pub members: Vec<Member>,
}
