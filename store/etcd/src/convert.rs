//! Between etcd's messages and the store's types.

use bytes::Bytes;
use kontiki_proto::etcd::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, compare, range_request,
};
use kontiki_store::{CompareOp, Entry, KeyRange, Op, Order, Put, PutLease, RangeQuery, RangeResult, SortBy, Target};
use tonic::Status;

use crate::error;

/// A key as clients see it.
pub(crate) fn key_value(entry: &Entry) -> KeyValue {
    KeyValue {
        key: entry.key.clone(),
        create_revision: entry.create_revision.0.cast_signed(),
        mod_revision: entry.mod_revision.0.cast_signed(),
        version: entry.version.cast_signed(),
        value: entry.value.clone(),
        lease: entry.lease,
    }
}

/// A range's answer, without its header.
pub(crate) fn range_response(found: RangeResult) -> RangeResponse {
    RangeResponse {
        header: None,
        kvs: found.entries.iter().map(|entry| key_value(entry)).collect(),
        more: found.more,
        count: found.count.cast_signed(),
    }
}

/// A number that etcd takes for "none" when it is negative.
fn or_none(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}

/// A range of a transaction.
pub(crate) fn query(request: RangeRequest) -> Result<RangeQuery, Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    let order = match range_request::SortOrder::try_from(request.sort_order) {
        Ok(range_request::SortOrder::None) => Order::None,
        Ok(range_request::SortOrder::Ascend) => Order::Ascend,
        Ok(range_request::SortOrder::Descend) => Order::Descend,
        Err(_) => return Err(error::invalid_sort()),
    };
    let by = match range_request::SortTarget::try_from(request.sort_target) {
        Ok(range_request::SortTarget::Key) => SortBy::Key,
        Ok(range_request::SortTarget::Version) => SortBy::Version,
        Ok(range_request::SortTarget::Create) => SortBy::Create,
        Ok(range_request::SortTarget::Mod) => SortBy::Mod,
        Ok(range_request::SortTarget::Value) => SortBy::Value,
        Err(_) => return Err(error::invalid_sort()),
    };
    Ok(RangeQuery {
        range: KeyRange::of(request.key, request.range_end),
        revision: request.revision,
        limit: or_none(request.limit),
        order,
        by,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
    })
}

pub(crate) fn put(request: PutRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::lease_provided());
    }
    Ok(Op::Put(Put {
        key: request.key,
        value: (!request.ignore_value).then_some(request.value),
        expires: None,
        lease: if request.ignore_lease { PutLease::Keep } else { PutLease::Set(request.lease) },
        prev: request.prev_kv,
    }))
}

pub(crate) fn delete(request: DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(error::empty_key());
    }
    Ok(Op::Delete { range: KeyRange::of(request.key, request.range_end), prev: request.prev_kv })
}

pub(crate) fn compare(request: Compare) -> kontiki_store::Compare {
    use compare::{CompareResult, CompareTarget, TargetUnion as Union};
    let number = |union: Option<Union>, of: fn(Union) -> Option<i64>| union.and_then(of).unwrap_or_default();
    let (union, range) = (request.target_union, KeyRange::of(request.key, request.range_end));
    // A value of another kind than the target counts as that kind's zero.
    let target =
        match CompareTarget::try_from(request.target) {
            Ok(CompareTarget::Version) => {
                Some(Target::Version(number(union, |u| if let Union::Version(n) = u { Some(n) } else { None })))
            }
            Ok(CompareTarget::Create) => Some(Target::CreateRevision(number(union, |u| {
                if let Union::CreateRevision(n) = u { Some(n) } else { None }
            }))),
            Ok(CompareTarget::Mod) => {
                Some(Target::ModRevision(number(union, |u| if let Union::ModRevision(n) = u { Some(n) } else { None })))
            }
            Ok(CompareTarget::Lease) => {
                Some(Target::Lease(number(union, |u| if let Union::Lease(n) = u { Some(n) } else { None })))
            }
            Ok(CompareTarget::Value) => {
                Some(Target::Value(if let Some(Union::Value(value)) = union { value } else { Bytes::new() }))
            }
            Err(_) => None,
        };
    let op = match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => Some(CompareOp::Eq),
        Ok(CompareResult::Greater) => Some(CompareOp::Gt),
        Ok(CompareResult::Less) => Some(CompareOp::Lt),
        Ok(CompareResult::NotEqual) => Some(CompareOp::Ne),
        Err(_) => None,
    };
    let (op, target) = match (op, target) {
        (Some(op), Some(target)) => (op, target),
        // An unknown comparison holds, save that one on values still needs the key.
        (None, Some(Target::Value(_))) => (CompareOp::Gt, Target::Version(0)),
        (None, _) => ALWAYS,
        // An unknown target is equal to whatever it is held against.
        (Some(CompareOp::Eq), None) => ALWAYS,
        (Some(_), None) => NEVER,
    };
    kontiki_store::Compare { range, op, target }
}

const ALWAYS: (CompareOp, Target) = (CompareOp::Gt, Target::Version(i64::MIN));
const NEVER: (CompareOp, Target) = (CompareOp::Lt, Target::Version(i64::MIN));
