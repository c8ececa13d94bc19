//! What both ends of the way to the other members share.

use std::time::Duration;

use openraft::errors::{NetworkError, RPCError};

use crate::types::TypeConfig;

/// Larger than any message: a transaction is at most 1.5 MiB, a batch of entries little more.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Votes wait for the other side's disk.
pub(super) const VOTE: Duration = Duration::from_secs(1);

pub(super) type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Why a forwarded request has no answer.
pub(crate) enum ForwardError {
    /// It did not reach the other member.
    NotSent,
    /// It may have.
    Lost,
    /// It did, and could not be read there: the other member's program does not know it. It was not done.
    Refused,
}

pub(super) fn malformed(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}
