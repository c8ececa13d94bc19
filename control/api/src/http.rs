//! One HTTP request from its head to its answer.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use futures::FutureExt;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, UPGRADE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use kontiki_cache::Filter;
use kontiki_machinery::access::Attributes;
use kontiki_machinery::encode::protobuf;
use kontiki_machinery::resource::Creation;
use kontiki_machinery::subresource::NodeCall;
use kontiki_machinery::{Handler, Name, ResourceDef, Status, Subresource, Verb};
use serde_json::Value;
use tokio::sync::Notify;
use tracing::instrument;

use crate::auth::{impersonate, info};
use crate::body::{MAX_BODY, discard, header, whole};
use crate::call::{Answer, Call, Input, Notes};
use crate::documents::plain;
use crate::encode;
use crate::fairness::{Asked, Flow, Permit};
use crate::forwarded::Remote;
use crate::health::nothing;
use crate::negotiate::{self, Form, Offer};
use crate::params::{Params, of_agent};
use crate::route::{ResourcePath, Route, route};
use crate::select;
use crate::trail::{self, Trail};
use crate::writes::{Effect, Writer};
use crate::{Api, PatchKind, User, aggregate, deadline};

/// Where a connection comes from, to and by whom.
#[derive(Clone)]
pub(crate) struct Peer {
    pub local: SocketAddr,
    /// None within this process.
    pub remote: Option<IpAddr>,
    /// The user of the client certificate, if there was one.
    pub user: Option<Arc<User>>,
    /// Whether it may ask for others, under an authority of proxies.
    pub proxy: bool,
    /// Ends the connection when it has answered what it was asked.
    pub leave: Arc<Notify>,
}

impl Peer {
    /// Ends the connection, if chance wants it, so that clients spread over the masters.
    fn maybe_leave(&self, api: &Api) {
        let chance = api.inner.config.limits.goaway_chance;
        if chance > 0.0 && chance_is(api, chance) {
            self.leave.notify_one();
        }
    }
}

/// True with this probability.
fn chance_is(api: &Api, chance: f64) -> bool {
    // 32 bits are fine enough, and exact in a float.
    let drawn = u32::try_from(api.entropy().draw() >> 32).unwrap_or(u32::MAX);
    f64::from(drawn) < chance * f64::from(u32::MAX)
}

/// Answers a request, whatever happens.
#[instrument(name = "request", level = "debug", skip_all, fields(method = %request.method(), path = request.uri().path()))]
pub(crate) async fn handle(api: &Api, peer: &Peer, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    if let Some(remote) = peer.remote {
        head.extensions.insert(Remote(remote));
    }
    let mut body = Some(body);
    let accept = header(&head.headers, &ACCEPT);
    let mut label = Label::new(started);
    let answered =
        AssertUnwindSafe(Box::pin(dispatch(api, peer, &mut head, &mut body, &mut label))).catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => {
            label.trail.iter().for_each(|trail| trail.failed(&status));
            encode::error(&status, accept.as_deref())
        }
        Err(_) => {
            label.trail.iter().for_each(|trail| trail.panicked());
            tracing::error!(verb = label.verb, resource = %label.resource, "a request handler panicked; this is a bug");
            encode::error(&Status::internal("the request could not be handled"), accept.as_deref())
        }
    };
    encode::add_warnings(&mut response, &label.warnings);
    // Everything here is for who is allowed to see it.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(flow) = &label.flow {
        tell_flow(&mut response, flow);
    }
    if head.version == Version::HTTP_2 {
        peer.maybe_leave(api);
    }
    api.inner.metrics.observe(label.verb, label.resource, response.status().as_u16(), started.elapsed());
    if let Some(unread) = body {
        discard(unread).await;
    }
    match &label.trail {
        Some(trail) => trail.close(response, label.long),
        None => {
            if let Ok(id) = HeaderValue::from_str(&trail::id(api, &head)) {
                response.headers_mut().entry(&trail::ID).or_insert(id);
            }
            response
        }
    }
}

/// What a request is counted as.
struct Label {
    verb: &'static str,
    resource: Name,
    started: Instant,
    flow: Option<Arc<Flow>>,
    /// What is recorded of it, if anything is.
    trail: Option<Arc<Trail>>,
    /// Whether its answer goes on until somebody ends it.
    long: bool,
    /// What the client is warned of, whatever it is answered.
    warnings: Vec<String>,
}

impl Label {
    fn new(started: Instant) -> Self {
        let (verb, resource) = ("other", Name::default());
        Self { verb, resource, started, flow: None, trail: None, long: false, warnings: Vec::new() }
    }

