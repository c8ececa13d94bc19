//! A question of a history as etcd's requests, and the answer back.
//!
//! What is counted as failed is only what the store refused before it could act: a request it calls wrong,
//! and a connection that was never made. Everything else that is not an answer is unknown.

use std::time::Duration;

use kontiki_etcd_tests::client::Clients;
use kontiki_proto::etcd::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, compare::TargetUnion, request_op::Request, response_op::Response,
};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::history::{Answer, Ask, Guard, Item, Outcome, Part, Rev, Step};

/// "From here to the end", as a range's end.
const TO_THE_END: &[u8] = b"\0";

/// Asks, and waits so long for an answer.
pub async fn ask(clients: &mut Clients, ask: &Ask, limit: Duration) -> Outcome {
    match timeout(limit, send(clients, ask)).await {
        Ok(Ok(answer)) => Outcome::Ok(answer),
        Ok(Err(status)) if refused(&status) => Outcome::Failed(short(&status)),
        Ok(Err(status)) => Outcome::Unknown(short(&status)),
        Err(_) => Outcome::Unknown("no answer in time".into()),
    }
}

/// Whether the store cannot have acted.
#[must_use]
pub fn refused(status: &Status) -> bool {
    let wrong = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::PermissionDenied
    );
    wrong || format!("{status:?}").contains("ConnectError")
}

/// An error in few words.
#[must_use]
pub fn short(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

async fn send(clients: &mut Clients, ask: &Ask) -> Result<Answer, Status> {
    if ask.guards.is_empty() && ask.then.len() == 1 {
        let (header, part) = match &ask.then[0] {
            Step::Put { key, value, lease } => {
                (clients.kv.put(put(key, value, *lease)).await?.into_inner().header, Part::Put)
            }
            Step::Delete { key } => {
                let answer = clients.kv.delete_range(delete(key)).await?.into_inner();
                (answer.header, deleted(&answer))
            }
            Step::Get { key } => {
                let answer = clients.kv.range(range(key, None, ask.serializable)).await?.into_inner();
                (answer.header, items(&answer))
            }
            Step::Range { from, to } => {
                let answer = clients.kv.range(range(from, Some(to), ask.serializable)).await?.into_inner();
                (answer.header, items(&answer))
            }
        };
        return Ok(Answer { succeeded: true, revision: revision(header.as_ref()), parts: vec![part] });
    }
    let operations = |steps: &[Step]| steps.iter().map(|step| operation(step, ask.serializable)).collect();
    let request = TxnRequest {
        compare: ask.guards.iter().map(compare).collect(),
        success: operations(&ask.then),
        failure: operations(&ask.otherwise),
    };
    let answer = clients.kv.txn(request).await?.into_inner();
    let parts = answer.responses.iter().filter_map(part).collect();
    Ok(Answer { succeeded: answer.succeeded, revision: revision(answer.header.as_ref()), parts })
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Default::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn range(from: &str, to: Option<&str>, serializable: bool) -> RangeRequest {
    let key = if from.is_empty() { TO_THE_END.into() } else { from.to_owned().into() };
    let range_end = match to {
        None => Vec::new().into(),
        Some("") => TO_THE_END.into(),
        Some(to) => to.to_owned().into(),
    };
    RangeRequest { key, range_end, serializable, ..Default::default() }
}

fn operation(step: &Step, serializable: bool) -> RequestOp {
    let request = match step {
        Step::Put { key, value, lease } => Request::RequestPut(put(key, value, *lease)),
        Step::Delete { key } => Request::RequestDeleteRange(delete(key)),
        Step::Get { key } => Request::RequestRange(range(key, None, serializable)),
        Step::Range { from, to } => Request::RequestRange(range(from, Some(to), serializable)),
    };
    RequestOp { request: Some(request) }
}

fn compare(guard: &Guard) -> Compare {
    let (target, union) = match (&guard.value, guard.by_value) {
        (Some(value), true) => (3, TargetUnion::Value(value.clone().into())),
        _ => (2, TargetUnion::ModRevision(guard.revision)),
    };
    Compare { result: 0, target, key: guard.key.clone().into(), target_union: Some(union), ..Default::default() }
}

fn revision(header: Option<&ResponseHeader>) -> Rev {
    header.map_or(0, |header| header.revision)
}

fn part(answer: &ResponseOp) -> Option<Part> {
    Some(match answer.response.as_ref()? {
        Response::ResponsePut(_) => Part::Put,
        Response::ResponseDeleteRange(answer) => deleted(answer),
        Response::ResponseRange(answer) => items(answer),
        Response::ResponseTxn(_) => return None,
    })
}

fn deleted(answer: &DeleteRangeResponse) -> Part {
    Part::Deleted(answer.deleted)
}

fn items(answer: &RangeResponse) -> Part {
    Part::Items(answer.kvs.iter().map(item).collect())
}

/// A key as the store showed it.
#[must_use]
pub fn item(kv: &KeyValue) -> Item {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Item {
        key: text(&kv.key),
        value: text(&kv.value),
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}
