//! Who this agent is: its key, its certificate, and the cluster CA it trusts.
//!
//! Invariants
//! - The private key is made here, mode 0600, and never leaves the data directory.
//! - Before there is a certificate, a server is trusted only if its chain holds a CA whose public
//!   key has the configured hash, and the chain verifies against that CA.
//! - Files are replaced as wholes (`kontiki_files`), so a crash leaves the old or the new one.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use kontiki_agent_plan::rotation;
use kontiki_files::{Readers, replace};
use kontiki_proto::node::{JoinAgentRequest, JoinAgentResponse, join_client::JoinClient};
use kontiki_tls::{CaHash, Pin, Validity};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::config::Config;

/// The name in every server's certificate.
const SERVER_NAME: &str = "kubernetes";
const CONNECT: Duration = Duration::from_secs(3);
const JOIN: Duration = Duration::from_secs(15);
const RENEW_CHECK: Duration = Duration::from_secs(60);

/// What the cluster told at joining. Not secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub servers: Vec<String>,
    pub cluster_domain: String,
    pub pod_cidr: String,
    pub service_cidr: String,
}

/// A node's certificate and key, and the cluster that it belongs to.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) ca_pem: String,
    pub(crate) certificate_pem: String,
    key_pem: String,
    pub(crate) cluster: Cluster,
}

struct Files {
    dir: PathBuf,
}

impl Files {
    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        match std::fs::read_to_string(self.dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.dir.join(name).display())),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        replace(&path, text.as_bytes(), Readers::Owner).with_context(|| format!("writing {}", path.display()))
    }
}

impl Credentials {
    /// The stored credentials, or new ones from a master. Tries all servers until one answers.
    ///
    /// # Errors
    /// A reason that waiting does not cure: a refused token, a wrong CA, unusable files.
    pub(crate) async fn load_or_join(config: &Config) -> anyhow::Result<Self> {
        let files = Files { dir: config.data_dir.join("pki") };
        std::fs::create_dir_all(&files.dir).with_context(|| format!("creating {}", files.dir.display()))?;
        if let Some(credentials) = Self::load(&files, config)? {
            return Ok(credentials);
        }
        Self::join(&files, config).await
    }

    fn load(files: &Files, config: &Config) -> anyhow::Result<Option<Self>> {
        let (Some(certificate_pem), Some(key_pem), Some(ca_pem), Some(cluster)) =
            (files.read("node.crt")?, files.read("node.key")?, files.read("ca.crt")?, files.read("cluster.json")?)
        else {
            return Ok(None);
        };
        let cluster = serde_json::from_str(&cluster).context("cluster.json in the agent's data directory")?;
        let (name, validity) = read_certificate(&certificate_pem).context("node.crt in the agent's data directory")?;
        if name != format!("system:node:{}", config.name) {
            bail!("the data directory belongs to {name:?}, not to node {:?}", config.name);
        }
        if rotation::certificate_is_stale(validity.to, Timestamp::now()) && config.token.is_some() {
            return Ok(None); // joins again
        }
        Ok(Some(Self { ca_pem, certificate_pem, key_pem, cluster }))
    }

    async fn join(files: &Files, config: &Config) -> anyhow::Result<Self> {
        let token =
            config.token.clone().context("no certificate yet, and no join token: give `token` and `ca_hash`")?;
        let hash = config
            .ca_hash
            .as_deref()
            .context("`ca_hash` is needed to join: the token alone cannot show who the server is")?;
        let hash = hash.parse().context("ca_hash")?;
        let (key_pem, csr_pem) = signing_request(files, &config.name)?;
        let request = JoinAgentRequest { token, node_name: config.name.clone(), csr_pem };
        let answer = ask_to_join(config, hash, request).await?;
        let cluster = Cluster {
            servers: answer.servers,
            cluster_domain: answer.cluster_domain,
            pod_cidr: answer.pod_cidr,
            service_cidr: answer.service_cidr,
        };
        files.write("ca.crt", &answer.ca_pem)?;
        files.write("cluster.json", &serde_json::to_string(&cluster)?)?;
        // Last: its presence says that the rest is complete.
        files.write("node.crt", &answer.certificate_pem)?;
        Ok(Self { ca_pem: answer.ca_pem, certificate_pem: answer.certificate_pem, key_pem, cluster })
    }

    /// An endpoint for a server, with these credentials' TLS.
    ///
    /// # Errors
    /// If the address or the certificates cannot be used.
    pub(crate) fn endpoint(&self, server: &str) -> anyhow::Result<Endpoint> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(Identity::from_pem(&self.certificate_pem, &self.key_pem))
            .domain_name(SERVER_NAME);
        Ok(Endpoint::from_shared(format!("https://{server}"))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tls_config(tls)?)
    }
}

/// The credentials of a running agent: sessions use the latest, renewals replace it.
pub(crate) struct Current {
    files: Files,
    node: String,
    credentials: std::sync::RwLock<Credentials>,
}