    /// The version may be an old one.
    fn warn_of(&mut self, def: &ResourceDef) {
        self.warnings.extend(def.deprecation.as_ref().map(ToString::to_string));
    }
}

/// Says in which flow a request was.
fn tell_flow(response: &mut Response<Body>, flow: &Flow) {
    let (schema, level) = flow.uids();
    for (name, uid) in [("x-kubernetes-pf-flowschema-uid", schema), ("x-kubernetes-pf-prioritylevel-uid", level)] {
        if let Some(uid) = HeaderValue::from_str(uid).ok().filter(|uid| !uid.is_empty()) {
            response.headers_mut().insert(name, uid);
        }
    }
}

async fn dispatch(
    api: &Api,
    peer: &Peer,
    head: &mut Parts,
    body: &mut Option<Body>,
    label: &mut Label,
) -> Result<Response<Body>, Status> {
    let deadline = deadline::longest(label.started);
    let shown = (peer.user.as_deref(), peer.proxy);
    let user = api.authenticate(&head.headers, shown, head.uri.path(), deadline).await?;
    let wanted = impersonate::wanted(&head.headers)?;
    let mut table = api.registry().table();
    if let Some(server) = aggregate::server_of(api, &table, head.uri.path()) {
        let (user, permit) = admit(api, peer, user, wanted, &Route::Unknown, head, label).await?;
        // What may last takes no seat.
        let lasts = head.headers.contains_key(UPGRADE) || Params::parse(head.uri.query()).flag("watch") == Some(true);
        let _permit = Some(permit).filter(|_| !lasts);
        return Ok(aggregate::pass_on(api, &server, &user, head, body.take().unwrap_or_default()).await);
    }
    let mut found = route(&table, head.uri.path());
    if may_be_new(&found, head.uri.path()) && api.catch_up().await {
        table = api.registry().table();
        found = route(&table, head.uri.path());
    }
    let found = match found {
        Route::Unknown => aggregate::group_of(api, head.uri.path()).map_or(Route::Unknown, Route::Group),
        found => found,
    };
    match found {
        Route::Resource(path) => resource(api, peer, user, wanted, path, head, body, label).await,
        Route::NoPart(path) => {
            let (_user, _permit) = admit(api, peer, user, wanted, &Route::UnknownInApi, head, label).await?;
            label.warn_of(&path.def);
            Err(Status::not_found(path.def.group_resource(), path.name.as_deref().unwrap_or_default()))
        }
        other => {
            let (user, _permit) = admit(api, peer, user, wanted, &other, head, label).await?;
            plain(api, &table, peer.local, &user, other, head, body).await
        }
    }
}

/// Whether what a path names may have come just now.
fn may_be_new(route: &Route, path: &str) -> bool {
    matches!(route, Route::Unknown | Route::UnknownInApi | Route::NoPart(_)) && path.starts_with("/apis/")
}

/// Who acts, if they may do what is asked of a path that is no resource's.
async fn admit<'a>(
    api: &'a Api,
    peer: &Peer,
    user: User,
    wanted: Option<User>,
    route: &Route,
    head: &Parts,
    label: &mut Label,
) -> Result<(User, Permit<'a>), Status> {
    let (method, path) = (head.method.as_str().to_ascii_lowercase(), head.uri.path());
    let asked = match route {
        Route::Unknown | Route::UnknownInApi => {
            info::unserved(&method, &head.method, path, &Params::parse(head.uri.query()))
        }
        _ => Attributes { verb: &method, path, ..Attributes::default() },
    };
    let deadline = deadline::longest(label.started);
    label.trail = api.trail(head, peer.remote, &user, (&asked, ""));
    let user = match wanted {
        Some(wanted) => {
            let user = api.impersonate(&user, &wanted, &asked, deadline).await?;
            label.trail.iter().for_each(|trail| trail.impersonates(&user));
            user
        }
        None => user,
    };
    let permit = queue(api, &Asked { user: &user, attributes: &asked, limit: None, deadline }, label).await?;
    api.authorize(&user, &asked, deadline).await?;
    Ok((user, permit))
}

/// Waits for the request's turn.
async fn queue<'a>(api: &'a Api, asked: &Asked<'_>, label: &mut Label) -> Result<Permit<'a>, Status> {
    let (flow, permit) = api.fairness().admit(asked).await;
    label.flow = Some(flow);
    permit
}

