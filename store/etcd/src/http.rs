//! Which service a request is for: gRPC by its path, and the few plain endpoints that probes ask.

use std::{convert::Infallible, future::Future, pin::Pin};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use kontiki_proto::{
    etcd::{
        cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer,
    },
    etcd_encoded::watch_server::WatchServer,
};
use tonic::{Code, body::Body};
use tower::Service;

use crate::{Api, CLUSTER_VERSION, VERSION};

/// The largest message: etcd's largest request and as much again for what surrounds it.
const MAX_MESSAGE: usize = 2 << 20;

/// All services of one member.
#[derive(Clone)]
pub(crate) struct Router {
    api: Api,
    kv: KvServer<Api>,
    watch: WatchServer<Api>,
    lease: LeaseServer<Api>,
    cluster: ClusterServer<Api>,
    maintenance: MaintenanceServer<Api>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Router {
    pub fn new(api: Api) -> Self {
        Self {
            kv: KvServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE),
            watch: WatchServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE),
            lease: LeaseServer::new(api.clone()),
            cluster: ClusterServer::new(api.clone()),
            maintenance: MaintenanceServer::new(api.clone()),
            api,
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        // The generated services are handles: cloning one costs a reference count.
        match request.uri().path().split('/').nth(1).unwrap_or_default() {
            "etcdserverpb.KV" => {
                let answer = self.kv.clone().call(request);
                Box::pin(async move { answer.await.map(as_etcd) })
            }
            "etcdserverpb.Watch" => self.watch.clone().call(request),
            "etcdserverpb.Lease" => self.lease.clone().call(request),
            "etcdserverpb.Cluster" => self.cluster.clone().call(request),
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request),
            _ => {
                let api = self.api.clone();
                Box::pin(async move { Ok(plain(&api, &request).await) })
            }
        }
    }
}

/// gRPC here and in etcd's language answer a message that is too large with different codes.
fn as_etcd(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let out_of_range = headers.get("grpc-status").is_some_and(|code| code == "11");
    let too_large = |text: &HeaderValue| text.as_bytes().starts_with(b"Error,");
    if out_of_range && headers.get("grpc-message").is_some_and(too_large) {
        headers.insert("grpc-status", HeaderValue::from(Code::ResourceExhausted as i32));
        headers
            .insert("grpc-message", HeaderValue::from_static("grpc: received message larger than max (2097152 bytes)"));
    }
    response
}

async fn plain(api: &Api, request: &Request<Incoming>) -> Response<Body> {
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::unimplemented("etcdserver: this service is not served").into_http();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Method Not Allowed\n");
    }
    match request.uri().path() {
        "/health" => health(api, request.uri().query().unwrap_or_default()).await,
        "/livez" => text(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => match api.store.barrier().await {
            Ok(_) => text(StatusCode::OK, "text/plain", "ok\n"),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{error}\n")),
        },
        "/version" => {
            let body = serde_json::json!({"etcdserver": VERSION, "etcdcluster": CLUSTER_VERSION});
            text(StatusCode::OK, "application/json", body.to_string())
        }
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics(api)),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n"),
    }
}

/// As etcd's: healthy is who can answer a linearizable read (any read, if that is asked for).
async fn health(api: &Api, query: &str) -> Response<Body> {
    let serializable = query.split('&').any(|pair| pair == "serializable=true");
    let reason = if api.store.disk_is_full() && !query.contains("exclude=NOSPACE") {
        Some("ALARM NOSPACE".to_owned())
    } else if serializable {
        None
    } else {
        api.store.barrier().await.err().map(|error| match error {
            kontiki_store::ReadError::NoLeader => "RAFT NO LEADER".to_owned(),
            other => other.to_string(),
        })
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let healthy = reason.is_none().to_string();
    let body = serde_json::json!({"health": healthy, "reason": reason.unwrap_or_default()});
    text(status, "application/json", body.to_string())
}

/// The figures that etcd's dashboards and alerts look at, under etcd's names.
fn metrics(api: &Api) -> String {
    let status = api.status();
    let leads = u8::from(status.is_leader);
    let has_leader = u8::from(status.leader.is_some());
    let snapshot = api.store.snapshot();
    let (level, newest) = api.store.feature_level();
    let rows = [
        ("etcd_server_has_leader", "Whether or not a leader exists.", u64::from(has_leader)),
        ("etcd_server_is_leader", "Whether or not this member is a leader.", u64::from(leads)),
        ("etcd_server_proposals_applied_total", "Index of the last applied log entry.", snapshot.applied()),
        ("etcd_debugging_mvcc_current_revision", "The current revision of the store.", snapshot.revision().0),
        ("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction.", snapshot.compacted().0),
        ("etcd_debugging_mvcc_keys_total", "Total number of keys.", snapshot.len() as u64),
        ("kontiki_store_feature_level", "The feature level of the group.", u64::from(level)),
        ("kontiki_store_feature_level_max", "The newest feature level that this member admits.", u64::from(newest)),
        (
            "kontiki_store_state_checks_total",
            "Times that this member, leading, found all members' states equal.",
            api.store.times_found_equal(),
        ),
        (
            "kontiki_store_state_diverged",
            "Whether this member stopped because its state was not the others'.",
            u64::from(api.store.halted().is_some()),
        ),
        ("etcd_debugging_lease_total", "Number of leases.", snapshot.leases().len() as u64),
    ];
    rows.iter()
        .map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"))
        .collect()
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
