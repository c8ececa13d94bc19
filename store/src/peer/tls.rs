//! Who may talk on the peer port: holders of a certificate of the cluster's CA whose subject has
//! the organization `kontiki:servers`. That holds in both directions, so a node's certificate,
//! though of the same CA, can neither join in nor pose as a master.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};

use crate::{OpenError, PeerTls};

const ORGANIZATION: &str = "kontiki:servers";

/// This member's certificates, ready for use.
#[derive(Clone)]
pub(crate) struct Identity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    /// SHA-256 of the CA certificate: the cluster's name among clusters.
    pub cluster: String,
}

impl Identity {
    pub fn new(tls: &PeerTls) -> Result<Self, OpenError> {
        // Another part of the process may have installed it already, or another one: both are fine,
        // since the configurations below name theirs.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bad = |what: &str, error: &dyn std::fmt::Display| OpenError::Config(format!("{what}: {error}"));
        let authorities = certificates(&tls.ca_pem).map_err(|e| bad("peer CA", &e))?;
        let chain = certificates(&tls.cert_pem).map_err(|e| bad("peer certificate", &e))?;
        let (Some(first), Some(own)) = (authorities.first(), chain.first()) else {
            return Err(OpenError::Config("peer CA or certificate: no certificate in the PEM text".to_owned()));
        };
        if !is_server(own) {
            return Err(OpenError::Config(format!("peer certificate: its subject lacks O={ORGANIZATION}")));
        }
        let cluster = hex(&Sha256::digest(first));
        let key = || PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes()).map_err(|e| bad("peer key", &e));
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|e| bad("peer CA", &e))?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|e| bad("peer CA", &e))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad("TLS", &e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(|e| bad("peer certificate", &e))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad("TLS", &e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(|e| bad("peer certificate", &e))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), cluster })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a verified chain is a master's.
pub(crate) fn is_peer(chain: Option<&[CertificateDer<'_>]>) -> bool {
    chain.and_then(<[_]>::first).is_some_and(is_server)
}

fn is_server(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    parsed.subject().iter_organization().any(|name| name.as_str() == Ok(ORGANIZATION))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn only_a_masters_certificate_is_a_peers() {
        for (organizations, expect) in [
            (&["kontiki:servers"][..], true),
            (&["kontiki:servers", "system:masters"], true),
            (&["system:masters", "kontiki:servers"], true),
            (&["system:nodes"], false),
            (&["kontiki:servers:not"], false),
            (&[], false),
        ] {
            let mut params = CertificateParams::default();
            // rcgen keeps one name of a kind; the same kind by its number is another one to it.
            let kinds = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
            for (kind, organization) in kinds.into_iter().zip(organizations) {
                params.distinguished_name.push(kind, *organization);
            }
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(is_peer(Some(&[certificate.der().clone()])), expect, "{organizations:?}");
        }
        assert!(!is_peer(None));
        assert!(!is_peer(Some(&[])));
        assert!(!is_peer(Some(&[CertificateDer::from(vec![1, 2, 3])])));
    }
}
