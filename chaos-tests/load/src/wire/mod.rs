//! HTTP/1.1 over TLS with nothing between a client and its socket: no task for the connection, no copies but rustls's.
//!
//! Invariants
//! - A connection has one request outstanding and is kept alive; what breaks it ends the client.
//! - An answer is read to its end, piece by piece. Only what is asked for is kept: a LIST of 60 MB is not.
//!
//! Not here: deadlines. Who waits sets one for many requests.

mod framing;

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use kontiki_etcd_tests::pki::Certs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use framing::{Body, Head};

/// A record of TLS holds no more.
const PIECE: usize = 16 << 10;

pub const JSON: &str = "application/json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Every resource of every group at once.
pub const DISCOVERY: &str = "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Trust in one authority, and a client's certificate.
#[derive(Clone)]
pub struct Credentials(TlsConnector);

impl Credentials {
    /// # Errors
    /// The files cannot be read, or are no certificates.
    pub fn new(certs: &Certs) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read(&certs.ca)?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&read(&certs.cert)?)?];
        let key = PrivateKeyDer::from_pem_slice(&read(&certs.key)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// A request, as text in the end.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub accept: &'a str,
    /// Type and bytes.
    pub body: Option<(&'a str, &'a [u8])>,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, accept: JSON, body: None }
    }

    /// A body of JSON.
    pub fn with(method: &'a str, path: &'a str, body: &'a [u8]) -> Self {
        Self { method, path, accept: JSON, body: Some((JSON, body)) }
    }

    /// Replaces what `out` holds.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { method, path, accept, body } = self;
        out.clear();
        let parts =
            [method, " ", path, " HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: api-load\r\naccept: ", accept, "\r\n"];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        if let Some((kind, bytes)) = body {
            out.extend_from_slice(format!("content-type: {kind}\r\ncontent-length: {}\r\n", bytes.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.map_or(&[], |(_, bytes)| bytes));
    }
}

/// How an answer came.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// When the first byte of the body was read; of the head, if there is no body.
    pub first_byte: Instant,
}

pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What has been read lies at `start..end`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    request: Vec<u8>,
    kept: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// The server cannot be reached, or trusts us as little as we trust it.
    pub async fn open(address: SocketAddr, credentials: &Credentials) -> Result<Self> {
        let socket = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true)?;
        let stream = credentials.0.connect(ServerName::IpAddress(address.ip().into()), socket).await?;
        let (buffer, request, kept) = (vec![0; PIECE].into(), Vec::new(), Vec::new());
        Ok(Self { stream, buffer, start: 0, end: 0, request, kept })
    }

    /// Sends a request and reads its answer, which [`Self::body`] has then.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn ask(&mut self, request: &Request<'_>) -> Result<Answer> {
        self.write(request).await?;
        self.read(true).await
    }

    /// The same, of whose answer only a refusal is kept.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn skim(&mut self, request: &Request<'_>) -> Result<Answer> {
        self.write(request).await?;
        self.read(false).await
    }

    /// What was kept of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.kept
    }

    /// # Errors
    /// The connection breaks, or the answer is not JSON.
    pub async fn json(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let bytes = body.map(serde_json::to_vec).transpose()?;
        let request = Request { method, body: bytes.as_deref().map(|bytes| (JSON, bytes)), ..Request::get(path) };
        let answer = self.ask(&request).await?;
        let value = serde_json::from_slice(&self.kept).with_context(|| format!("the answer to {method} {path}"))?;
        Ok((answer.status, value))
    }

    /// Sends a request whose answer has no end, and waits for its head.
    ///
    /// # Errors
    /// The connection breaks, or the server refuses.
    pub async fn follow(mut self, request: &Request<'_>) -> Result<Stream> {
        self.write(request).await?;
        let (head, _) = self.head().await?;
        ensure!(head.status == 200, "{} is answered with {}", request.path, head.status);
        Ok(Stream { connection: self, body: head.body })
    }

    async fn write(&mut self, request: &Request<'_>) -> Result<()> {
        request.write(&mut self.request);
        self.stream.write_all(&self.request).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self, keep: bool) -> Result<Answer> {
        let (Head { status, mut body, .. }, came) = self.head().await?;
        self.kept.clear();
        let keep = keep || status >= 300;
        let (mut length, mut first_byte) = (0, None);
        loop {
            let unread = &self.buffer[self.start..self.end];
            if !unread.is_empty() {
                first_byte = first_byte.or_else(|| Some(Instant::now()));
            }
            let kept = &mut self.kept;
            self.start += body.feed(unread, |piece| {
                length += piece.len() as u64;
                if keep {
                    kept.extend_from_slice(piece);
                }
            })?;
            if body.ended() {
                return Ok(Answer { status, length, first_byte: first_byte.unwrap_or(came) });
            }
            self.more().await?;
        }
    }

    /// The next head, and when it was there.
    async fn head(&mut self) -> Result<(Head, Instant)> {
        loop {
            if let Some(head) = Head::parse(&self.buffer[self.start..self.end])? {
                self.start += head.length;
                return Ok((head, Instant::now()));
            }
            self.more().await?;
        }
    }

    /// Reads behind what is there, which moves to the front.
    async fn more(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        ensure!(self.end < self.buffer.len(), "a head of over {PIECE} bytes");
        match self.stream.read(&mut self.buffer[self.end..]).await {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(count) => self.end += count,
            // Servers that end often do not say so in TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bail!("the server has closed the connection"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// An answer that goes on.
pub struct Stream {
    connection: Connection,
    body: Body,
}

impl Stream {
    /// Hands over all that has come, and waits if that is nothing; false at the end.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn next(&mut self, take: impl FnMut(&[u8])) -> Result<bool> {
        let Self { connection, body } = self;
        if connection.start == connection.end {
            connection.more().await?;
        }
        connection.start += body.feed(&connection.buffer[connection.start..connection.end], take)?;
        Ok(!body.ended())
    }
}
