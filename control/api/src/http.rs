//! One HTTP request from its head to its answer.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use kontiki_machinery::access::Attributes;
use kontiki_machinery::subresource::NodeCall;
use kontiki_machinery::{Handler, Name, Status, Table, Verb};
use serde_json::Value;
use tower::ServiceExt;

use crate::auth::identity::MASTERS;
use crate::call::{Answer, Call, Input};
use crate::encode;
use crate::negotiate::{self, Form, clauses};
use crate::params::Params;
use crate::route::{ResourcePath, Route, route};
use crate::select;
use crate::server::Peer;
use crate::writes::{Effect, Writer};
use crate::{Api, PatchKind, User, discovery, health};

/// The largest body of a request.
const MAX_BODY: usize = 3 << 20;
/// How much of a larger one is read before the connection is given up.
const MAX_DISCARDED: usize = 16 << 20;
/// How long a client may take to send its body.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);
/// How long an answer waits for a body that nobody reads.
const DISCARD_TIME: std::time::Duration = std::time::Duration::from_secs(1);

/// Answers a request, whatever happens.
pub(crate) async fn handle(api: &Api, peer: &Peer, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    let mut body = Some(body);
    let accept = header(&head.headers, &ACCEPT);
    let mut label = Label { verb: "other", resource: Name::default() };
    let answered = AssertUnwindSafe(dispatch(api, peer, &mut head, &mut body, &mut label)).catch_unwind().await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => encode::error(&status, accept.as_deref()),
        Err(_) => {
            tracing::error!(verb = label.verb, resource = %label.resource, "a request handler panicked; this is a bug");
            encode::error(&Status::internal("the request could not be handled"), accept.as_deref())
        }
    };
    api.inner.metrics.observe(label.verb, label.resource, response.status().as_u16(), started.elapsed());
    if let Some(unread) = body {
        discard(unread).await;
    }
    response
}

/// Reads what nobody asked for, within limits, so that the connection can be used again.
async fn discard(body: Body) {
    let read = Limited::new(body, MAX_BODY).collect();
    let _ = tokio::time::timeout(DISCARD_TIME, read).await; // else the connection ends, as it may
}

pub(crate) fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// What a request is counted as.
struct Label {
    verb: &'static str,
    resource: Name,
}

async fn dispatch(
    api: &Api,
    peer: &Peer,
    head: &mut Parts,
    body: &mut Option<Body>,
    label: &mut Label,
) -> Result<Response<Body>, Status> {
    let user = api.authenticate(&head.headers, peer.user.as_deref()).await?;
    let table = api.registry().table();
    match route(&table, head.uri.path()) {
        Route::Resource(path) => resource(api, user, path, head, body, label).await,
        other => {
            let verb = head.method.as_str().to_ascii_lowercase();
            api.authorize(&user, &Attributes { verb: &verb, path: head.uri.path(), ..Attributes::default() })?;
            plain(api, &table, peer, &user, other, head, body).await
        }
    }
}

/// Everything that is not a resource.
async fn plain(
    api: &Api,
    table: &Table,
    peer: &Peer,
    user: &User,
    route: Route,
    head: &Parts,
    body: &mut Option<Body>,
) -> Result<Response<Body>, Status> {
    let accept = header(&head.headers, &ACCEPT);
    let accept = accept.as_deref();
    let params = Params::parse(head.uri.query());
    match route {
        Route::Unknown => return extra(api, user, head, body).await,
        Route::UnknownInApi => return Err(Status::no_such_resource()),
        _ if head.method != Method::GET => return Err(Status::method_not_allowed()),
        _ => {}
    }
    let document = |value: Value| encode::document(&value, accept, &params);
    match route {
        Route::Versions | Route::Groups => {
            let core = matches!(route, Route::Versions);
            if wants_aggregated(accept)? {
                return Ok(encode::json_bytes(
                    discovery::AGGREGATED,
                    encode::to_bytes(&discovery::aggregated(table, core)),
                ));
            }
            document(if core {
                discovery::core_versions(peer.local.ip(), peer.local.port())
            } else {
                discovery::group_list(table)
            })
        }
        Route::Group(group) => document(discovery::group(table, &group).ok_or_else(Status::no_such_resource)?),
        Route::GroupVersion(group, version) => document(discovery::resource_list(table, &group, &version)),
        Route::Version => document(version(api)),
        Route::OpenApiV2 => openapi(table.documents().v2(&git_version(api)), accept),
        Route::OpenApiV3(None) => Ok(encode::json_bytes("text/plain; charset=utf-8", table.documents().v3_index())),
        Route::OpenApiV3(Some(path)) => match table.documents().v3(&path) {
            Some(bytes) => openapi(bytes, accept),
            None => Ok(encode::empty(404)),
        },
        Route::Health(endpoint, check) => Ok(health::answer(api, endpoint, check.as_deref(), &params)),
        Route::Metrics => Ok(health::text(200, api.metrics_text())),
        Route::Root => document(root(table)),
        Route::Resource(_) | Route::Unknown | Route::UnknownInApi => Err(Status::no_such_resource()),
    }
}