impl Current {
    /// Starts with `credentials`.
    #[must_use]
    pub(crate) fn new(config: &Config, credentials: Credentials) -> Self {
        let files = Files { dir: config.data_dir.join("pki") };
        Self { files, node: config.name.clone(), credentials: std::sync::RwLock::new(credentials) }
    }

    /// The credentials to use now.
    #[must_use]
    pub(crate) fn get(&self) -> Credentials {
        self.credentials.read().expect("no writer panics").clone()
    }

    fn is_due(&self) -> bool {
        let pem = self.get().certificate_pem;
        read_certificate(&pem).is_ok_and(|(_, validity)| validity.is_due(Timestamp::now()))
    }

    async fn renew(&self, server: &str) -> anyhow::Result<()> {
        let credentials = self.get();
        let (key_pem, csr_pem) = signing_request(&self.files, &self.node)?;
        let channel = credentials.endpoint(server)?.connect().await?;
        let mut client = kontiki_proto::node::node_client::NodeClient::new(channel);
        let ask = client.renew(kontiki_proto::node::RenewRequest { csr_pem });
        let answer = tokio::time::timeout(JOIN, ask).await.context("no answer")?;
        let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
        self.files.write("ca.crt", &answer.ca_pem)?;
        self.files.write("node.crt", &answer.certificate_pem)?;
        let renewed =
            Credentials { ca_pem: answer.ca_pem, certificate_pem: answer.certificate_pem, key_pem, ..credentials };
        *self.credentials.write().expect("no writer panics") = renewed;
        Ok(())
    }

    /// Renews the certificate in time, until `stop`. Open sessions keep theirs; the next one uses
    /// the new certificate.
    pub(crate) async fn keep_fresh(&self, servers: &[String], stop: tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW_CHECK) => {}
                () = stop.cancelled() => return,
            }
            if !self.is_due() {
                continue;
            }
            for server in servers {
                match self.renew(server).await {
                    Ok(()) => {
                        tracing::info!("the node's certificate was renewed");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%server, error = format!("{error:#}"), "the node's certificate was not renewed yet")
                    }
                }
            }
        }
    }
}

/// Its common name, and how long it is good for.
fn read_certificate(pem: &str) -> anyhow::Result<(String, Validity)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("not a PEM file")?;
    let certificate = pem.parse_x509().context("not a certificate")?;
    let name = certificate.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    let name = name.context("the certificate has no common name")?.to_owned();
    Ok((name, Validity::of_certificate(&pem.contents)?))
}

/// The node's key, made if there is none, and a request to certify it.
fn signing_request(files: &Files, node: &str) -> anyhow::Result<(String, String)> {
    let key = match files.read("node.key")? {
        Some(pem) => KeyPair::from_pem(&pem).context("node.key in the agent's data directory")?,
        None => {
            let key = KeyPair::generate().context("making a key")?;
            files.write("node.key", &key.serialize_pem())?;
            key
        }
    };
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), csr))
}

async fn ask_to_join(config: &Config, hash: CaHash, request: JoinAgentRequest) -> anyhow::Result<JoinAgentResponse> {
    let mut reported = String::new();
    loop {
        for server in &config.servers {
            match join_at(server, hash, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(JoinError::Final(reason)) => bail!("joining through {server}: {reason}"),
                Err(JoinError::Later(reason)) => {
                    let line = format!("{server}: {reason}");
                    if line != reported {
                        tracing::warn!(%server, %reason, "cannot join yet");
                        reported = line;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(500 + u64::from(rand::random::<u8>()))).await;
    }
}

enum JoinError {
    /// Trying again will not help.
    Final(String),
    Later(String),
}

async fn join_at(server: &str, hash: CaHash, request: JoinAgentRequest) -> Result<JoinAgentResponse, JoinError> {
    let pin = Arc::new(Pin::new(hash));
    let later = |error: &dyn std::error::Error| JoinError::Later(chain(error));
    let endpoint = Endpoint::from_shared(format!("https://{server}")).map_err(|e| JoinError::Final(e.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tls_config_with_verifier(ClientTlsConfig::new().domain_name(SERVER_NAME), pin.clone())
        .map_err(|e| JoinError::Final(e.to_string()))?;
    let channel: Channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            let other = |unpinned| JoinError::Final(format!("ca_hash: it has another CA than {hash}: {unpinned}"));
            return Err(pin.unpinned().map_or_else(|| later(&error), other));
        }
    };
    let mut client = JoinClient::new(channel);
    match tokio::time::timeout(JOIN, client.join_agent(request)).await {
        Err(_) => Err(JoinError::Later("no answer".to_owned())),
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied
            | tonic::Code::InvalidArgument
            | tonic::Code::AlreadyExists => JoinError::Final(status.message().to_owned()),
            _ => JoinError::Later(status.message().to_owned()),
        }),
    }
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = error.source();
    }
    out
}
