//! Groups that other servers serve: requests for them are passed on, in the name of whoever asked.
//!
//! Invariants
//! - Whoever asks has been authenticated and authorized here; the server behind learns who it is from `X-Remote-*`
//!   headers, which nobody else can set, and trusts them by the certificate that this master shows.
//! - Bodies, watches and upgraded connections go through as they come, both ways.
//! - What is stored here is never passed on. What is only measured here is, as soon as somebody else serves it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::join_all;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use kontiki_machinery::Table;
use kontiki_machinery::delegate::Delegate;
use kontiki_machinery::outcall::NoEndpoint;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::Value;
use tokio::time::timeout;

use crate::auth::identity::MASTERS;
use crate::health::text;
use crate::specs::Known;
use crate::{Aggregation, Api, User, forwarded};

/// How long a server may take until its answer begins.
const HEAD: Duration = Duration::from_secs(60);
/// How long a server may take to say what it serves, and how much that may be.
const LOOK: Duration = Duration::from_secs(5);
const LIST: usize = 4 << 20;
/// The same of its OpenAPI documents.
const PATIENCE: Duration = Duration::from_secs(30);
const SPEC: usize = 8 << 20;
/// What the key of an extra is escaped for, in the name of its header.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The server that a path is served by, if it is another.
pub(crate) fn server_of(api: &Api, table: &Table, path: &str) -> Option<Arc<Delegate>> {
    let aggregation = api.inner.config.aggregation.as_ref()?;
    let mut segments = path.strip_prefix("/apis/")?.split('/');
    let (group, version) = (segments.next()?, segments.next()?);
    if table.holds(group, version) { None } else { aggregation.delegates.find(group, version) }
}

/// The group that a path names, if others serve it.
pub(crate) fn group_of(api: &Api, path: &str) -> Option<String> {
    let group = path.strip_prefix("/apis/")?.trim_end_matches('/');
    let all = api.inner.config.aggregation.as_ref()?.delegates.all();
    all.iter().any(|delegate| delegate.group == group).then(|| group.to_owned())
}

/// Passes a request on, and gives what comes back.
pub(crate) async fn pass_on(
    api: &Api,
    delegate: &Delegate,
    user: &User,
    head: &mut Parts,
    body: Body,
) -> Response<Body> {
    if !delegate.available {
        return text(503, "service unavailable\n".into());
    }
    match exchange(api, delegate, user, head, body).await {
        Ok(response) => response,
        Err(why) => text(503, format!("error trying to reach service: {why}\n")),
    }
}

/// What came of asking a server behind what it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The group and version that it is to serve.
    pub group: String,
    /// See `group`.
    pub version: String,
    /// Why it cannot be used, as reason (a word) and text.
    pub outcome: Result<(), (&'static str, String)>,
}

impl Api {
    /// Asks every server behind what it serves: what they say is part of discovery from then on.
    pub async fn look_behind(&self) -> Vec<Looked> {
        let Some(aggregation) = self.inner.config.aggregation.as_ref() else { return Vec::new() };
        let all = aggregation.delegates.all();
        let looks = all.iter().map(|delegate| async move {
            let found = look(self, aggregation, delegate).await;
            let (group, version) = (delegate.group.clone(), delegate.version.clone());
            ((group, version), found)
        });
        let found = join_all(looks).await;
        let mut lists = self.inner.behind.lock();
        lists.retain(|at, _| found.iter().any(|(known, _)| known == at));
        found
            .into_iter()
            .map(|((group, version), found)| {
                let outcome = found.map(|list| drop(lists.insert((group.clone(), version.clone()), Arc::new(list))));
                Looked { group, version, outcome }
            })
            .collect()
    }

    /// Reads what servers behind that are available say of themselves in OpenAPI, if that has changed. One that does not
    /// answer now is known by what it said last.
    pub async fn read_openapi_behind(&self) {
        let Some(aggregation) = self.inner.config.aggregation.as_ref() else { return };
        let (all, specs) = (aggregation.delegates.all(), &self.inner.specs);
        let reads = all.iter().map(|delegate| async move {
            let before = specs.of(delegate);
            let known = if delegate.available { documents(self, delegate, before).await } else { before };
            (&**delegate, known)
        });
        let known = join_all(reads).await;
        specs.replace(known.into_iter());
    }
}

/// What is known of a server's documents after it was asked for them again.
async fn documents(api: &Api, delegate: &Delegate, before: Known) -> Known {
    let user = User::new("system:aggregator", &[]);
    let v2 = document(api, delegate, &user, ("/openapi/v2", before.tag()));
    let (v2, v3) = tokio::join!(v2, document(api, delegate, &user, ("/openapi/v3", None)));
    let (known, delegate) = (before.clone(), delegate.clone());
    // Documents may be long.
    tokio::task::spawn_blocking(move || before.after(&delegate, v2, v3)).await.unwrap_or(known)
}

async fn document(api: &Api, delegate: &Delegate, user: &User, asked: (&str, Option<&str>)) -> Option<Response<Bytes>> {
    let answer = timeout(PATIENCE, ask(api, delegate, user, asked, SPEC)).await;
    let answer = answer.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
    let told = |why: &String| tracing::debug!(group = delegate.group, path = asked.0, why, "no document from behind");
    answer.inspect_err(told).ok()
}

