//! `proxy`: requests that go on to a pod, to a pod behind a Service, or to a node's agent.
//!
//! What is asked goes on as it came, but for what is between the client and this API alone; so does the answer. Only
//! addresses in it are written as the client has to ask for them (`rewrite`).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use http::header::{AUTHORIZATION, CONNECTION, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kontiki_machinery::subresource::{Behind, Place, Target};
use kontiki_proto::node::{Open, Serve, open::What};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::rewrite::{self, Way};
use super::tunnel_io::TunnelIo;
use crate::call::{Answer, Call};
use crate::dial::{Connection, Destination, dial};
use crate::pipeline::Memo;
use crate::pipeline::lookup::Seen;
use crate::state::Extra;
use crate::sub::log::node_error;
use crate::verbs::list::Version;
use crate::{Status, forwarded};

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

impl Call {
    /// Sends a request on to what is behind the object.
    pub async fn proxy(&self, behind: &dyn Behind, head: &mut Parts, body: Option<Body>) -> Result<Answer, Status> {
        let target = self.locate(behind).await?;
        let asked = Asked::of(head.uri.clone(), self.namespace().is_some());
        let upgrade = head.extensions.remove::<OnUpgrade>().filter(|_| head.headers.contains_key(UPGRADE));
        if let Some(to) =
            asked.root().filter(|_| upgrade.is_none() && [Method::GET, Method::HEAD].contains(&head.method))
        {
            let moved = Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(LOCATION, to);
            return moved.body(Body::empty()).map(Answer::Raw).map_err(Status::internal);
        }
        let request = outgoing(head, &asked, body.unwrap_or_default(), upgrade.is_some())?;
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let way = Way { prefix: asked.prefix().to_owned(), server: address(&target.place), host };
        let has_body = head.method != Method::HEAD;
        let response = self.send(target, request).await?;
        Ok(Answer::Raw(self.incoming(response, way, has_body, upgrade)))
    }

    async fn locate(&self, behind: &dyn Behind) -> Result<Target, Status> {
        let state = self.api.snapshot_for(Version::Latest).await?;
        // Nothing is written: what was relied on guards nothing.
        let (mut extra, mut memo) = (Extra::default(), Memo::new(self.api.now()));
        let mut seen = Seen { api: &self.api, state: &state, extra: &mut extra, tips: None, memo: &mut memo };
        behind.locate(self.name(), self.namespace(), &mut seen)
    }

    async fn send(&self, target: Target, request: Request<Body>) -> Result<Response<Incoming>, Status> {
        let io = self.connect(target).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| unreachable(&e))?;
        self.api.inner.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection ended");
            }
        });
        sender.send_request(request).await.map_err(|e| unreachable(&e))
    }

    async fn connect(&self, Target { node, place }: Target) -> Result<Connection, Status> {
        let nodes = &self.api.inner.config.node_proxy;
        let (tls, host, port) = match place {
            Place::Agent => {
                let open = Open { node, what: Some(What::Serve(Serve {})) };
                return Ok(Box::pin(TunnelIo::new(nodes.open(open).await.map_err(node_error)?)));
            }
            Place::Server { tls, host, port } => (tls, host, port),
        };
        let address = host.parse().map_err(|_| Status::bad_request("address not allowed"))?;
        let to = Destination { node: Some(node), address, port };
        let connection = dial(&**nodes, &to).await.map_err(|error| unreachable(&error))?;
        if !tls {
            return Ok(connection);
        }
        Ok(Box::pin(secured(connection, &host).await.map_err(|e| unreachable(&e))?))
    }

    /// The answer as the client gets it. An upgraded connection is joined to the client's.
    fn incoming(
        &self,
        mut response: Response<Incoming>,
        way: Way,
        has_body: bool,
        client: Option<OnUpgrade>,
    ) -> Response<Body> {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let has_body = has_body && !response.body().is_end_stream();
        match client {
            Some(client) if upgraded => {
                let server = hyper::upgrade::on(&mut response);
                self.api.inner.tasks.spawn(forwarded::join(client, server));
                return response.map(|_| Body::empty());
            }
            _ => drop_hop(response.headers_mut(), false),
        }
        rewrite::answer(way, response.map(Body::new), has_body)
    }
}

/// How a server calls itself in its addresses; empty for an agent.
fn address(place: &Place) -> String {
    match place {
        Place::Agent => String::new(),
        Place::Server { host, port, .. } => match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, *port).to_string(),
            Err(_) => format!("{host}:{port}"),
        },
    }
}

/// Speaks TLS over `io`, with whoever answers.
async fn secured(io: Connection, host: &str) -> std::io::Result<TlsStream<Connection>> {
    static CONFIG: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| Arc::new(kontiki_tls::any_certificate(None)));
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    TlsConnector::from(CONFIG.clone()).connect(name, io).await
}

