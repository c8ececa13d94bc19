//! etcd's error codes and texts, which its clients compare.

use kontiki_store::{HistoryError, MemberError, QueryError, ReadError, Refusal, StoreError, WriteError};
use tonic::{Code, Status};

pub(crate) fn empty_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

pub(crate) fn key_not_found() -> Status {
    Status::invalid_argument("etcdserver: key not found")
}

pub(crate) fn value_provided() -> Status {
    Status::invalid_argument("etcdserver: value is provided")
}

pub(crate) fn lease_provided() -> Status {
    Status::invalid_argument("etcdserver: lease is provided")
}

pub(crate) fn too_many_ops() -> Status {
    Status::invalid_argument("etcdserver: too many operations in txn request")
}

pub(crate) fn duplicate_key() -> Status {
    Status::invalid_argument("etcdserver: duplicate key given in txn request")
}

pub(crate) fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

pub(crate) fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

pub(crate) fn compacted() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
}

pub(crate) fn future_revision() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
}

pub(crate) fn lease_not_found() -> Status {
    Status::not_found("etcdserver: requested lease not found")
}

pub(crate) fn lease_ttl_too_large() -> Status {
    Status::out_of_range("etcdserver: too large lease TTL")
}

pub(crate) fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

pub(crate) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

fn timed_out() -> Status {
    Status::unavailable("etcdserver: request timed out")
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::LeaseNotFound => lease_not_found(),
        Refusal::LeaseExists => Status::failed_precondition("etcdserver: lease already exists"),
        Refusal::KeyNotFound => key_not_found(),
        Refusal::Compacted => compacted(),
        Refusal::Future => future_revision(),
        Refusal::Fenced | Refusal::Malformed => Status::unavailable(format!("etcdserver: {refusal}")),
    }
}

pub(crate) fn write(error: WriteError) -> Status {
    match error {
        WriteError::NoLeader => no_leader(),
        // Whether it happened is open: clients know this text for that.
        WriteError::Unknown => {
            Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure")
        }
        WriteError::DiskFull => Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
        WriteError::TooLarge => too_large(),
        WriteError::Refused(refusal) => refused(refusal),
        WriteError::Fenced => refused(Refusal::Fenced),
        WriteError::Stopped => stopped(),
    }
}

pub(crate) fn read(error: ReadError) -> Status {
    match error {
        ReadError::NoLeader => no_leader(),
        ReadError::Behind => timed_out(),
        ReadError::Stopped => stopped(),
    }
}

pub(crate) fn history(error: HistoryError) -> Status {
    match error {
        HistoryError::Compacted { .. } => compacted(),
        HistoryError::Future { .. } => future_revision(),
        HistoryError::Storage(detail) => Status::internal(detail),
    }
}

pub(crate) fn query(error: QueryError) -> Status {
    match error {
        QueryError::Read(error) => read(error),
        QueryError::History(error) => history(error),
    }
}

pub(crate) fn member(error: &MemberError) -> Status {
    match error {
        MemberError::NotFound(_) => Status::not_found("etcdserver: member not found"),
        MemberError::Conflict(_) => Status::failed_precondition("etcdserver: Peer URLs already exists"),
        MemberError::NotCaughtUp(_) => {
            Status::failed_precondition("etcdserver: can only promote a learner member which is in sync with leader")
        }
        MemberError::Refused(why) => Status::failed_precondition(format!(
            "etcdserver: re-configuration failed due to not enough started members: {why}"
        )),
        MemberError::Busy => {
            Status::unavailable("etcdserver: too many requests: another membership change is in progress")
        }
        MemberError::NoLeader => no_leader(),
        MemberError::Unknown => timed_out(),
        MemberError::Stopped => stopped(),
    }
}

pub(crate) fn moving(error: &StoreError) -> Status {
    match error {
        StoreError::NoSuccessor => Status::unavailable("etcdserver: request timed out, leader transfer took too long"),
        StoreError::NoLeader => no_leader(),
        StoreError::Stopped => stopped(),
        other => Status::new(Code::Internal, other.to_string()),
    }
}
