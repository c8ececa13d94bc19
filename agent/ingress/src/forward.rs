//! One request: its route, its way to an endpoint, its answer.
//!
//! Invariants
//! - Whatever a client sends, it gets an answer or loses its connection; nothing else happens.
//! - An answer of this proxy is a status and one line, and says nothing of what is behind it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_TYPE, HOST, LOCATION},
    request::Parts,
    uri::Authority,
};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, sync::OwnedSemaphorePermit};

use crate::{
    Shared,
    body::{self, Any, Ended, Progress},
    pool::{self, Fault},
    rewrite::{self, Seen},
    table::{Backend, Route, has_dots, name_of, order},
};

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) secure: bool,
}

/// What a client is told instead of a backend's answer.
#[derive(Debug)]
enum Refusal {
    Plain(StatusCode, &'static str),
    Elsewhere(HeaderValue),
}

impl Refusal {
    fn response(self) -> Response<Any> {
        let (status, line, location) = match self {
            Self::Plain(status, line) => (status, line, None),
            Self::Elsewhere(location) => (StatusCode::PERMANENT_REDIRECT, "it is served over TLS", Some(location)),
        };
        let mut response = Response::new(body::text(format!("{}: {line}\n", status.as_u16())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(location) = location {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

const fn bad(line: &'static str) -> Refusal {
    Refusal::Plain(StatusCode::BAD_REQUEST, line)
}

/// The host that is asked for, as it was written.
fn authority(parts: &Parts) -> Result<Option<Authority>, Refusal> {
    let judged = |authority: Option<Authority>| {
        let sound = authority.filter(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
        sound.map(Some).ok_or(bad("the host is none"))
    };
    if let Some(authority) = parts.uri.authority() {
        return judged(Some(authority.clone()));
    }
    let mut named = parts.headers.get_all(HOST).iter();
    let Some(host) = named.next() else {
        return if parts.version == Version::HTTP_10 { Ok(None) } else { Err(bad("no host is named")) };
    };
    if named.next().is_some() {
        return Err(bad("several hosts are named"));
    }
    if host.is_empty() {
        return Ok(None);
    }
    judged(Authority::try_from(host.as_bytes()).ok())
}

/// What is to be done with a request.
fn route(shared: &Shared, client: Client, parts: &Parts, host: Option<&Authority>) -> Result<Arc<Route>, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Plain(StatusCode::METHOD_NOT_ALLOWED, "this is no such proxy"));
    }
    let path = parts.uri.path();
    if !path.starts_with('/') || has_dots(path) {
        return Err(bad("the path is none"));
    }
    let name = host.map(name_of).unwrap_or_default();
    let table = shared.table();
    let route = table.find(&name, path).ok_or(Refusal::Plain(StatusCode::NOT_FOUND, "nothing is served here"))?;
    if route.options.redirect && !client.secure {
        return Err(elsewhere(shared.https_port, parts, host));
    }
    Ok(Arc::clone(route))
}

fn elsewhere(port: u16, parts: &Parts, host: Option<&Authority>) -> Refusal {
    let Some(host) = host else { return bad("no host is named") };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let rest = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = HeaderValue::from_str(&format!("https://{}{port}{rest}", host.host()));
    location.map_or(bad("the host is none"), Refusal::Elsewhere)
}

/// Answers one request.
pub(crate) async fn answer(shared: Arc<Shared>, client: Client, request: Request<Incoming>) -> Response<Any> {
    let version = request.version();
    let mut response = forward(&shared, client, request).await.unwrap_or_else(Refusal::response);
    *response.version_mut() = version;
    response
}

async fn forward(
    shared: &Arc<Shared>,
    client: Client,
    mut request: Request<Incoming>,
) -> Result<Response<Any>, Refusal> {
    // Before it is taken apart: the connection is handed over through the request.
    let asks = (request.version() == Version::HTTP_11).then(|| rewrite::upgrade(request.headers())).flatten();
    let on_client = asks.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let host = authority(&parts)?;
    let route = route(shared, client, &parts, host.as_ref())?;
    let targets = targets(&route, client)?;
    let place = Arc::clone(&shared.requests).try_acquire_owned();
    let place = place.map_err(|_| Refusal::Plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once"))?;

    let length = if incoming.is_end_stream() { Some(0) } else { incoming.size_hint().exact() };
    let most = route.options.most_bytes;
    if most.zip(length).is_some_and(|(most, length)| length > most) {
        return Err(TOO_LONG);
    }
    let mut headers = std::mem::take(&mut parts.headers);
    let seen =
        Seen { client: client.address, secure: client.secure, authority: host.as_ref().map_or("", Authority::as_str) };
    rewrite::request(&mut headers, &parts.method, seen, length, asks.as_ref());
    let progress = Progress::new();
    let body = if length == Some(0) {
        body::empty()
    } else {
        use http_body_util::BodyExt as _;
        body::Request::new(incoming, most, Arc::clone(&progress)).boxed_unsync()
    };
    let request = pool::assemble(&parts, headers, body);
    let wanted = Arc::clone(shared);
    let still_wanted = move |target: SocketAddr| wanted.is_target(target);
    let patience = route.options.patience;
    let answer = shared.pool.exchange(targets, request, &progress, patience, still_wanted).await;
    let response = answer.map_err(|fault| refusal(&fault, &progress))?;
    finish(shared, &parts, response, asks, on_client, place)
}

const TOO_LONG: Refusal = Refusal::Plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long");

fn targets(route: &Route, client: Client) -> Result<Vec<SocketAddr>, Refusal> {
    let service = match &*route.backend {
        Backend::Service(service) => service,
        Backend::Unsupported => {
            return Err(Refusal::Plain(StatusCode::NOT_FOUND, "backends other than Services are not supported"));
        }
    };
    if service.targets.is_empty() {
        return Err(Refusal::Plain(StatusCode::SERVICE_UNAVAILABLE, "no endpoint is ready"));
    }
    Ok(order(service, number_of(client.address), rand::random::<u32>() as usize))
}

/// The same on all nodes.
fn number_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(four) => u64::from(four.to_bits()),
        IpAddr::V6(six) => (six.to_bits() as u64) ^ ((six.to_bits() >> 64) as u64),
    }
}

fn refusal(fault: &Fault, progress: &Progress) -> Refusal {
    match progress.ended() {
        Some(Ended::TooLong) => return TOO_LONG,
        Some(Ended::Stalled) => return Refusal::Plain(StatusCode::REQUEST_TIMEOUT, "the request does not end"),
        Some(Ended::Broken) => return bad("the request broke off"),
        None => {}
    }
    let (status, line) = match fault {
        Fault::Unreachable(error) => {
            tracing::debug!(%error, "no endpoint takes a connection");
            (StatusCode::BAD_GATEWAY, "no endpoint takes the request")
        }
        Fault::Broken(error) => {
            tracing::debug!(%error, "an endpoint did not answer");
            (StatusCode::BAD_GATEWAY, "the endpoint did not answer")
        }
        Fault::Slow => (StatusCode::GATEWAY_TIMEOUT, "the endpoint did not answer in time"),
    };
    Refusal::Plain(status, line)
}

fn finish(
    shared: &Arc<Shared>,
    parts: &Parts,
    mut response: Response<Incoming>,
    asks: Option<HeaderValue>,
    on_client: Option<OnUpgrade>,
    place: OwnedSemaphorePermit,
) -> Result<Response<Any>, Refusal> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = if switched { rewrite::upgrade(response.headers()).or(asks) } else { None };
    if switched {
        let (Some(on_client), Some(_)) = (on_client, &protocol) else {
            return Err(Refusal::Plain(StatusCode::BAD_GATEWAY, "the endpoint changed the protocol unasked"));
        };
        let on_server = hyper::upgrade::on(&mut response);
        shared.tasks.spawn(tunnel(Arc::clone(shared), on_client, on_server, place));
        let (mut head, _) = response.into_parts();
        rewrite::answer(&mut head.headers, &parts.method, head.status, Some(0), protocol.as_ref());
        return Ok(Response::from_parts(head, body::empty()));
    }
    let (mut head, incoming) = response.into_parts();
    let length = if incoming.is_end_stream() { Some(0) } else { incoming.size_hint().exact() };
    rewrite::answer(&mut head.headers, &parts.method, head.status, length, None);
    let body = match parts.version {
        Version::HTTP_2 => body::answer_of_stream(incoming, place),
        _ => body::answer(incoming, place),
    };
    Ok(Response::from_parts(head, body))
}

/// Carries bytes both ways until one side ends, or the proxy does.
async fn tunnel(shared: Arc<Shared>, on_client: OnUpgrade, on_server: OnUpgrade, _place: OwnedSemaphorePermit) {
    let carried = async {
        let (client, server) = tokio::try_join!(on_client, on_server).map_err(std::io::Error::other)?;
        copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await
    };
    tokio::select! {
        carried = carried => {
            if let Err(error) = carried {
                tracing::debug!(%error, "a connection with a protocol of its own ended");
            }
        }
        // Both connections end with what is dropped.
        () = shared.stop.cancelled() => {}
    }
}