/// The path and query of a request, and which part of the path is meant for whoever is behind the object.
struct Asked {
    uri: Uri,
    /// Length of the path to the object's `proxy`.
    own: usize,
}

impl Asked {
    fn of(uri: Uri, namespaced: bool) -> Self {
        // /api/v1/nodes/NAME/proxy, /api/v1/namespaces/NAMESPACE/pods/NAME/proxy
        let slashes = if namespaced { 7 } else { 5 };
        let own = uri.path().match_indices('/').nth(slashes).map_or(uri.path().len(), |(at, _)| at);
        Self { uri, own }
    }

    fn prefix(&self) -> &str {
        &self.uri.path()[..self.own]
    }

    fn behind(&self) -> &str {
        &self.uri.path()[self.own..]
    }

    fn query(&self) -> String {
        self.uri.query().map(|query| format!("?{query}")).unwrap_or_default()
    }

    /// Where a page at the root is to be asked for, if its path lacks the slash that relative links need.
    fn root(&self) -> Option<String> {
        self.behind().is_empty().then(|| format!("{}/{}", self.uri.path(), self.query()))
    }
}

/// What goes to the server behind.
fn outgoing(head: &Parts, asked: &Asked, body: Body, upgrading: bool) -> Result<Request<Body>, Status> {
    let path = if asked.behind().is_empty() { "/" } else { asked.behind() };
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = format!("{path}{}", asked.query()).parse().map_err(Status::internal)?;
    let headers = request.headers_mut();
    *headers = head.headers.clone();
    drop_hop(headers, upgrading);
    headers.remove(AUTHORIZATION);
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if let (None, Some(authority)) = (headers.get(HOST), head.uri.authority()) {
        headers.insert(HOST, HeaderValue::try_from(authority.as_str()).map_err(Status::internal)?);
    }
    headers.insert(FORWARDED_URI, HeaderValue::try_from(asked.uri.path()).map_err(Status::internal)?);
    forwarded::tell(&head.extensions, headers);
    Ok(request)
}

/// Takes out what is meant for the next neighbour only, but the wish to upgrade where it is to be kept.
fn drop_hop(headers: &mut HeaderMap, upgrading: bool) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().map(String::as_str).chain(forwarded::HOPS) {
        if !(upgrading && name == UPGRADE.as_str()) {
            headers.remove(name);
        }
    }
    headers.remove(TRANSFER_ENCODING);
    if upgrading {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// The answer where nobody answers, with the innermost reason.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Status::service_unavailable(format!("error trying to reach service: {innermost}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_object() {
        for (uri, namespaced, prefix, behind, root) in [
            (
                "/api/v1/namespaces/d/pods/p/proxy",
                true,
                "/api/v1/namespaces/d/pods/p/proxy",
                "",
                Some("/api/v1/namespaces/d/pods/p/proxy/"),
            ),
            (
                "/api/v1/namespaces/d/pods/p/proxy?a=b",
                true,
                "/api/v1/namespaces/d/pods/p/proxy",
                "",
                Some("/api/v1/namespaces/d/pods/p/proxy/?a=b"),
            ),
            ("/api/v1/namespaces/d/pods/p/proxy/", true, "/api/v1/namespaces/d/pods/p/proxy", "/", None),
            (
                "/api/v1/namespaces/d/services/https:s:web/proxy/a%2Fb/c/",
                true,
                "/api/v1/namespaces/d/services/https:s:web/proxy",
                "/a%2Fb/c/",
                None,
            ),
            ("/api/v1/nodes/n1/proxy/stats/summary", false, "/api/v1/nodes/n1/proxy", "/stats/summary", None),
        ] {
            let asked = Asked::of(uri.parse().expect("a URI"), namespaced);
            assert_eq!((asked.prefix(), asked.behind(), asked.root().as_deref()), (prefix, behind, root), "{uri}");
        }
    }

    #[test]
    fn only_what_is_for_the_server_goes_on() {
        let mut request = Request::new(());
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("connection", "keep-alive, x-own"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("cookie", "a=b"),
            ("upgrade", "websocket"),
            ("host", "api"),
        ] {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        *request.uri_mut() = "/api/v1/namespaces/d/pods/p/proxy/x?q=1".parse().expect("a URI");
        request.extensions_mut().insert(forwarded::Remote("192.0.2.1".parse().expect("an address")));
        let (head, ()) = request.into_parts();
        let asked = Asked::of(head.uri.clone(), true);
        let names = |upgrading| {
            let sent = outgoing(&head, &asked, Body::empty(), upgrading).expect("a request");
            assert_eq!(sent.uri(), "/x?q=1");
            let mut names: Vec<String> = sent.headers().keys().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(names(false), "cookie host x-forwarded-for x-forwarded-uri");
        assert_eq!(names(true), "connection cookie host upgrade x-forwarded-for x-forwarded-uri");
    }
}