/// The verb of a method on a path; `None`: the path does not have the method.
fn verb(path: &ResourcePath, method: &Method, params: &Params) -> Option<Verb> {
    let watching = path.watch || params.flag("watch").unwrap_or(false);
    let across = path.def.namespaced() && path.namespace.is_none();
    if is_proxy(path) {
        // Any method goes on; what it is called matters for access only, which goes by its own name.
        return Some(if method == Method::GET { Verb::Get } else { Verb::Create });
    }
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
    peer: &Peer,
    user: User,
    wanted: Option<User>,
    path: ResourcePath,
    head: &mut Parts,
    body: &mut Option<Body>,
    label: &mut Label,
) -> Result<Response<Body>, Status> {
    let params = Params::parse(head.uri.query());
    let (found, proxied) = (verb(&path, &head.method, &params), is_proxy(&path));
    label.verb = if proxied { "proxy" } else { found.map_or("other", Verb::as_str) };
    label.resource = path.def.plural.clone();
    let unserved = info::verb(&head.method, path.name.is_some(), path.watch);
    let agent = header(&head.headers, &USER_AGENT).unwrap_or_default();
    let mut call = call(api, user, path, params, found, label.started, &agent)?;
    let asked = found.filter(|_| !proxied).map_or(unserved, Verb::as_str);
    label.long = found == Some(Verb::Watch) || long_running(&call);
    label.trail = api.trail(head, peer.remote, &call.user, (&call.attributes(asked, &[]), &call.def.version));
    if let Some(wanted) = wanted {
        let fields = call.fields();
        let user = api.impersonate(&call.user, &wanted, &call.attributes(asked, &fields), call.deadline).await?;
        label.trail.iter().for_each(|trail| trail.impersonates(&user));
        call.act_as(user);
    }
    let _permit = match long_running(&call) {
        true => None,
        false => {
            let limit = call.params.get("limit").and_then(|limit| limit.parse().ok());
            let attributes = &call.attributes(asked, &[]);
            let flow = Asked { user: &call.user, attributes, limit, deadline: call.deadline };
            Some(queue(api, &flow, label).await?)
        }
    };
    api.authorize(&call.user, &call.attributes(asked, &call.fields()), call.deadline).await?;
    if found.is_some() || call.def.is_custom() {
        label.warn_of(&call.def);
    }
    let Some(verb) = found else { return no_verb(&call, asked) };
    if verb == Verb::Get && call.sub.as_deref().is_some_and(acts) {
        // A WebSocket begins with a GET, which must not make a stream of one who may only look (KEP-4006).
        api.authorize(&call.user, &call.attributes(Verb::Create.as_str(), &[]), call.deadline).await?;
    }
    let (accept, gzip) = (header(&head.headers, &ACCEPT), encode::accepts_gzip(&head.headers));
    let form = form(&call, verb, &head.headers, accept.as_deref())?;
    let trail = label.trail.clone();
    let encoded = match run(&mut call, verb, head, body, &form, trail.as_deref()).await {
        Ok(answer) => {
            if let (Verb::List, Answer::List(list)) = (verb, &answer) {
                api.fairness().listed(&call.attributes(asked, &[]), list.items.len());
            }
            trail.iter().for_each(|trail| trail.answered(|| shown(&answer)));
            encode::answer(&call, answer, &form, gzip).await
        }
        Err(status) => Err(status),
    };
    label.warnings.append(&mut call.warnings);
    if encoded.is_err() {
        label.warnings.append(&mut call.refused.lock());
    }
    trail.iter().for_each(|trail| trail.noted(std::mem::take(&mut *call.notes.lock())));
    if let (Some(trail), Err(status)) = (&trail, &encoded) {
        trail.failed(status);
    }
    Ok(encoded.unwrap_or_else(|status| encode::error(&status, accept.as_deref())))
}

/// What is answered where a path does not have what is `asked` of it.
fn no_verb(call: &Call, asked: &str) -> Result<Response<Body>, Status> {
    if !call.def.is_custom() {
        return Err(Status::method_not_allowed());
    }
    if call.def.namespaced() && call.namespace.is_none() {
        return Ok(nothing());
    }
    let mut status = Status::method_not_supported(call.def.group_resource(), asked);
    if asked == Verb::Create.as_str() && call.name.is_none() {
        // Whatever is served can be made, until its definition goes.
        status.message = format!("{asked} not allowed while custom resource definition is terminating");
    }
    Err(status)
}