async fn look(api: &Api, aggregation: &Aggregation, delegate: &Delegate) -> Result<Value, (&'static str, String)> {
    aggregation.outbound.served(&delegate.target).map_err(|why| {
        let reason = match why {
            NoEndpoint::Service(_) => "ServiceNotFound",
            NoEndpoint::Port(_) => "ServicePortError",
            NoEndpoint::Endpoints(_) => "MissingEndpoints",
        };
        (reason, why.to_string())
    })?;
    let path = format!("/apis/{}/{}", delegate.group, delegate.version);
    let failed = |why: String| {
        let url = delegate.target.url();
        ("FailedDiscoveryCheck", format!("failing or missing response from {}{path}: {why}", url.trim_end_matches('/')))
    };
    let asking = async {
        let user = User::new("system:kube-aggregator", &[MASTERS]);
        let response = ask(api, delegate, &user, (&path, None), LIST).await?;
        if !response.status().is_success() {
            return Err(format!("bad status from {path}: {}", response.status().as_u16()));
        }
        serde_json::from_slice(response.body()).map_err(|error| error.to_string())
    };
    timeout(LOOK, asking).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())).map_err(failed)
}

/// Asks a server for a document in JSON of at most `longest` bytes, unless it is the one of this tag.
pub(crate) async fn ask(
    api: &Api,
    delegate: &Delegate,
    user: &User,
    (path, tag): (&str, Option<&str>),
    longest: usize,
) -> Result<Response<Bytes>, String> {
    let request = Request::get(path).header(ACCEPT, "application/json");
    let request = tag.into_iter().fold(request, |request, tag| request.header(IF_NONE_MATCH, tag));
    let (mut head, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
    let (head, body) = exchange(api, delegate, user, &mut head, Body::empty()).await?.into_parts();
    let body = Limited::new(body, longest).collect().await.map_err(|error| error.to_string())?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

async fn exchange(
    api: &Api,
    delegate: &Delegate,
    user: &User,
    head: &mut Parts,
    body: Body,
) -> Result<Response<Body>, String> {
    let Some(aggregation) = api.inner.config.aggregation.as_ref() else { return Err("nobody passes on".into()) };
    let client = head.extensions.remove::<OnUpgrade>().filter(|_| head.headers.contains_key(UPGRADE));
    let request = passed(delegate, user, head, body, client.is_some())?;
    let mut open = aggregation.outbound.open(&delegate.target, delegate.insecure).await?;
    let answered =
        timeout(HEAD, open.send_request(request)).await.map_err(|_| "context deadline exceeded".to_owned())?;
    let mut response = answered.map_err(|error| error.to_string())?;
    match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let server = hyper::upgrade::on(&mut response);
            api.inner.tasks.spawn(forwarded::join(client, server));
            Ok(response.map(|_| Body::empty()))
        }
        _ => Ok(plain(response)),
    }
}

/// The answer without what concerned the connection behind.
fn plain(response: Response<Incoming>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    forwarded::HOPS.iter().for_each(|name| drop(head.headers.remove(*name)));
    head.version = Version::HTTP_11;
    Response::from_parts(head, Body::new(body))
}

/// The request as the server behind gets it.
fn passed(delegate: &Delegate, user: &User, head: &Parts, body: Body, upgrades: bool) -> Result<Request<Body>, String> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request =
        Request::builder().method(head.method.clone()).uri(target).body(body).map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    for (name, value) in &head.headers {
        if !is_ours(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    let url = delegate.target.url();
    let host = url.trim_start_matches("https://").split('/').next().unwrap_or_default();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|error| error.to_string())?);
    forwarded::tell(&head.extensions, headers);
    tell_user(headers, user);
    Ok(request)
}

/// Whether a header is for this master only.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    forwarded::HOPS.contains(&name)
        || [AUTHORIZATION.as_str(), COOKIE.as_str(), HOST.as_str()].contains(&name)
        || name.starts_with("x-remote-")
        || name.starts_with("impersonate-")
}

fn tell_user(headers: &mut HeaderMap, user: &User) {
    let mut tell = |name: String, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    tell("x-remote-user".into(), &user.name);
    if !user.uid.is_empty() {
        tell("x-remote-uid".into(), &user.uid);
    }
    user.groups.iter().for_each(|group| tell("x-remote-group".into(), group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", percent_encode(key.as_bytes(), ESCAPED));
        values.iter().for_each(|value| tell(name.clone(), value));
    }
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::outcall::{Credentials, Place, Target};

    use super::*;

    #[test]
    fn the_server_behind_learns_who_asks_and_nothing_else_of_credentials() {
        let place = Place::Service { namespace: "n".into(), name: "s".into(), port: 443, path: String::new() };
        let delegate = Delegate {
            group: "g".into(),
            version: "v1".into(),
            target: Target { place, ca_bundle: Vec::new(), credentials: Credentials::default() },
            insecure: false,
            available: true,
            group_priority: 1,
            version_priority: 1,
        };
        let mut user = User::new("jane", &["a", "b"]);
        user.extra.insert("example.com/Scope".into(), vec!["x".into()]);
        let request = Request::get("https://api/apis/g/v1/things?limit=1")
            .header("authorization", "Bearer secret")
            .header("x-remote-user", "root")
            .header("x-remote-group", "system:masters")
            .header("impersonate-user", "root")
            .header("accept", "application/json")
            .header("connection", "keep-alive");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let passed = passed(&delegate, &user, &head, Body::empty(), false).expect("a request");
        assert_eq!(passed.uri(), "/apis/g/v1/things?limit=1");
        let headers: Vec<String> =
            passed.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        let mut sorted = headers.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "accept: application/json",
                "host: s.n.svc:443",
                "x-remote-extra-example.com%2fscope: x",
                "x-remote-group: a",
                "x-remote-group: b",
                "x-remote-user: jane",
            ]
        );
    }
}