/// Routes of the server that assembles us, for administrators; else 404 in plain text.
async fn extra(api: &Api, user: &User, head: &Parts, body: &mut Option<Body>) -> Result<Response<Body>, Status> {
    if !user.in_group(MASTERS) {
        return Ok(health::text(404, "404 page not found\n".into()));
    }
    let router = api.inner.config.extra_routes.clone();
    let data = whole(body.take().unwrap_or_default()).await?;
    let request = Request::from_parts(head.clone(), Body::from(data));
    let answered = router.oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    let unknown = response.status() == http::StatusCode::NOT_FOUND && !response.headers().contains_key(CONTENT_TYPE);
    Ok(if unknown { health::text(404, "404 page not found\n".into()) } else { response })
}

/// Whether the best acceptable form of a discovery document is the aggregated one.
fn wants_aggregated(accept: Option<&str>) -> Result<bool, Status> {
    for clause in clauses(accept) {
        let asks = |name: &str, value: &str| clause.param(name) == Some(value);
        if clause.media == negotiate::JSON && asks("as", "APIGroupDiscoveryList") && asks("g", "apidiscovery.k8s.io") {
            if asks("v", "v2") {
                return Ok(true);
            }
        } else if clause.param("as").is_none() {
            break;
        }
    }
    negotiate::object_form(accept).map(|_| false)
}

/// OpenAPI goes out as JSON; a client that takes only protobuf is told so.
fn openapi(bytes: Bytes, accept: Option<&str>) -> Result<Response<Body>, Status> {
    let json = clauses(accept).iter().any(|c| matches!(c.media.as_str(), "*/*" | "application/*" | "application/json"));
    if json { Ok(encode::json_bytes(negotiate::JSON, bytes)) } else { Err(Status::not_acceptable(&[negotiate::JSON])) }
}

fn git_version(api: &Api) -> String {
    format!("v1.37.0+kontiki.{}", api.inner.config.version)
}

