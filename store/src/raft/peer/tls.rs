//! Who may talk on the peer port: holders of a certificate of the cluster's CA, whose subject has
//! the members' organization if there is one. That holds in both directions, so a node's
//! certificate, though of the same CA, can neither join in nor pose as a master.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};

use crate::{OpenError, PeerTls};

/// This member's certificates, ready for use.
#[derive(Clone)]
pub(crate) struct PeerIdentity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    pub members: Members,
    /// SHA-256 of the CA certificate: the cluster's name among clusters.
    pub cluster: String,
}

impl PeerIdentity {
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
        let members = Members(tls.organization.as_deref().map(Arc::from));
        if !members.admits(Some(std::slice::from_ref(own))) {
            let organization = tls.organization.as_deref().unwrap_or_default();
            return Err(OpenError::Config(format!("peer certificate: its subject lacks O={organization}")));
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
        Ok(Self { client: Arc::new(client), server: Arc::new(server), members, cluster })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whose certificates are members', by their subject's organization; `None` admits all.
#[derive(Clone, Debug)]
pub(crate) struct Members(pub Option<Arc<str>>);

impl Members {
    /// Whether a verified chain is a member's.
    pub fn admits(&self, chain: Option<&[CertificateDer<'_>]>) -> bool {
        let Some(certificate) = chain.and_then(<[_]>::first) else { return false };
        let Some(wanted) = &self.0 else { return true };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        parsed.subject().iter_organization().any(|name| name.as_str() == Ok(wanted))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn only_a_masters_certificate_is_a_peers() {
        let servers = Members(Some(PeerTls::SERVERS.into()));
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
            assert_eq!(servers.admits(Some(&[certificate.der().clone()])), expect, "{organizations:?}");
            assert!(Members(None).admits(Some(&[certificate.der().clone()])));
        }
        assert!(!servers.admits(None));
        assert!(!servers.admits(Some(&[])));
        assert!(!servers.admits(Some(&[CertificateDer::from(vec![1, 2, 3])])));
    }
}
