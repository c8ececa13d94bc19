//! Answers in one form, so that equal means equal.

use std::fmt;

use kontiki_proto::etcd as pb;
use tonic::{Response, Status};

use super::Item;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Failed {
        code: tonic::Code,
        message: String,
    },
    Put(pb::PutResponse),
    Range(pb::RangeResponse),
    /// All chunks merged.
    RangeStream(pb::RangeResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    ShortLease(pb::LeaseGrantResponse, pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    Leases(pb::LeaseLeasesResponse),
    /// What a watch stream said to one request; nothing, if it owes no answer.
    Watch(Vec<(i64, Item)>),
}

impl Answer {
    pub fn of<T>(outcome: Result<Response<T>, Status>, wrap: impl FnOnce(T) -> Self) -> Self {
        match outcome {
            Ok(answer) => wrap(answer.into_inner()).normalized(),
            Err(status) => Self::Failed { code: status.code(), message: status.message().to_owned() },
        }
    }

    /// Without who answered and in which term, and with a lease's keys in order.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        match &mut self {
            Self::Failed { .. } | Self::Watch(_) => {}
            Self::Put(answer) => bare(&mut answer.header),
            Self::Range(answer) | Self::RangeStream(answer) => bare(&mut answer.header),
            Self::Delete(answer) => bare(&mut answer.header),
            Self::Txn(answer) => bare_txn(answer),
            Self::Compact(answer) => bare(&mut answer.header),
            Self::Grant(answer) => bare(&mut answer.header),
            Self::Revoke(answer) => bare(&mut answer.header),
            Self::ShortLease(grant, revoke) => {
                bare(&mut grant.header);
                bare(&mut revoke.header);
            }
            Self::TimeToLive(answer) => {
                bare(&mut answer.header);
                answer.keys.sort();
            }
            Self::KeepAlive(answer) => bare(&mut answer.header),
            Self::Leases(answer) => {
                bare(&mut answer.header);
                // By what is left of them: two of them may have the same, or a second more or less.
                answer.leases.sort_by_key(|lease| lease.id);
            }
        }
        self
    }

    /// Equal, but for one second of what is left of a lease.
    pub fn same(&self, other: &Self) -> bool {
        if let (Self::TimeToLive(one), Self::TimeToLive(two)) = (self, other) {
            let near = one.ttl == two.ttl || (one.ttl.min(two.ttl) >= 0 && one.ttl.abs_diff(two.ttl) <= 1);
            let timeless = |answer: &pb::LeaseTimeToLiveResponse| {
                let answer = pb::LeaseTimeToLiveResponse { ttl: 0, ..answer.clone() };
                Self::TimeToLive(answer).normalized()
            };
            return near && timeless(one) == timeless(two);
        }
        self == other
    }

    /// Refused for what the store holds or does not, whatever of that was told.
    pub fn refused_by_state(&self) -> bool {
        const REASONS: [&str; 4] = [
            "etcdserver: requested lease not found",
            "etcdserver: key not found",
            "etcdserver: mvcc: required revision is a future revision",
            "etcdserver: mvcc: required revision has been compacted",
        ];
        matches!(self, Self::Failed { message, .. } if REASONS.contains(&message.as_str()))
    }

    /// The store's revision as the answer tells it.
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Failed { .. } | Self::Watch(_) => return None,
            Self::Put(answer) => &answer.header,
            Self::Range(answer) | Self::RangeStream(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Compact(answer) => &answer.header,
            Self::Grant(answer) => &answer.header,
            Self::Revoke(answer) | Self::ShortLease(_, answer) => &answer.header,
            Self::TimeToLive(answer) => &answer.header,
            Self::KeepAlive(answer) => &answer.header,
            Self::Leases(answer) => &answer.header,
        };
        header.as_ref().map(|header| header.revision)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

pub fn bare(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader { revision: header.revision, ..pb::ResponseHeader::default() };
    }
}

fn bare_txn(txn: &mut pb::TxnResponse) {
    bare(&mut txn.header);
    for op in &mut txn.responses {
        match &mut op.response {
            Some(pb::response_op::Response::ResponseRange(answer)) => bare(&mut answer.header),
            Some(pb::response_op::Response::ResponsePut(answer)) => bare(&mut answer.header),
            Some(pb::response_op::Response::ResponseDeleteRange(answer)) => bare(&mut answer.header),
            Some(pb::response_op::Response::ResponseTxn(answer)) => bare_txn(answer),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(member: u64, revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { cluster_id: 7, member_id: member, revision, raft_term: member })
    }

    fn range(member: u64) -> pb::RangeResponse {
        let kv = pb::KeyValue { key: "a".into(), mod_revision: 4, ..pb::KeyValue::default() };
        pb::RangeResponse { header: header(member, 5), kvs: vec![kv], more: false, count: 1 }
    }

    fn alike(one: pb::RangeResponse, two: pb::RangeResponse) -> bool {
        Answer::Range(one).normalized().same(&Answer::Range(two).normalized())
    }

    #[test]
    fn only_who_answered_is_left_out() {
        assert!(alike(range(1), range(2)));
        type Alter = fn(&mut pb::RangeResponse);
        let altered: [(&str, Alter); 6] = [
            ("header", |answer| answer.header = None),
            ("revision", |answer| answer.header = header(2, 6)),
            ("count", |answer| answer.count = 2),
            ("more", |answer| answer.more = true),
            ("keys", |answer| answer.kvs.clear()),
            ("lease", |answer| answer.kvs[0].lease = 1),
        ];
        for (what, alter) in altered {
            let mut other = range(2);
            alter(&mut other);
            assert!(!alike(range(1), other), "{what}");
        }
    }

    #[test]
    fn headers_inside_of_a_transaction_are_compared() {
        let txn = |inner: Option<pb::ResponseHeader>| {
            let put = pb::PutResponse { header: inner, prev_kv: None };
            let response = Some(pb::response_op::Response::ResponsePut(put));
            let responses = vec![pb::ResponseOp { response }];
            Answer::Txn(pb::TxnResponse { header: header(1, 5), succeeded: true, responses }).normalized()
        };
        assert!(txn(header(1, 5)).same(&txn(header(2, 5))));
        assert!(!txn(header(1, 5)).same(&txn(header(1, 4))));
        assert!(!txn(header(1, 5)).same(&txn(None)));
    }

    #[test]
    fn what_is_left_of_a_lease_may_differ_by_a_second() {
        let lease = |ttl, granted_ttl| {
            let keys = vec!["b".into(), "a".into()];
            Answer::TimeToLive(pb::LeaseTimeToLiveResponse { header: header(1, 5), id: 1, ttl, granted_ttl, keys })
        };
        assert!(lease(60, 60).same(&lease(59, 60)));
        for other in [lease(58, 60), lease(60, 61)] {
            assert!(!lease(60, 60).same(&other));
        }
        assert!(!lease(-1, 0).same(&lease(0, 0)), "gone is not nearly gone");
    }

    #[test]
    fn an_error_is_its_code_and_its_text() {
        let failed = |code, message: &str| Answer::Failed { code, message: message.to_owned() };
        let one = failed(tonic::Code::NotFound, "gone");
        assert!(one.same(&one.clone()));
        assert!(!one.same(&failed(tonic::Code::Unknown, "gone")));
        assert!(!one.same(&failed(tonic::Code::NotFound, "away")));
    }
}
