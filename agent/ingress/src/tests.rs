//! The proxy with real sockets on the loopback.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::ByteString;
use kontiki_model::ingress::Options;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::table::{Backend, Match, Route, Service};

struct World {
    proxy: Arc<Proxy>,
    http: SocketAddr,
    https: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn world() -> World {
    let [http, https] = kontiki_test_ports::free().expect("ports");
    let address = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let config = Config { address, http_port: http.port(), https_port: https.port(), most: 64 };
    let (proxy, stop) = (Arc::new(Proxy::new(config).expect("a proxy")), CancellationToken::new());
    let (runner, token) = (Arc::clone(&proxy), stop.clone());
    let running = tokio::spawn(async move { runner.run(token).await });
    World { proxy, http, https, stop, running }
}

/// Routes by host; `*` has certificates for all hosts.
fn wanted(routes: Vec<(&str, Backend, Options)>) -> Wanted {
    let mut wanted = Wanted::default();
    for (host, backend, options) in routes {
        let route = Route { backend: Arc::new(backend), options };
        wanted.table.add(Host::read(host), Match::Prefix, "/", Arc::new(route));
    }
    wanted
}

fn service(targets: &[SocketAddr]) -> Backend {
    Backend::Service(Service { targets: targets.to_vec(), sticky: false })
}

/// Serves at a port of its own.
async fn backend<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind(kontiki_test_ports::one()).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades();
            tokio::spawn(async move { serving.await.ok() });
        }
    });
    address
}

/// Says what it was asked; `/slow` never, `/big` at length, `/switch` by another protocol: capitals.
async fn echo(name: &'static str, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/slow" => std::future::pending().await,
        "/soon" => tokio::time::sleep(Duration::from_millis(300)).await,
        "/big" => return Response::new(Full::new(Bytes::from(vec![b'x'; 3 << 20]))),
        "/switch" => {
            tokio::spawn(shout(hyper::upgrade::on(&mut request)));
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
            response.headers_mut().insert("upgrade", "capitals".parse().expect("a value"));
            return response;
        }
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let mut lines: Vec<String> =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?"))).collect();
    lines.sort();
    Response::new(Full::from(format!("{name} {} {} {body}\n{}\n", parts.method, parts.uri, lines.join("\n"))))
}

async fn shout(upgraded: hyper::upgrade::OnUpgrade) -> std::io::Result<()> {
    let mut stream = TokioIo::new(upgraded.await.map_err(std::io::Error::other)?);
    let mut bytes = [0; 64];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..read].to_ascii_uppercase()).await?;
    }
}

