//! TLS as a server speaks it: its own certificate, renewed while it runs, and the configurations of its
//! three kinds of connections.
//!
//! Invariants
//! - The chain shown is leaf, then CA, so that a joiner can pin the CA by its key.
//! - A renewed certificate is used by the next handshake; open connections stay.
//! - Client certificates are optional everywhere; whoever needs one checks [`crate::pki::bearer`].

use std::{net::IpAddr, sync::Arc};

use anyhow::Context as _;
use jiff::Timestamp;
use kontiki_tls::{CaHash, Pin, Validity, provider};
use parking_lot::RwLock;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    datadir,
    pki::{self, LEAF_LIFE, Pki, Subject},
};

/// ALPN of gRPC.
const H2: &[u8] = b"h2";

/// This server's certificate and key, as they are now.
pub struct ServerCertificate {
    pki: Arc<Pki>,
    dir: std::path::PathBuf,
    name: String,
    addresses: Vec<IpAddr>,
    domain: String,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCertificate({})", self.name)
    }
}

impl ServerCertificate {
    /// The certificate in `dir` if it still fits, else a new one.
    ///
    /// # Errors
    /// Issuing or writing failed.
    pub fn open(
        pki: Arc<Pki>,
        dir: &std::path::Path,
        name: &str,
        addresses: Vec<IpAddr>,
        domain: &str,
    ) -> anyhow::Result<Arc<Self>> {
        // Issued afresh at each start: addresses may have changed, and it costs a millisecond.
        let current = renew(&pki, dir, name, &addresses, domain)?;
        let (dir, name, domain) = (dir.to_owned(), name.to_owned(), domain.to_owned());
        Ok(Arc::new(Self { pki, dir, name, addresses, domain, current: RwLock::new(current) }))
    }

    /// When the certificate begins and ends.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        Validity::of_certificate(self.current.read().cert.first()?).ok()
    }

    /// Another certificate of this server.
    ///
    /// # Errors
    /// Issuing failed.
    pub fn issue(&self, life: std::time::Duration, now: Timestamp) -> anyhow::Result<pki::Leaf> {
        let subject = Subject::Server { name: &self.name, addresses: &self.addresses, domain: &self.domain };
        self.pki.issue(&subject, life, now)
    }

    /// Renews the certificate whenever it is due, until `stop`.
    pub async fn rotate(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // A dropped timer loses nothing: the clock is looked at anew each time.
                () = tokio::time::sleep(pki::ROTATION_CHECK) => {}
            }
            let validity = self.current.read().cert.first().map(|der| Validity::of_certificate(der));
            if !matches!(validity, Some(Ok(validity)) if validity.is_due(Timestamp::now())) {
                continue;
            }
            match renew(&self.pki, &self.dir, &self.name, &self.addresses, &self.domain) {
                Ok(fresh) => {
                    *self.current.write() = fresh;
                    info!("the server's certificate was renewed");
                }
                Err(error) => error!(error = format!("{error:#}"), "the server's certificate could not be renewed"),
            }
        }
    }
}

fn renew(
    pki: &Pki,
    dir: &std::path::Path,
    name: &str,
    addresses: &[IpAddr],
    domain: &str,
) -> anyhow::Result<Arc<CertifiedKey>> {
    let leaf = pki.issue(&Subject::Server { name, addresses, domain }, LEAF_LIFE, Timestamp::now())?;
    datadir::write(&dir.join("server.key"), leaf.key_pem.as_bytes())?;
    datadir::write(&dir.join("server.crt"), leaf.cert_pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(|e| anyhow::anyhow!("new key: {e}"))?;
    let chain = vec![pki::pem_der(&leaf.cert_pem)?, pki.ca_der().clone()];
    let key = provider().key_provider.load_private_key(key).context("new key")?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

impl ResolvesClientCert for ServerCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What this server shows to those that it passes requests on to: see [`pki::FRONT_PROXY`]. Renewed when it is due and
/// asked for; it lies in memory only.
pub struct FrontProxy {
    pki: Arc<Pki>,
    current: RwLock<(Arc<CertifiedKey>, Validity)>,
}

impl std::fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrontProxy")
    }
}

impl FrontProxy {
    /// With a new certificate.
    ///
    /// # Errors
    /// Issuing failed.
    pub fn open(pki: Arc<Pki>) -> anyhow::Result<Arc<Self>> {
        let current = RwLock::new(Self::issue(&pki)?);
        Ok(Arc::new(Self { pki, current }))
    }

    fn issue(pki: &Pki) -> anyhow::Result<(Arc<CertifiedKey>, Validity)> {
        let leaf = pki.issue(&Subject::FrontProxy, LEAF_LIFE, Timestamp::now())?;
        let key =
            PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(|e| anyhow::anyhow!("new key: {e}"))?;
        let key = provider().key_provider.load_private_key(key).context("new key")?;
        let der = pki::pem_der(&leaf.cert_pem)?;
        let validity = Validity::of_certificate(&der).context("new certificate")?;
        Ok((Arc::new(CertifiedKey::new(vec![der], key)), validity))
    }
}

impl ResolvesClientCert for FrontProxy {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if self.current.read().1.is_due(Timestamp::now()) {
            match Self::issue(&self.pki) {
                Ok(fresh) => *self.current.write() = fresh,
                Err(error) => {
                    error!(error = format!("{error:#}"), "the front proxy's certificate could not be renewed")
                }
            }
        }
        Some(self.current.read().0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn roots(ca: &CertificateDer<'static>) -> anyhow::Result<Arc<RootCertStore>> {
    Ok(Arc::new(store(std::slice::from_ref(ca))?))
}

fn store(authorities: &[CertificateDer<'static>]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).context("a CA certificate")?;
    }
    Ok(roots)
}

/// Knows certificates that descend from `authorities`.
///
/// # Errors
/// One of these is unusable.
pub fn verifier(authorities: &[CertificateDer<'static>]) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(store(authorities)?), provider())
        .allow_unauthenticated()
        .build()
        .context("a CA certificate")
}

/// A server's side: `alpn` in order of preference.
///
/// # Errors
/// The CA certificate is unusable.
pub fn serving(certificate: &Arc<ServerCertificate>, alpn: &[&[u8]]) -> anyhow::Result<Arc<ServerConfig>> {
    serving_also(certificate, alpn, &[])
}

/// As [`serving`]; clients may show certificates of other authorities too. What these are good for is for others to say.
///
/// # Errors
/// A CA certificate is unusable.
pub fn serving_also(
    certificate: &Arc<ServerCertificate>,
    alpn: &[&[u8]],
    others: &[CertificateDer<'static>],
) -> anyhow::Result<Arc<ServerConfig>> {
    let authorities: Vec<_> = others.iter().chain([certificate.pki.ca_der()]).cloned().collect();
    let verifier = verifier(&authorities)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate.clone());
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's side between servers: gRPC with this server's certificate.
///
/// # Errors
/// The CA certificate is unusable.
pub fn between_servers(certificate: &Arc<ServerCertificate>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(certificate.pki.ca_der())?)
        .with_client_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// A joiner's side: trusts the CA whose key has `hash`, and nothing else.
///
/// # Errors
/// None that outside input can cause.
pub fn pinned(hash: CaHash) -> anyhow::Result<(Arc<ClientConfig>, Arc<Pin>)> {
    let pin = Arc::new(Pin::new(hash));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    Ok((Arc::new(config), pin))
}
