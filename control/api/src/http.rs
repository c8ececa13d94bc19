//! One HTTP request from its head to its answer.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use futures::FutureExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use kontiki_cache::Filter;
use kontiki_machinery::access::Attributes;
use kontiki_machinery::subresource::NodeCall;
use kontiki_machinery::{Handler, Name, Status, Subresource, Verb};
use tracing::instrument;

use crate::body::{discard, header, whole};
use crate::call::{Answer, Call, Input};
use crate::documents::plain;
use crate::encode;
use crate::negotiate::{self, Form};
use crate::params::Params;
use crate::route::{ResourcePath, Route, route};
use crate::select;
use crate::writes::{Effect, Writer};
use crate::{Api, PatchKind, User, deadline};

/// Where a connection comes from, to and by whom.
#[derive(Clone)]
pub(crate) struct Peer {
    pub local: SocketAddr,
    /// The user of the client certificate, if there was one.
    pub user: Option<Arc<User>>,
}

/// Answers a request, whatever happens.
#[instrument(name = "request", level = "debug", skip_all, fields(method = %request.method(), path = request.uri().path()))]
pub(crate) async fn handle(api: &Api, peer: &Peer, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    let mut body = Some(body);
    let accept = header(&head.headers, &ACCEPT);
    let mut label = Label { verb: "other", resource: Name::default(), started };
    let answered =
        AssertUnwindSafe(Box::pin(dispatch(api, peer, &mut head, &mut body, &mut label))).catch_unwind().await;
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

/// What a request is counted as.
struct Label {
    verb: &'static str,
    resource: Name,
    started: Instant,
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
            let asked = Attributes { verb: &verb, path: head.uri.path(), ..Attributes::default() };
            api.authorize(&user, &asked, deadline::longest(label.started)).await?;
            plain(api, &table, peer.local, &user, other, head, body).await
        }
    }
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
    *label = Label { verb: found.map_or("other", Verb::as_str), resource: path.def.plural.clone(), ..*label };
    let mut call = call(api, user, path, params, found, label.started)?;
    let method = head.method.as_str().to_ascii_lowercase();
    let asked = found.map_or(method.as_str(), |verb| verb.as_str());
    api.authorize(&call.user, &call.attributes(asked, &call.fields()), call.deadline).await?;
    let verb = found.ok_or_else(Status::method_not_allowed)?;
    call.warnings.extend(call.def.deprecation.as_ref().map(ToString::to_string));
    let (accept, gzip) = (header(&head.headers, &ACCEPT), encode::accepts_gzip(&head.headers));
    let form = form(&call, verb, &head.headers, accept.as_deref())?;
    let encoded = match run(&mut call, verb, head, body, &form).await {
        Ok(answer) => encode::answer(&call, answer, &form, gzip).await,
        Err(status) => Err(status),
    };
    let mut response = encoded.unwrap_or_else(|status| encode::error(&status, accept.as_deref()));
    encode::add_warnings(&mut response, &call.warnings);
    Ok(response)
}

/// The call that a request makes, not authorized yet. `verb`: `None` if the path has no such method.
fn call(
    api: &Api,
    user: User,
    path: ResourcePath,
    params: Params,
    verb: Option<Verb>,
    started: Instant,
) -> Result<Call, Status> {
    let filter = match verb {
        Some(Verb::List | Verb::DeleteCollection) => select::parse(&path.def, &params, None),
        Some(Verb::Watch) => select::parse(&path.def, &params, path.name.as_deref()),
        _ => Ok(Filter::default()),
    };
    // A watch and a stream end when they say so themselves.
    let long = verb == Some(Verb::Watch) || path.sub.as_deref().is_some_and(is_stream);
    let deadline = if long { deadline::longest(started) } else { deadline::of(&params, started)? };
    Ok(Call {
        api: api.clone(),
        writer: Writer::of(&user.groups),
        effect: Effect::default(),
        user,
        def: path.def,
        namespace: path.namespace,
        name: path.name,
        sub: path.sub,
        params,
        filter,
        deadline,
        fence: None,
        warnings: Vec::new(),
    })
}

/// The form that the answer is to have.
fn form(call: &Call, verb: Verb, headers: &HeaderMap, accept: Option<&str>) -> Result<Form, Status> {
    let agent = header(headers, &http::header::USER_AGENT).unwrap_or_default();
    let mut form = match verb {
        Verb::Watch => negotiate::watch_form(accept)?,
        // The text of a log has one form only.
        _ if call.sub.as_deref().is_some_and(is_stream) => Form::PLAIN,
        _ => negotiate::object_form(accept)?,
    };
    form.pretty |= wants_pretty(&call.params, &agent);
    Ok(form)
}

fn is_stream(sub: &Subresource) -> bool {
    matches!(sub.handler, Handler::Node(..))
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