/// What comes back for some bytes until the connection ends, or nothing comes for a while.
async fn raw(to: SocketAddr, said: &[u8]) -> String {
    let mut all = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(said).await?;
        while let Ok(read) = tokio::time::timeout(QUIET, stream.read_buf(&mut all)).await {
            if read? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    match talk.await {
        Err(error) if all.is_empty() => format!("failed: {error}"),
        _ => String::from_utf8_lossy(&all).into_owned(),
    }
}

const QUIET: Duration = Duration::from_secs(2);

async fn get(to: SocketAddr, host: &str, path: &str) -> String {
    raw(to, format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await
}

fn status(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    kontiki_test_ports::one()
}

#[tokio::test]
async fn requests_come_to_endpoints_or_are_answered_plainly() {
    let world = world();
    let one = backend(|request| echo("one", request)).await;
    let plain = Options::default();
    let hasty = Options { patience: Duration::from_millis(200), ..plain };
    let short = Options { most_bytes: Some(4), ..plain };
    let state = world.proxy.set(wanted(vec![
        ("one.x", service(&[one]), plain),
        ("none.x", service(&[]), plain),
        ("dead.x", service(&[nobody(), nobody()]), plain),
        ("half.x", service(&[nobody(), one, nobody()]), plain),
        ("hasty.x", service(&[one]), hasty),
        ("short.x", service(&[one]), short),
        ("tls.x", service(&[one]), Options { redirect: true, ..plain }),
        ("odd.x", Backend::Unsupported, plain),
    ]));
    assert_eq!(state, State::Serving);
    let answer = get(world.http, "One.x:80", "/a%20b?c=d").await;
    assert_eq!(status(&answer), 200, "{answer}");
    for part in [
        "one GET /a%20b?c=d 0\n",
        "\nhost: One.x:80\n",
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nx-forwarded-host: One.x:80\n",
        "\nx-forwarded-proto: http\n",
    ] {
        assert!(answer.contains(part), "{part:?} in {answer}");
    }
    for (host, path, expect) in [
        ("other.x", "/", 404),
        ("none.x", "/", 503),
        ("dead.x", "/", 502),
        ("hasty.x", "/slow", 504),
        ("hasty.x", "/", 200),
        ("odd.x", "/", 404),
        ("one.x", "/a/../b", 400),
        ("one.x", "/a/%2E%2e", 400),
        ("one x", "/", 400),
        ("u@one.x", "/", 400),
        ("", "/", 404),
    ] {
        let answer = get(world.http, host, path).await;
        assert_eq!(status(&answer), expect, "{host}{path}: {answer}");
    }
    for _ in 0..12 {
        let answer = get(world.http, "half.x", "/").await;
        assert_eq!(status(&answer), 200, "another endpoint is asked: {answer}");
    }
    let answer = get(world.http, "tls.x:80", "/a?b").await;
    assert_eq!(status(&answer), 308, "{answer}");
    assert!(answer.contains(&format!("\r\nlocation: https://tls.x:{}/a?b\r\n", world.https.port())), "{answer}");
    for (said, expect) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: one.x\r\nhost: none.x\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nhost: one.x\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 404),
        ("GET http://one.x/z HTTP/1.1\r\nhost: none.x\r\nconnection: close\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nhost: one.x\r\nconnection: close\r\n\r\n", 400),
        ("CONNECT one.x:80 HTTP/1.1\r\nhost: one.x\r\nconnection: close\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nhost: short.x\r\nconnection: close\r\ncontent-length: 4\r\n\r\nabcd", 200),
        ("POST / HTTP/1.1\r\nhost: short.x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nabcde", 413),
        (
            "POST / HTTP/1.1\r\nhost: short.x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\nabc\r\n0\r\n\r\n",
            413,
        ),
        (
            "GET / HTTP/1.1\r\nhost: one.x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            200,
        ),
    ] {
        let answer = raw(world.http, said.as_bytes()).await;
        assert_eq!(status(&answer), expect, "{said}: {answer}");
        if said.starts_with("GET") && said.contains("chunked") {
            assert!(answer.contains("one GET / 3\n"), "the body comes through: {answer}");
        }
    }
}

#[tokio::test]
async fn hostile_bytes_end_their_own_connection_only() {
    let world = world();
    let one = backend(|request| echo("one", request)).await;
    assert_eq!(world.proxy.set(secured(&["a.b"], vec![("", service(&[one]), Options::default())]).0), State::Serving);
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100 << 10));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for said in [
        b"\x00\xff\xfe\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x00\x05hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\x04\x00\x00\x00\x00\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: \xff\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        for to in [world.http, world.https] {
            let answer = raw(to, said).await;
            assert_ne!(status(&answer), 200, "{:?}: {answer}", String::from_utf8_lossy(said));
        }
    }
    assert_eq!(status(&get(world.http, "a", "/").await), 200);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_no_failure() {
    let world = world();
    // Answers the first request of each connection, and takes the second without a word.
    let listener = TcpListener::bind(nobody()).await.expect("a port");
    let moody = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = socket.read(&mut head).await;
            });
        }
    });
    world.proxy.set(wanted(vec![("", service(&[moody]), Options::default())]));
    for _ in 0..6 {
        let answer = get(world.http, "a", "/").await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let post = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    let outcomes = [status(&raw(world.http, post).await), status(&raw(world.http, post).await)];
    assert!(outcomes.contains(&502), "what changes something is not sent twice: {outcomes:?}");
}

#[tokio::test]
async fn another_protocol_passes_through_if_it_is_asked_for() {
    let world = world();
    let one = backend(|request| echo("one", request)).await;
    world.proxy.set(wanted(vec![("", service(&[one]), Options::default())]));
    let mut stream = TcpStream::connect(world.http).await.expect("a connection");
    let asked = b"GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: capitals\r\n\r\n";
    stream.write_all(asked).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(status(&head) == 101 && head.contains("upgrade: capitals"), "{head}");
    stream.write_all(b"hello").await.expect("sent");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await.expect("an answer");
    assert_eq!(&bytes, b"HELLO");
    assert_eq!(status(&get(world.http, "a", "/switch").await), 502, "unasked");
    world.stop.cancel();
    assert_eq!(stream.read(&mut bytes).await.unwrap_or_default(), 0, "it ends with the proxy");
    world.running.await.expect("it ends");
}