fn version(api: &Api) -> Value {
    serde_json::json!({
        "major": "1", "minor": "37", "gitVersion": git_version(api),
        "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn root(table: &Table) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for def in table.rows().iter().filter(|def| !def.group.is_empty()) {
        for path in [format!("/apis/{}", def.group), format!("/apis/{}/{}", def.group, def.version)] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    serde_json::json!({ "paths": paths })
}

/// The verb of a method on a path; `None`: the path does not have the method.
fn verb(path: &ResourcePath, method: &Method, params: &Params) -> Option<Verb> {
    let watching = path.watch || params.flag("watch").unwrap_or(false);
    let across = path.def.namespaced() && path.namespace.is_none();
    let verb = match (method.as_str(), path.name.is_some(), &path.sub) {
        ("GET", false, _) if watching => Verb::Watch,
        ("GET", true, None) if path.watch => Verb::Watch,
        ("GET", false, _) => Verb::List,
        ("GET", true, _) => Verb::Get,
        _ if path.watch || across => return None,
        ("POST", false, _) => Verb::Create,
        ("DELETE", false, _) => Verb::DeleteCollection,
        ("POST", true, Some(_)) => Verb::Create,
        ("PUT", true, _) => Verb::Update,
        ("PATCH", true, _) => Verb::Patch,
        ("DELETE", true, _) => Verb::Delete,
        _ => return None,
    };
    let verbs = path.sub.as_ref().map_or(path.def.verbs, |sub| sub.verbs);
    verbs.contains(verb).then_some(verb)
}

async fn resource(
    api: &Api,
    user: User,
    path: ResourcePath,
    head: &mut Parts,
    body: &mut Option<Body>,
    label: &mut Label,
) -> Result<Response<Body>, Status> {
    let params = Params::parse(head.uri.query());
    let found = verb(&path, &head.method, &params);
    *label = Label { verb: found.map_or("other", Verb::as_str), resource: path.def.plural.clone() };
    let mut call = Call {
        api: api.clone(),
        writer: Writer::of(&user.groups),
        effect: Effect::default(),
        user,
        def: path.def,
        namespace: path.namespace,
        name: path.name,
        sub: path.sub,
        params,
        fence: None,
        warnings: Vec::new(),
    };
    let method = head.method.as_str().to_ascii_lowercase();
    let filter = select::parse(&call.def, &call.params, None).unwrap_or_default();
    api.authorize(
        &call.user,
        &call.attributes(found.map_or(method.as_str(), |verb| verb.as_str()), &filter.exact_fields()),
    )?;
    let verb = found.ok_or_else(Status::method_not_allowed)?;
    call.warnings.extend(call.def.deprecation.as_ref().map(ToString::to_string));
    let (accept, gzip) = (header(&head.headers, &ACCEPT), encode::accepts_gzip(&head.headers));
    let agent = header(&head.headers, &http::header::USER_AGENT).unwrap_or_default();
    let mut form = match verb {
        Verb::Watch => negotiate::watch_form(accept.as_deref())?,
        // The text of a log has one form only.
        _ if is_stream(&call) => Form::PLAIN,
        _ => negotiate::object_form(accept.as_deref())?,
    };
    form.pretty |= wants_pretty(&call.params, &agent);
    let answer = run(&mut call, verb, head, body, &form).await;
    let mut response = match answer {
        Ok(answer) => encode::answer(&call, answer, &form, gzip)
            .await
            .unwrap_or_else(|status| encode::error(&status, accept.as_deref())),
        Err(status) => encode::error(&status, accept.as_deref()),
    };
    encode::add_warnings(&mut response, &call.warnings);
    Ok(response)
}

fn is_stream(call: &Call) -> bool {
    call.sub.as_ref().is_some_and(|sub| matches!(sub.handler, Handler::Node(..)))
}

/// Asked for, or a person's tool that did not say otherwise.
fn wants_pretty(params: &Params, agent: &str) -> bool {
    params.flag("pretty").unwrap_or_else(|| ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool)))
}

async fn run(
    call: &mut Call,
    verb: Verb,
    head: &mut Parts,
    body: &mut Option<Body>,
    form: &Form,
) -> Result<Answer, Status> {
    if let Some(Handler::Node(asked, on)) = call.sub.as_ref().map(|sub| sub.handler.clone()) {
        return match asked {
            NodeCall::Log => call.log(on).await,
            NodeCall::Stream => call.stream(on, head).await,
        };
    }
    match verb {
        Verb::Get => return call.read_object().await,
        Verb::List => return call.list().await,
        Verb::Watch => return call.watch(form.clone()).await,
        _ => {}
    }
    let content_type = header(&head.headers, &CONTENT_TYPE);
    let data = whole(body.take().unwrap_or_default()).await?;
    if verb == Verb::Patch {
        let kind = patch_kind(content_type.as_deref())?;
        return call.patch(kind, data).await;
    }
    let input = Input::Bytes { content_type, data };
    match verb {
        Verb::Create => call.post(input).await,
        Verb::Update => call.update(input).await,
        Verb::Delete => {
            let request = call.delete_request(Some(input))?;
            call.delete(&request).await
        }
        _ => {
            let request = call.delete_request(Some(input))?;
            call.delete_collection(&request).await
        }
    }
}

fn patch_kind(content_type: Option<&str>) -> Result<PatchKind, Status> {
    match content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => Err(Status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ])),
        _ => Err(Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type")
            .with_details(Default::default())),
    }
}

/// The whole body, within limits of size and time.
async fn whole(body: Body) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_TIME, read_body(body)).await {
        Ok(read) => read,
        Err(_) => Err(Status::failure(408, "Timeout", "the body took too long to arrive")),
    }
}

/// Of a body that is too large a little more is read and thrown away: a client that is still
/// writing would otherwise never see the answer.
async fn read_body(mut body: Body) -> Result<Bytes, Status> {
    let (mut kept, mut seen) = (BytesMut::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= MAX_BODY {
            kept.extend_from_slice(&data);
        } else if seen > MAX_DISCARDED {
            break;
        }
    }
    if seen > MAX_BODY { Err(Status::too_large(format!("limit is {MAX_BODY}"))) } else { Ok(kept.freeze()) }
}
