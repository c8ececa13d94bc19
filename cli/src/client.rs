//! A small client of the Kubernetes API: JSON over HTTPS with the administrator's certificate.
//!
//! Invariants
//! - All known servers are tried, one after the other; the virtual address is only one of them, so
//!   the commands work while it moves.
//! - Every attempt has a deadline. A request that may have been carried out is not sent again to
//!   another server unless its method is safe to repeat.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// Longest a connection and handshake may take: a machine that is gone does not answer at all.
const CONNECT: Duration = Duration::from_secs(2);
const LARGEST_ANSWER: usize = 64 << 20;

/// One connection, before its request.
type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// Credentials and addresses of a cluster.
#[derive(Clone)]
pub struct Client {
    tls: Arc<rustls::ClientConfig>,
    /// `host:port`, in the order they are tried.
    servers: Vec<String>,
    /// PEM of the cluster's CA.
    ca: Vec<u8>,
    patience: Duration,
    /// The form that answers are asked for in.
    accept: &'static str,
    /// What says who asks, if no certificate does.
    token: Option<String>,
}

/// An answer other than success.
#[derive(Debug)]
pub struct Refusal {
    pub code: StatusCode,
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code.as_u16())
    }
}

impl std::error::Error for Refusal {}

impl Client {
    /// Reads a kubeconfig: the current context's cluster and its embedded certificates.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a kubeconfig that can be used", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Value = serde_yaml_ng::from_str(text)?;
        let current = config["current-context"].as_str().context("it has no current-context")?;
        let named = |list: &str, name: &str| -> Result<Value> {
            let entries = config[list].as_array().into_iter().flatten();
            let found = entries.into_iter().find(|entry| entry["name"] == name);
            found.cloned().with_context(|| format!("{list} has no {name:?}"))
        };
        let context = named("contexts", current)?["context"].take();
        let cluster = named("clusters", context["cluster"].as_str().unwrap_or_default())?["cluster"].take();
        let user = named("users", context["user"].as_str().unwrap_or_default())?["user"].take();
        let server = cluster["server"].as_str().context("the cluster has no server")?;
        let address = server.strip_prefix("https://").context("the server is not https")?.trim_end_matches('/');
        let address = if address.rsplit_once(':').is_some() { address.to_owned() } else { format!("{address}:443") };
        let ca = pem(&cluster, "certificate-authority")?;
        let token = token(&user)?;
        let own = match token {
            Some(_) if user["client-certificate"].is_null() && user["client-certificate-data"].is_null() => None,
            _ => Some((pem(&user, "client-certificate")?, pem(&user, "client-key")?)),
        };
        let tls = tls(&ca, own.as_ref().map(|(certificate, key)| (&certificate[..], &key[..])))?;
        Ok(Self {
            tls: Arc::new(tls),
            servers: vec![address],
            ca,
            patience: Duration::from_secs(10),
            accept: "application/json",
            token,
        })
    }

    /// The same credentials, other servers.
    #[must_use]
    pub fn with_servers(&self, servers: Vec<String>) -> Self {
        Self { servers, ..self.clone() }
    }

    /// The same, with another deadline for each attempt.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// The same, with answers in another form; what is not JSON is handed out as text.
    #[must_use]
    pub fn accepting(&self, accept: &'static str) -> Self {
        Self { accept, ..self.clone() }
    }

    /// `host:port` of the servers it asks.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The cluster's CA certificate, DER.
    pub fn ca_der(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(&self.ca).map_err(|e| anyhow!("the cluster's CA certificate: {e}"))
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut last = anyhow!("no server is known");
        for server in &self.servers {
            let connected = timeout(CONNECT.min(self.patience), self.connect(server)).await;
            let mut sender = match connected.map_err(|_| anyhow!("{server} does not answer")).flatten() {
                Ok(sender) => sender,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            match self.exchange(&mut sender, server, &method, path, body).await {
                Ok((status, bytes)) => match judge(status, &bytes) {
                    // A server that has no quorum or is starting says so: another may do better.
                    Err(error) if status == StatusCode::SERVICE_UNAVAILABLE => last = error,
                    judged => return judged,
                },
                // A second PUT would be refused for what the first one did.
                Err(error) if method == Method::POST || method == Method::PUT => {
                    return Err(error.context("the request may have been carried out"));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Hands out the body of an answer as it comes: for files of any size. A server that fails before the
    /// first piece is passed over for the next.
    pub async fn download(&self, path: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut last = anyhow!("no server is known");
        for server in &self.servers {
            let begun = timeout(self.patience, self.begin(server, path)).await;
            let mut body = match begun.map_err(|_| anyhow!("{server} does not answer")).flatten() {
                Ok(body) => body,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let cut = || format!("{server} broke off");
            while let Some(frame) = timeout(self.patience, body.frame()).await.with_context(cut)? {
                if let Ok(piece) = frame.with_context(cut)?.into_data() {
                    take(&piece)?;
                }
            }
            return Ok(());
        }
        Err(last)
    }

    async fn begin(&self, server: &str, path: &str) -> Result<hyper::body::Incoming> {
        let mut sender = self.connect(server).await?;
        let request = Request::get(path).header("host", server).body(Full::default())?;
        let response = sender.send_request(request).await.with_context(|| format!("asking {server}"))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let bytes = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
        Err(judge(status, &bytes).err().unwrap_or_else(|| anyhow!("{server} refused")))
    }

    async fn exchange(
        &self,
        sender: &mut Sender,
        server: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes)> {
        let mut request =
            Request::builder().method(method).uri(path).header("host", server).header("accept", self.accept);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(bytes)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let bytes = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
            anyhow::Ok((status, bytes))
        };
        timeout(self.patience, exchange)
            .await
            .map_err(|_| anyhow!("{server} accepted the request but does not answer"))?
            .with_context(|| format!("asking {server}"))
    }

    async fn connect(&self, server: &str) -> Result<Sender> {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']).to_owned();
        let socket = TcpStream::connect(server).await.with_context(|| format!("connecting to {server}"))?;
        let name = ServerName::try_from(host).with_context(|| format!("{server} has no valid host name"))?;
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone())
            .connect(name, socket)
            .await
            .with_context(|| format!("greeting {server}"))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; an error shows in the request's own result.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn judge(status: StatusCode, bytes: &Bytes) -> Result<Value> {
    if status.is_success() {
        return match serde_json::from_slice(bytes) {
            Ok(value) => Ok(value),
            Err(_) => Ok(Value::String(String::from_utf8_lossy(bytes).into_owned())),
        };
    }
    let said: Result<Value, _> = serde_json::from_slice(bytes);
    let said = said.ok().or_else(|| serde_yaml_ng::from_slice(bytes).ok()).unwrap_or_default();
    let message =
        said["message"].as_str().map_or_else(|| String::from_utf8_lossy(bytes).trim().to_owned(), str::to_owned);
    bail!(Refusal { code: status, message })
}

/// `key` as a file name, or `key-data` embedded.
fn pem(section: &Value, key: &str) -> Result<Vec<u8>> {
    if let Some(data) = section[format!("{key}-data")].as_str() {
        return STANDARD.decode(data.trim()).with_context(|| format!("{key}-data is not base64"));
    }
    let file = section[key].as_str().with_context(|| format!("it has no {key}"))?;
    std::fs::read(file).with_context(|| format!("reading {file}"))
}

/// The token of a user, as it is or in a file.
fn token(user: &Value) -> Result<Option<String>> {
    let text = match (user["tokenFile"].as_str(), user["token"].as_str()) {
        (Some(file), _) => std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?,
        (None, Some(token)) => token.to_owned(),
        (None, None) => return Ok(None),
    };
    Ok(Some(text.trim().to_owned()))
}

/// `own`: a certificate and its key, if that is what says who asks.
fn tls(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca) {
        roots.add(root.map_err(|e| anyhow!("certificate authority: {e}"))?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((certificate, key)) = own else { return Ok(config.with_no_client_auth()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow!("client certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| anyhow!("client key: {e}"))?;
    Ok(config.with_client_auth_cert(chain, key)?)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_user_is_a_certificate_or_a_token() {
        let key = KeyPair::generate().expect("a key");
        let pem = CertificateParams::default().self_signed(&key).expect("a certificate").pem();
        let data = |pem: &str| STANDARD.encode(pem);
        let read = |user: &str| {
            let client = Client::parse(&format!(
                "current-context: c\nclusters: [{{name: a, cluster: {{server: 'https://h:1', certificate-authority-data: {}}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: a, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
                data(&pem)
            ));
            client.map(|client| client.token).map_err(|error| error.to_string())
        };
        let certificate =
            format!("client-certificate-data: {}, client-key-data: {}", data(&pem), data(&key.serialize_pem()));
        assert_eq!(read(&certificate), Ok(None));
        assert_eq!(read("token: ' t '"), Ok(Some("t".to_owned())));
        assert_eq!(read(&format!("{certificate}, token: t")), Ok(Some("t".to_owned())));
        assert_eq!(read("username: x"), Err("it has no client-certificate".to_owned()));
        assert!(read("tokenFile: /no/such/file").is_err_and(|error| error.contains("/no/such/file")));
    }
}