#[tokio::test]
async fn ports_are_open_while_there_is_something_to_serve() {
    let world = world();
    let one = backend(|request| echo("one", request)).await;
    let is_open = async |address| TcpStream::connect(address).await.is_ok();
    let route = || vec![("", service(&[one]), Options::default())];
    assert_eq!(world.proxy.set(Wanted::default()), State::Idle);
    assert!(!is_open(world.http).await && !is_open(world.https).await);
    assert_eq!(world.proxy.set(wanted(route())), State::Serving);
    assert!(is_open(world.http).await && !is_open(world.https).await, "nobody needs TLS");
    let other = TcpListener::bind(world.https).await.expect("a port");
    let State::Failed(reason) = world.proxy.set(secured(&["a.b"], route()).0) else { panic!("the port is taken") };
    assert!(reason.contains(&world.https.port().to_string()), "{reason}");
    assert_eq!(status(&get(world.http, "a", "/").await), 200, "the other port serves");
    drop(other);
    assert_eq!(world.proxy.set(secured(&["a.b"], route()).0), State::Serving);
    assert!(is_open(world.https).await);
    // What is under way ends as it should.
    let soon = tokio::spawn(get(world.http, "a", "/soon"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.proxy.set(Wanted::default()), State::Idle);
    while is_open(world.http).await || is_open(world.https).await {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&soon.await.expect("it ends")), 200);
}

/// Routes, and a certificate for each host, which a client may trust.
fn secured(hosts: &[&str], routes: Vec<(&str, Backend, Options)>) -> (Wanted, RootCertStore) {
    let (mut wanted, mut roots) = (wanted(routes), RootCertStore::empty());
    for host in hosts {
        let made = rcgen::generate_simple_self_signed(vec![(*host).to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")).expect("a certificate");
        let data =
            [("tls.crt", certificate), ("tls.key", key)].map(|(name, text)| (name.to_owned(), ByteString(text.into())));
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let name = ("d".to_owned(), (*host).to_owned());
        wanted.certificates.push((Host::read(host), name.clone()));
        wanted.secrets.insert(name, Arc::new(secret));
    }
    (wanted, roots)
}

async fn connect(
    to: SocketAddr,
    roots: &RootCertStore,
    host: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_both_versions_are_spoken() {
    let world = world();
    let one = backend(|request| echo("one", request)).await;
    let routes = vec![("", service(&[one]), Options { redirect: true, ..Options::default() })];
    let (wanted, roots) = secured(&["a.b", "*.c.d"], routes);
    assert_eq!(world.proxy.set(wanted), State::Serving);
    assert!(connect(world.https, &roots, "other.x", &[]).await.is_err(), "no certificate");
    assert!(connect(world.https, &roots, "c.d", &[]).await.is_err(), "a wildcard is for names below");

    let mut stream = connect(world.https, &roots, "x.c.d", &["http/1.1"]).await.expect("a connection");
    stream.write_all(b"GET /t HTTP/1.1\r\nhost: x.c.d\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(status(&answer) == 200 && answer.contains("\nx-forwarded-proto: https\n"), "{answer}");

    let stream = connect(world.https, &roots, "a.b", &["h2", "http/1.1"]).await.expect("a connection");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(async move { connection.await.ok() });
    let mut request = async |path: &str, body: &'static str| {
        let request = Request::post(format!("https://a.b{path}"));
        let request = request.header("cookie", "a=1").header("cookie", "b=2").body(Full::<Bytes>::from(body));
        sender.ready().await.expect("ready");
        let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a body").to_bytes())
    };
    let (status, body) = request("/z?q", "12345").await;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, StatusCode::OK);
    for part in ["one POST /z?q 5\n", "\ncookie: a=1; b=2\n", "\nhost: a.b\n", "\ncontent-length: 5\n"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let (status, body) = request("/big", "").await;
    assert_eq!((status, body.len()), (StatusCode::OK, 3 << 20));
    let (status, _) = request("/a/../b", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn endpoints_change_under_load_and_nobody_notices() {
    let world = world();
    let (one, two) = (backend(|request| echo("one", request)).await, backend(|request| echo("two", request)).await);
    let route = |targets: &[SocketAddr]| wanted(vec![("", service(targets), Options::default())]);
    world.proxy.set(route(&[one]));
    let to = world.http;
    let clients: Vec<JoinHandle<Vec<u16>>> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut all = Vec::new();
                for _ in 0..50 {
                    all.push(status(&get(to, "a", "/").await));
                }
                all
            })
        })
        .collect();
    for turn in 0..40 {
        world.proxy.set(route([&[one], &[two], &[one, two][..]][turn % 3]));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for client in clients {
        let all = client.await.expect("it ends");
        assert!(all.iter().all(|status| *status == 200), "{all:?}");
    }
    world.proxy.set(route(&[two]));
    let answer = get(world.http, "a", "/").await;
    assert!(answer.contains("two GET / 0\n"), "{answer}");
}
