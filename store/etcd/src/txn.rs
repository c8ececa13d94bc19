//! Transactions: what etcd refuses before it looks at the state, and the way there and back.

use std::collections::HashSet;

use bytes::Bytes;
use kontiki_proto::etcd::{
    DeleteRangeResponse, PutResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    request_op::Request, response_op::Response as Answer,
};
use kontiki_store::{End, KeyRange, Op, Response, ResponseKind, Revision, Txn, TxnResult};
use tonic::Status;

use crate::{
    convert::{self, key_value, range_response},
    error,
};

/// Compares or operations at one level; what is nested gets what is left. etcd's default.
const MAX_OPS: usize = 128;

/// Checks and converts a transaction.
pub(crate) fn txn(request: TxnRequest) -> Result<Txn, Status> {
    check(&request, MAX_OPS)?;
    for ops in [&request.success, &request.failure] {
        touched(ops)?;
    }
    convert_txn(request)
}

/// As etcd: counts, empty keys and contradictions of each operation, in the order it looks at them.
fn check(request: &TxnRequest, allowed: usize) -> Result<(), Status> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = allowed.checked_sub(count).ok_or_else(error::too_many_ops)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::empty_key());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => drop(convert::query(range.clone())?),
            Some(Request::RequestPut(put)) => drop(convert::put(put.clone())?),
            Some(Request::RequestDeleteRange(delete)) => drop(convert::delete(delete.clone())?),
            Some(Request::RequestTxn(txn)) => check(txn, left)?,
            None => return Err(error::key_not_found()),
        }
    }
    Ok(())
}

/// The keys that a branch puts and the ranges that it deletes.
#[derive(Default)]
struct Touched {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Refuses branches that put a key twice, or put a key that they delete at the same or an outer level.
fn touched(ops: &[RequestOp]) -> Result<Touched, Status> {
    let mut all = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let range = KeyRange::of(delete.key.clone(), delete.range_end.clone());
            // etcd takes an open end for an inverted range here, and so misses what it overlaps.
            if range.end != End::Never {
                all.deletes.push(range);
            }
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            let (then, otherwise) = (touched(&inner.success)?, touched(&inner.failure)?);
            for key in &then.puts {
                if all.deletes(key) || !all.puts.insert(key.clone()) {
                    return Err(error::duplicate_key());
                }
            }
            for key in otherwise.puts {
                // Only one of the two branches is taken.
                let twice = !all.puts.insert(key.clone()) && !then.puts.contains(&key);
                if twice || all.deletes(&key) {
                    return Err(error::duplicate_key());
                }
            }
            all.deletes.extend(then.deletes);
            all.deletes.extend(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (all.deletes(&put.key) || !all.puts.insert(put.key.clone()))
        {
            return Err(error::duplicate_key());
        }
    }
    Ok(all)
}

fn convert_txn(request: TxnRequest) -> Result<Txn, Status> {
    let ops = |ops: Vec<RequestOp>| ops.into_iter().map(convert_op).collect::<Result<Vec<Op>, Status>>();
    Ok(Txn {
        compares: request.compare.into_iter().map(convert::compare).collect(),
        success: ops(request.success)?,
        failure: ops(request.failure)?,
        fence: None,
    })
}

fn convert_op(op: RequestOp) -> Result<Op, Status> {
    Ok(match op.request.ok_or_else(error::key_not_found)? {
        Request::RequestRange(range) => Op::Range(convert::query(range)?),
        Request::RequestPut(put) => convert::put(put)?,
        Request::RequestDeleteRange(delete) => convert::delete(delete)?,
        Request::RequestTxn(txn) => Op::Txn(convert_txn(txn)?),
    })
}

/// Whether all that it could do is read.
pub(crate) fn only_reads(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Range(_) => true,
        Op::Txn(inner) => only_reads(inner),
        Op::Put(_) | Op::Delete { .. } => false,
    })
}

/// Whether each of its operations is a read that need not be linearizable.
pub(crate) fn is_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

/// The answer to a transaction, without its header.
pub(crate) fn response(result: TxnResult) -> TxnResponse {
    let responses = result.responses.into_iter().map(|response| ResponseOp { response: Some(answer(response)) });
    TxnResponse { header: None, succeeded: result.succeeded, responses: responses.collect() }
}

fn answer(response: Response) -> Answer {
    let header = header(response.revision);
    match response.kind {
        ResponseKind::Put(prev) => {
            Answer::ResponsePut(PutResponse { header, prev_kv: prev.map(|entry| key_value(&entry)) })
        }
        ResponseKind::Delete(deleted, prev) => Answer::ResponseDeleteRange(DeleteRangeResponse {
            header,
            deleted: deleted.cast_signed(),
            prev_kvs: prev.iter().map(|entry| key_value(entry)).collect(),
        }),
        ResponseKind::Range(found) => {
            let mut range = range_response(found);
            range.header = header;
            Answer::ResponseRange(range)
        }
        // The store has answered what was asked of the past.
        ResponseKind::Past(_) => Answer::ResponseRange(range_response(kontiki_store::RangeResult::default())),
        ResponseKind::Txn(inner) => {
            let mut txn = self::response(inner);
            txn.header = Some(ResponseHeader::default());
            Answer::ResponseTxn(txn)
        }
    }
}

fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: revision.0.cast_signed(), ..ResponseHeader::default() })
}

#[cfg(test)]
mod tests {
    use kontiki_proto::etcd::{DeleteRangeRequest, PutRequest};

    use super::*;

    fn put(key: &'static str) -> RequestOp {
        let put = PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let (key, range_end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        RequestOp { request: Some(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: vec![], success, failure })) }
    }

    #[test]
    fn contradictions_are_refused_as_etcd_refuses_them() {
        for (name, ops, good) in [
            ("different keys", vec![put("a"), put("b"), delete("c", "")], true),
            ("a key put twice", vec![put("a"), put("a")], false),
            ("put and deleted", vec![put("a"), delete("a", "")], false),
            ("put and deleted by a range", vec![put("b"), delete("a", "c")], false),
            ("deleted twice", vec![delete("a", ""), delete("a", "c")], true),
            ("put at both levels", vec![put("a"), nested(vec![put("a")], vec![])], false),
            ("put by one of two branches", vec![nested(vec![put("a")], vec![put("a")])], true),
            ("put by two nested ones", vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], false),
            (
                "nested put, then nested delete",
                vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])],
                true,
            ),
            (
                "nested delete, then nested put",
                vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])],
                false,
            ),
        ] {
            let request = TxnRequest { compare: vec![], success: vec![], failure: ops };
            assert_eq!(txn(request).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn what_is_nested_gets_what_is_left_of_the_operations() {
        let puts = |count: usize| vec![delete("a", ""); count];
        let request = |success| TxnRequest { compare: vec![], success, failure: vec![] };
        assert!(txn(request(puts(128))).is_ok());
        assert!(txn(request(puts(129))).is_err());
        assert!(txn(request(vec![nested(puts(127), vec![])])).is_ok());
        assert!(txn(request(vec![nested(puts(128), vec![])])).is_err());
    }
}
