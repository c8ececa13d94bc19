//! TLS as a server speaks it: its own identity, renewed while it runs, and the configurations of its
//! three kinds of connections.
//!
//! Invariants
//! - The chain shown is leaf, then CA, so that a joiner can pin the CA by its key.
//! - A renewed certificate is used by the next handshake; open connections stay.
//! - Client certificates are optional everywhere; whoever needs one checks [`crate::pki::bearer`].

use std::{net::IpAddr, sync::Arc};

use anyhow::Context as _;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    datadir,
    pki::{self, LEAF_LIFE, Pki, Subject},
    token::CaHash,
};

/// ALPN of gRPC.
const H2: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// This server's certificate and key, as they are now.
pub struct Identity {
    pki: Arc<Pki>,
    dir: std::path::PathBuf,
    name: String,
    addresses: Vec<IpAddr>,
    domain: String,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}

impl Identity {
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

    /// Renews the certificate whenever two thirds of its life are over, until `stop`.
    pub async fn rotate(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // A dropped timer loses nothing: the clock is looked at anew each time.
                () = tokio::time::sleep(pki::ROTATION_CHECK) => {}
            }
            let due = self.current.read().cert.first().map(|der| pki::renew_at(der));
            if !matches!(due, Some(Ok(at)) if at <= Timestamp::now()) {
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

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn roots(ca: &CertificateDer<'static>) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).context("the CA certificate")?;
    Ok(Arc::new(roots))
}

/// A server's side: `alpn` in order of preference.
///
/// # Errors
/// The CA certificate is unusable.
pub fn serving(identity: &Arc<Identity>, alpn: &[&[u8]]) -> anyhow::Result<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity.pki.ca_der())?, provider())
        .allow_unauthenticated()
        .build()
        .context("the CA certificate")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.clone());
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's side between servers: gRPC with this server's certificate.
///
/// # Errors
/// The CA certificate is unusable.
pub fn between_servers(identity: &Arc<Identity>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(identity.pki.ca_der())?)
        .with_client_cert_resolver(identity.clone());
    config.alpn_protocols = vec![H2.to_vec()];
    Ok(Arc::new(config))
}

/// A joiner's side: trusts the CA whose key has `hash`, and nothing else.
///
/// # Errors
/// None that outside input can cause.
pub fn pinned(hash: CaHash) -> anyhow::Result<(Arc<ClientConfig>, Arc<Pin>)> {
    let pin = Arc::new(Pin { hash, provider: provider(), seen: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pin.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![H2.to_vec()];
    Ok((Arc::new(config), pin))
}

/// Verifies a server by the hash of its CA's key.
#[derive(Debug)]
pub struct Pin {
    hash: CaHash,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<CaHash>>,
}

impl Pin {
    /// The hash that a server showed instead of the expected one.
    #[must_use]
    pub fn mismatch(&self) -> Option<CaHash> {
        *self.seen.lock()
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hashes: Vec<_> = chain
            .iter()
            .filter_map(|der| Some((CaHash::of_spki(&pki::spki_of(der).ok()?), der.clone().into_owned())))
            .collect();
        let Some((_, ca)) = hashes.iter().find(|(hash, _)| *hash == self.hash) else {
            *self.seen.lock() = hashes.last().map(|(hash, _)| *hash);
            return Err(rustls::Error::General("the CA is not the expected one".into()));
        };
        let roots = roots(ca).map_err(|_| rustls::Error::General("the CA certificate is unusable".into()))?;
        WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_trusts_one_ca_only() {
        let (one, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let pki = Arc::new(Pki::open_or_create(one.path()).expect("pki"));
        let stranger = Pki::open_or_create(other.path()).expect("pki");
        let address: IpAddr = "10.0.0.1".parse().expect("address");
        let identity = Identity::open(pki.clone(), one.path(), "s1", vec![address], "cluster.local").expect("identity");
        let chain = identity.current.read().cert.clone();
        let verify = |hash, name: &str, chain: &[CertificateDer<'static>]| {
            let (_, pin) = pinned(hash).expect("config");
            let name = ServerName::try_from(name.to_owned()).expect("name");
            let now = UnixTime::now();
            (pin.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok(), pin.mismatch())
        };
        assert_eq!(verify(pki.ca_hash(), "10.0.0.1", &chain), (true, None));
        assert!(!verify(pki.ca_hash(), "10.0.0.2", &chain).0, "another address");
        assert_eq!(verify(stranger.ca_hash(), "10.0.0.1", &chain), (false, Some(pki.ca_hash())), "another CA");
        assert_eq!(verify(pki.ca_hash(), "10.0.0.1", &chain[..1]), (false, None), "no CA shown");
        // The right CA beside a leaf that it did not sign.
        let forged = stranger
            .issue(
                &Subject::Server { name: "s1", addresses: &[address], domain: "cluster.local" },
                LEAF_LIFE,
                Timestamp::now(),
            )
            .expect("leaf");
        let forged = [pki::pem_der(&forged.cert_pem).expect("pem"), pki.ca_der().clone()];
        assert!(!verify(pki.ca_hash(), "10.0.0.1", &forged).0, "a leaf of another CA");
    }
}
