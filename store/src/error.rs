//! Errors by what the caller does next. "Unknown" is never folded into "failed".

use kontiki_model::Revision;

use kontiki_state::Refusal;

/// The store could not be opened. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("{dir} is in use by another process")]
    Locked { dir: String },
    /// The directory belongs to somebody else.
    #[error("{dir} is not this member's data: {reason}")]
    Foreign { dir: String, reason: String },
    /// The data is damaged.
    #[error("{dir} is damaged: {reason}; move it away and join the cluster again")]
    Corrupt { dir: String, reason: String },
    /// The member stopped itself, because its state was not the others'.
    #[error(
        "{dir} must not be used any more: {reason}; remove the member, move the directory away, and add the member again"
    )]
    Halted { dir: String, reason: String },
    /// The data is of a later program.
    #[error("{dir} holds entries of a later program: {reason}; start this member with that program again")]
    Later { dir: String, reason: String },
    /// The file system refused.
    #[error("cannot use {dir}: {reason}")]
    Io { dir: String, reason: String },
    /// The peer address is taken or not ours.
    #[error("cannot listen on {addr}: {reason}")]
    Listen { addr: std::net::SocketAddr, reason: String },
    /// Certificates or settings make no sense.
    #[error("bad configuration: {0}")]
    Config(String),
}

/// An operation on the group as a whole failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The group exists already.
    #[error("this member already belongs to a cluster")]
    AlreadyInitialized,
    /// Nobody leads, or it could not be reached in time.
    #[error("no leader")]
    NoLeader,
    /// No other voter could take over.
    #[error("no other member can lead")]
    NoSuccessor,
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
    /// The disk failed or is full.
    #[error("storage: {0}")]
    Storage(String),
}

/// A transaction was not (known to be) done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nobody leads within the deadline; it was not proposed and will not happen.
    #[error("no leader")]
    NoLeader,
    /// It may or may not have happened, or may still happen.
    #[error("the outcome is unknown: contact was lost while committing")]
    Unknown,
    /// The writer's term is over; nothing was done.
    #[error("the writer's leadership is over")]
    Fenced,
    /// The leader's disk is full; nothing was done.
    #[error("the disk is full")]
    DiskFull,
    /// Larger than the store takes; nothing was done.
    #[error("the transaction is too large")]
    TooLarge,
    /// The state is not what it asks for; nothing was done.
    #[error("{0}")]
    Refused(Refusal),
    /// The store has stopped; nothing was done.
    #[error("the store has stopped")]
    Stopped,
}

/// A linearizable read was not possible within the deadline. Safe to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or the leader could not confirm that it does.
    #[error("no leader")]
    NoLeader,
    /// This member did not catch up in time.
    #[error("this member is behind the leader")]
    Behind,
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}

/// A query could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A linearizable answer was not possible.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The past asked for cannot be told.
    #[error("{0}")]
    History(#[from] HistoryError),
}

/// The past asked for cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It is gone. `oldest` is the oldest revision that can still be read.
    #[error("required revision has been compacted; the oldest is {oldest}")]
    Compacted { oldest: Revision },
    /// It has not happened here yet.
    #[error("required revision is a future revision; the current one is {current}")]
    Future { current: Revision },
    /// Reading the disk failed.
    #[error("reading history: {0}")]
    Storage(String),
}

/// A change of membership was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// It would leave the group without a working majority, or is otherwise unwise.
    #[error("refused: {0}")]
    Refused(String),
    /// Another member has this id, name or address.
    #[error("{0}")]
    Conflict(String),
    /// There is no such member.
    #[error("no member {0}")]
    NotFound(u64),
    /// Another change is under way.
    #[error("another membership change is in progress")]
    Busy,
    /// The new member did not catch up in time; it stays a learner and the call can be repeated.
    #[error("member {0} did not catch up in time; it stays a learner, try again")]
    NotCaughtUp(u64),
    /// Nobody leads.
    #[error("no leader")]
    NoLeader,
    /// The outcome is unknown.
    #[error("the outcome is unknown: contact was lost while committing")]
    Unknown,
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}
