//! `/kontiki/v1`: what Kubernetes' API has no words for: the members of the control plane.
//!
//! Invariants
//! - Reached by `system:masters` only; the API sees to that before these routes.
//! - `status` answers from this member's own memory, so it works without a leader. The writes in it are those
//!   that this member carried: only the sum over the members is the cluster's.
//! - `snapshot` holds everything that was acknowledged before it was asked for, unless what this member
//!   happens to have is asked for (`?local=true`).

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRef, Path, RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use jiff::Timestamp;
use kontiki_api::{Writes, writes::Share};
use kontiki_cache::Backend;
use kontiki_machinery::Status as ApiStatus;
use kontiki_model::{GroupResource, key};
use kontiki_store::{Member, MemberError, Role, Snapshot, Store};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    revoked::{self, Revoked, Target},
    servers,
};

const CHANGE: Duration = Duration::from_secs(30);
const NODES: GroupResource<'static> = GroupResource { group: "", resource: "nodes" };

/// What the routes answer from.
#[derive(Clone)]
struct Sources {
    backend: Backend,
    writes: Writes,
}

impl FromRef<Sources> for Store {
    fn from_ref(sources: &Sources) -> Self {
        Store::clone(&sources.backend)
    }
}

/// The routes.
pub fn routes(backend: Backend, writes: Writes) -> Router {
    Router::new()
        .route("/kontiki/v1/status", get(status))
        .route("/kontiki/v1/members", get(members))
        .route("/kontiki/v1/members/{member}", delete(remove))
        .route("/kontiki/v1/leader/transfer", post(transfer))
        .route("/kontiki/v1/certificates/revoked", get(revoked).post(revoke))
        .route("/kontiki/v1/data-keys", get(data_keys).post(rotate))
        .route("/kontiki/v1/snapshot", get(snapshot))
        .with_state(Sources { backend, writes })
}

async fn status(State(Sources { backend, writes }): State<Sources>) -> Response {
    let store: &Store = &backend;
    let snapshot = store.snapshot();
    let status = store.status().borrow().clone();
    let leader = status.members.iter().find(|m| Some(m.id) == status.leader).map(|m| m.name.clone());
    answer(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "server": status.name,
            "leader": leader,
            "term": status.term,
            "revision": snapshot.revision(),
            "members": list(store),
            "nodes": nodes(&snapshot),
            "writes": shares(&writes),
        }),
    )
}

/// Who wrote how much through this member in the last minute, the busiest first.
fn shares(writes: &Writes) -> Vec<Value> {
    let show =
        |share: Share| json!({"writer": share.writer.name(), "kind": share.kind, "per_second": share.per_second});
    writes.last_minute().into_iter().map(show).collect()
}

async fn members(State(store): State<Store>) -> Response {
    answer(StatusCode::OK, &json!({ "members": list(&store) }))
}

fn list(store: &Store) -> Vec<Value> {
    let status = store.status().borrow().clone();
    let records = servers::list(&store.snapshot());
    let show = |member: &Member| {
        let record = records.iter().find(|r| r.id == member.id);
        let this = member.id == status.id;
        json!({
            "name": member.name,
            "id": member.id,
            "role": match member.role {
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Learner => "learner",
            },
            "address": member.address,
            "api": record.map(|r| &r.api),
            "node": record.map(|r| &r.node),
            "version": record.map(|r| &r.version),
            "reachable": member.reachable || this,
            "term": if this { status.term } else { member.term },
            "applied": if this { Some(status.applied) } else { member.matched },
            "lag": member.lag,
        })
    };
    status.members.iter().map(show).collect()
}

fn nodes(snapshot: &Snapshot) -> Vec<Value> {
    let show = |node: Value| {
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions.and_then(|list| list.iter().find(|c| c["type"] == "Ready")).map(|c| c["status"].clone());
        let addresses = node["status"]["addresses"].as_array();
        let address =
            addresses.and_then(|list| list.iter().find(|a| a["type"] == "InternalIP")).map(|a| a["address"].clone());
        json!({
            "name": node["metadata"]["name"],
            "ready": ready == Some(json!("True")),
            "status": ready.unwrap_or_else(|| json!("Unknown")),
            "address": address,
            "schedulable": node["spec"]["unschedulable"] != json!(true),
        })
    };
    let stored = snapshot.range(key::prefix(NODES, None).as_bytes());
    stored.filter_map(|entry| serde_json::from_slice(&entry.value).ok()).map(show).collect()
}

