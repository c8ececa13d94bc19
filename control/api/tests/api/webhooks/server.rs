//! A server outside the API, with real TLS on loopback.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kontiki_api::{NodeProxy, NodeProxyError, NodeStream};
use kontiki_proto::node::{Open, open::What};
use rcgen::SanType;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::common::Authority;

/// What is answered.
#[derive(Clone)]
pub enum Reply {
    /// An answer of success.
    Review(Value),
    /// Any other.
    Plain(u16, &'static str),
    /// None, ever.
    Nothing,
    /// One without end.
    Endless,
    /// One that breaks off.
    Half,
}

type Body = BoxBody<Bytes, std::io::Error>;
type Answers = Arc<dyn Fn(String, Value) -> BoxFuture<'static, Reply> + Send + Sync>;

/// A server, and what it was asked: path and document.
pub struct Server {
    pub address: SocketAddr,
    pub ca: String,
    pub asked: Arc<Mutex<Vec<(String, Value)>>>,
    pub connections: Arc<AtomicUsize>,
}

/// Allows what it is asked about, with these fields besides.
pub fn allowed(review: &Value, fields: Value) -> Reply {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    for (field, value) in fields.as_object().unwrap() {
        response[field] = value.clone();
    }
    Reply::Review(json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}))
}

/// Changes what it is asked about.
pub fn patched(review: &Value, patch: Value) -> Reply {
    allowed(review, json!({"patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())}))
}

impl Server {
    /// One that shows a certificate for loopback and for the service `hook` in the namespace `a`.
    pub async fn new(answers: impl Fn(String, Value) -> BoxFuture<'static, Reply> + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName("hook.a.svc".try_into().unwrap()),
        ];
        let (certificate, key) = authority.issue_for("hook", "test", names);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let acceptor =
            tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            ca: STANDARD.encode(authority.pem()),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let (asked, connections, answers) =
            (server.asked.clone(), server.connections.clone(), Arc::new(answers) as Answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (acceptor, asked, answers) = (acceptor.clone(), asked.clone(), answers.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, asked.clone(), answers.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        server
    }

    /// A `clientConfig` that calls it by URL.
    pub fn by_url(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": self.ca})
    }

    /// What it was asked since this was asked last.
    pub fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Answers,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    // What has no document is told by its headers.
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())));
    let document = serde_json::from_slice(&body).unwrap_or_else(|_| Value::Object(headers.collect()));
    asked.lock().unwrap().push((path.clone(), document.clone()));
    let whole = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let pieces = |pieces: stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>| {
        BodyExt::boxed(StreamBody::new(SyncPieces(Mutex::new(pieces))))
    };
    let megabyte = || Ok(Frame::data(Bytes::from_static(&[b' '; 1 << 20])));
    Ok(match answers(path, document).await {
        Reply::Review(review) => Response::new(whole(review.to_string())),
        Reply::Plain(code, text) => Response::builder().status(code).body(whole(text.to_owned())).unwrap(),
        Reply::Nothing => std::future::pending().await,
        Reply::Endless => Response::new(pieces(stream::repeat_with(megabyte).boxed())),
        Reply::Half => {
            let broken = Err(std::io::Error::other("enough"));
            Response::new(pieces(stream::iter([megabyte(), broken]).boxed()))
        }
    })
}

/// A stream that may be shared, as bodies have to be.
struct SyncPieces(Mutex<stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>);

impl futures::Stream for SyncPieces {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().unwrap().poll_next_unpin(context)
    }
}

/// A node, `a1`, whose pods are all on loopback.
pub struct Loopback;

impl NodeProxy for Loopback {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        async move {
            let Some(What::Dial(dial)) = open.what else { panic!("only dialled") };
            assert_eq!(open.node, "a1");
            let port = u16::try_from(dial.port).unwrap();
            let refused = |error: std::io::Error| NodeProxyError { code: 502, message: error.to_string() };
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(refused)?;
            let (mut read, mut write) = stream.into_split();
            let ((tx, mut from_api), (to_api, rx)) = (mpsc::channel::<Bytes>(8), mpsc::channel(8));
            tokio::spawn(async move {
                while let Some(bytes) = from_api.recv().await {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut piece = vec![1];
                while !piece.is_empty() && to_api.send(Ok(Bytes::from(piece))).await.is_ok() {
                    let mut buffer = vec![0; 4096];
                    let count = read.read(&mut buffer).await.unwrap_or(0);
                    buffer.truncate(count);
                    piece = buffer;
                }
            });
            Ok(NodeStream { tx, rx })
        }
        .boxed()
    }
}