/// The call that a request makes, not authorized yet. `verb`: `None` if the path has no such method.
fn call(
    api: &Api,
    user: User,
    path: ResourcePath,
    params: Params,
    verb: Option<Verb>,
    started: Instant,
    agent: &str,
) -> Result<Call, Status> {
    let filter = match verb {
        Some(Verb::List | Verb::DeleteCollection) => select::parse(&path.def, &params, None),
        Some(Verb::Watch) => select::parse(&path.def, &params, path.name.as_deref()),
        _ => Ok(Filter::default()),
    };
    // A watch and a stream end when they say so themselves.
    let long = verb == Some(Verb::Watch) || path.sub.as_deref().is_some_and(is_stream);
    let deadline = if long { deadline::longest(started) } else { deadline::of(&params, started)? };
    let manager = params.get("fieldManager").map_or_else(|| of_agent(agent), str::to_owned).into();
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
        manager,
        warnings: Vec::new(),
        refused: Arc::default(),
        notes: Notes::default(),
    })
}

/// The form that the answer is to have.
fn form(call: &Call, verb: Verb, headers: &HeaderMap, accept: Option<&str>) -> Result<Form, Status> {
    let agent = header(headers, &USER_AGENT).unwrap_or_default();
    let offer = match &call.def.creation {
        // What is not stored has no columns, and no metadata to speak of.
        Creation::Review(_) | Creation::OnObject(..) => Offer::Documents,
        _ if protobuf::Shape::of(call.def.schema.name()).is_some() => Offer::Objects,
        _ => Offer::Untyped,
    };
    let mut form = match verb {
        Verb::Watch => negotiate::watch_form(accept, offer)?,
        // The text of a log has one form only.
        _ if call.sub.as_deref().is_some_and(is_stream) => Form::PLAIN,
        _ => negotiate::object_form(accept, offer)?,
    };
    form.pretty |= wants_pretty(&call.params, &agent);
    Ok(form)
}

/// What lasts as long as somebody wants takes no seat.
fn long_running(call: &Call) -> bool {
    call.sub.as_deref().is_some_and(is_stream)
}

fn is_stream(sub: &Subresource) -> bool {
    matches!(sub.handler, Handler::Node(..) | Handler::Proxy(_))
}

/// Whether requests go on to what is behind the object.
fn is_proxy(path: &ResourcePath) -> bool {
    path.sub.as_ref().is_some_and(|sub| matches!(sub.handler, Handler::Proxy(_)))
}

/// Whether who gets it can do something by it.
fn acts(sub: &Subresource) -> bool {
    matches!(sub.handler, Handler::Node(NodeCall::Stream, _))
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
    trail: Option<&Trail>,
) -> Result<Answer, Status> {
    match call.sub.as_ref().map(|sub| &sub.handler) {
        Some(&Handler::Node(NodeCall::Log, on)) => return call.log(on, head).await,
        Some(&Handler::Node(NodeCall::Stream, on)) => return call.stream(on, head).await,
        Some(&Handler::Proxy(behind)) => return call.proxy(behind, head, body.take()).await,
        _ => {}
    }
    match verb {
        Verb::Get => return call.read_object().await,
        Verb::List => return call.list().await,
        Verb::Watch => return call.watch(form.clone()).await,
        _ => {}
    }
    let content_type = header(&head.headers, &CONTENT_TYPE);
    // Held until the verb is done: what is read of the body lives as long.
    let mut charge = call.api.inner.budget.open();
    let limit = call.def.strategy.body_limit().unwrap_or(MAX_BODY);
    let data = whole(body.take().unwrap_or_default(), limit, &mut charge).await?;
    trail.iter().for_each(|trail| trail.sent(&data));
    if verb == Verb::Patch {
        return match patch_kind(content_type.as_deref())? {
            Some(kind) => call.patch(kind, data).await,
            None => call.apply(&data).await,
        };
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

/// An answer as it is recorded. Of lists and streams only that there was one.
fn shown(answer: &Answer) -> Option<Value> {
    match answer {
        Answer::Object { object, .. } => object.value().ok(),
        Answer::Status { status, .. } => serde_json::to_value(status).ok(),
        Answer::List(_) | Answer::Made(_) | Answer::Raw(_) => None,
    }
}

/// The language of a patch. `None`: it is an object to apply.
fn patch_kind(content_type: Option<&str>) -> Result<Option<PatchKind>, Status> {
    match content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(Some(PatchKind::Json)),
        "application/merge-patch+json" => Ok(Some(PatchKind::Merge)),
        "application/strategic-merge-patch+json" => Ok(Some(PatchKind::Strategic)),
        "application/apply-patch+yaml" => Ok(None),
        _ => Err(Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type")
            .with_details(Default::default())),
    }
}