async fn remove(State(store): State<Store>, Path(member): Path<String>) -> Response {
    let members = store.status().borrow().members.clone();
    let Some(found) = members.iter().find(|m| m.name == member || m.id.to_string() == member) else {
        return refuse(StatusCode::NOT_FOUND, "NotFound", &format!("there is no member {member:?}"));
    };
    match timeout(CHANGE, store.remove_member(found.id)).await {
        Ok(Ok(())) => answer(StatusCode::OK, &json!({"removed": found.name, "id": found.id})),
        Ok(Err(error)) => {
            let (code, reason) = match error {
                MemberError::Refused(_) | MemberError::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
                MemberError::NotFound(_) => (StatusCode::NOT_FOUND, "NotFound"),
                MemberError::Unknown => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            };
            refuse(code, reason, &error.to_string())
        }
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "Timeout", "the change of members is not known to have happened"),
    }
}

async fn revoked(State(store): State<Store>) -> Response {
    if let Err(error) = store.barrier().await {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string());
    }
    answer(StatusCode::OK, &Revoked::read(&store.snapshot()).show())
}

/// Expels who is named: the body is `{"name": …}` or `{"serial": …}`.
async fn revoke(State(store): State<Store>, body: Bytes) -> Response {
    let target = serde_json::from_slice::<Target>(&body).map_err(|error| error.to_string());
    let target = match target.and_then(|target| target.check().map(|()| target)) {
        Ok(target) => target,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, "BadRequest", &why),
    };
    match timeout(CHANGE, revoked::add(&store, &target, Timestamp::now())).await {
        Ok(Ok(())) => answer(StatusCode::OK, &json!({ "revoked": target })),
        Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string()),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "Timeout", "the certificates are not known to be revoked"),
    }
}

/// How many sealed values lie there under which data key; 0: values that are not sealed yet.
async fn data_keys(State(Sources { backend, .. }): State<Sources>) -> Response {
    if let Err(error) = backend.barrier().await {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string());
    }
    let mut forms: Vec<_> = backend.forms().into_iter().collect();
    forms.sort_unstable();
    let forms: Vec<_> = forms.into_iter().map(|(key, values)| json!({"key": key, "values": values})).collect();
    answer(StatusCode::OK, &json!({ "dataKeys": forms }))
}

async fn rotate(State(Sources { backend, .. }): State<Sources>) -> Response {
    match timeout(CHANGE, backend.rotate()).await {
        Ok(Ok(Some(number))) => answer(StatusCode::OK, &json!({"dataKey": number})),
        Ok(Ok(None)) => {
            refuse(StatusCode::CONFLICT, "Conflict", "nothing is sealed in this cluster: it has no key file")
        }
        Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string()),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "Timeout", "the new key is not known to be there"),
    }
}

async fn transfer(State(store): State<Store>) -> Response {
    match timeout(CHANGE, store.transfer_leadership(None)).await {
        Ok(Ok(())) => answer(StatusCode::OK, &json!({"transferred": true})),
        Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string()),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "Timeout", "the transfer is not known to have happened"),
    }
}

async fn snapshot(State(store): State<Store>, RawQuery(query): RawQuery) -> Response {
    if query.as_deref() != Some("local=true")
        && let Err(error) = store.barrier().await
    {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &error.to_string());
    }
    match store.backup().await {
        Ok(backup) => ([(CONTENT_TYPE, "application/octet-stream")], Body::from_stream(backup)).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &error.to_string()),
    }
}

fn refuse(code: StatusCode, reason: &str, message: &str) -> Response {
    answer(code, &ApiStatus::failure(code.as_u16(), reason, message))
}

fn answer(code: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("plain data");
    (code, [(CONTENT_TYPE, "application/json")], body).into_response()
}
