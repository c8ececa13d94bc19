//! Whom a client on this master trusts, and why it does not in upstream's words.

use std::io;
use std::sync::Arc;

use kontiki_machinery::outcall::{Credentials, Target};
use kontiki_tls::{any_certificate, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Where machines keep the certificates that they trust.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A client that trusts what descends from `bundle` (PEM), or from what the machine trusts if that is empty.
///
/// # Errors
/// There is no certificate in it.
pub(crate) fn client(bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    Ok(Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier(bundle)?)
            .with_no_client_auth(),
    ))
}

/// A client of a server that is called.
///
/// # Errors
/// As [`client`]; its own certificate cannot be used.
pub(crate) fn to(target: &Target) -> Result<Arc<ClientConfig>, String> {
    let Credentials { certificate, insecure, .. } = &target.credentials;
    let identity = certificate.as_ref().map(|(certificate, key)| shown(certificate, key)).transpose()?;
    passing(&target.ca_bundle, *insecure, identity)
}

/// What a client shows.
fn shown(certificate: &[u8], key: &[u8]) -> Result<Arc<dyn ResolvesClientCert>, String> {
    let unusable = |why: &dyn std::fmt::Display| format!("unable to load the client certificate: {why}");
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|why| unusable(&why))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| unusable(&why))?;
    let key = provider().key_provider.load_private_key(key).map_err(|why| unusable(&why))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|why| unusable(&why))?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

/// A client that passes requests on: it shows `identity`, and believes everybody if `insecure`.
///
/// # Errors
/// As [`client`].
pub(crate) fn passing(
    bundle: &[u8],
    insecure: bool,
    identity: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<Arc<ClientConfig>, String> {
    if insecure {
        return Ok(Arc::new(any_certificate(identity)));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier(bundle)?);
    Ok(Arc::new(match identity {
        Some(identity) => config.with_client_cert_resolver(identity),
        None => config.with_no_client_auth(),
    }))
}

/// Judges servers by `bundle`, as [`client`].
fn verifier(bundle: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let system = || SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let pem = if bundle.is_empty() { system() } else { bundle.to_vec() };
    let trusted: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let unusable = |_| "unable to load root certificates: unable to parse bytes as PEM block".to_owned();
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(unusable)?;
    Ok(Arc::new(Trust { chains, trusted }))
}

/// Chains that end in what is trusted; and, as Go has it, a server that shows a trusted certificate itself.
#[derive(Debug)]
struct Trust {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn shows_itself(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        let (_, parsed) = X509Certificate::from_der(shown).map_err(|_| CertificateError::BadEncoding)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chains.verify_server_cert(shown, intermediates, name, ocsp, now) {
            Err(_) if self.trusted.iter().any(|trusted| trusted == shown) => self.shows_itself(shown, name, now),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Why a handshake failed.
pub(crate) fn reason(error: &io::Error) -> String {
    let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return if error.kind() == io::ErrorKind::UnexpectedEof { "EOF".to_owned() } else { error.to_string() };
    };
    let x509 = match failure {
        Error::InvalidCertificate(why) => certificate(why),
        Error::InvalidMessage(_) => return "http: server gave HTTP response to HTTPS client".to_owned(),
        Error::AlertReceived(alert) => return format!("remote error: tls: {alert:?}"),
        other => return format!("tls: {other}"),
    };
    format!("tls: failed to verify certificate: x509: {x509}")
}

fn certificate(why: &CertificateError) -> String {
    match why {
        // An authority of the same name with another key has not signed it either.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired
        | CertificateError::NotValidYet
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYetContext { .. } => "certificate has expired or is not yet valid".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // Of an address Go tells the addresses, of a name the names.
            let kind = if matches!(expected, ServerName::IpAddress(_)) { "IpAddress(" } else { "DnsName(" };
            let names: Vec<&str> = presented.iter().filter_map(|name| bare(name, kind)).collect();
            match names.len() {
                0 => format!("certificate is not valid for any names, but wanted to match {}", expected.to_str()),
                _ => format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str()),
            }
        }
        other => other.to_string(),
    }
}

/// `a` of `DnsName("a")`, if it is of this kind.
fn bare<'a>(name: &'a str, kind: &str) -> Option<&'a str> {
    Some(name.strip_prefix(kind)?.strip_suffix(')')?.trim_matches('"'))
}
