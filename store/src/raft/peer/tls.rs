//! Who may talk on the peer port: holders of a certificate of the cluster's CA, whose subject has
//! the members' organization if there is one, or that is for servers if there is none, and that has one of the members'
//! names if they are known. That holds in both directions, so a node's or a client's
//! certificate, though of the same CA, can neither join in nor pose as a member.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{GeneralName, X509Certificate};

use crate::{OpenError, PeerTls};

/// This member's certificates, ready for use.
#[derive(Clone)]
pub(crate) struct PeerIdentity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    pub members: Members,
    pub own: Arc<Own>,
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
        let Some(first) = authorities.first() else {
            return Err(OpenError::Config("peer CA: no certificate in the PEM text".to_owned()));
        };
        let members = Members::new(tls);
        let own = certified(&tls.cert_pem, &tls.key_pem, &members, &provider)?;
        let own = Arc::new(Own(RwLock::new(Arc::new(own))));
        let cluster = hex(&Sha256::digest(first));
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
            .with_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesServerCert>);
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad("TLS", &e))?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesClientCert>);
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server), members, own, cluster })
    }

    /// Shows another certificate from now on; connections that are there stay.
    pub fn renew(&self, cert_pem: &str, key_pem: &str) -> Result<(), OpenError> {
        let provider = rustls::crypto::ring::default_provider();
        *self.own.0.write() = Arc::new(certified(cert_pem, key_pem, &self.members, &provider)?);
        Ok(())
    }
}

/// What this member shows, as it is now.
#[derive(Debug)]
pub(crate) struct Own(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A member's certificate with its key.
fn certified(
    cert_pem: &str,
    key_pem: &str,
    members: &Members,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, OpenError> {
    let bad = |what: &str, error: &dyn std::fmt::Display| OpenError::Config(format!("{what}: {error}"));
    let chain = certificates(cert_pem).map_err(|e| bad("peer certificate", &e))?;
    let own = chain.first().ok_or_else(|| bad("peer certificate", &"no certificate in the PEM text"))?;
    members.judge(own).map_err(|why| bad("peer certificate", &why))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad("peer key", &e))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| bad("peer certificate", &e))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whose certificates are members'.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    organization: Option<Arc<str>>,
    names: Arc<[String]>,
}

impl Members {
    pub fn new(tls: &PeerTls) -> Self {
        Self { organization: tls.organization.as_deref().map(Arc::from), names: tls.names.as_slice().into() }
    }

    /// Whether a verified chain is a member's.
    pub fn admits(&self, chain: Option<&[CertificateDer<'_>]>) -> bool {
        chain.and_then(<[_]>::first).is_some_and(|certificate| self.judge(certificate).is_ok())
    }

    /// Why a certificate is no member's, if it is not.
    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), String> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|_| "it cannot be read".to_owned())?;
        match &self.organization {
            Some(wanted) if !parsed.subject().iter_organization().any(|name| name.as_str() == Ok(wanted)) => {
                return Err(format!("its subject lacks O={wanted}"));
            }
            // A CA that signs for clients as well gives them certificates that are not for servers.
            None if !is_for_servers(&parsed) => {
                return Err("its extended key usage lacks serverAuth, as a client's does".to_owned());
            }
            _ => {}
        }
        match self.names.is_empty() || names(&parsed).iter().any(|name| self.names.contains(name)) {
            true => Ok(()),
            false => Err(format!("it has none of the members' names: {}", self.names.join(", "))),
        }
    }
}

fn is_for_servers(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.extended_key_usage().ok().flatten();
    usage.is_some_and(|usage| usage.value.server_auth || usage.value.any)
}

/// The common name and the alternative DNS names.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned);
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    common.chain(alternative).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, KeyPair};

    use super::*;

    fn members(organization: Option<&str>, names: &[&str]) -> Members {
        let names = names.iter().map(ToString::to_string).collect();
        let organization = organization.map(str::to_owned);
        Members::new(&PeerTls {
            ca_pem: String::new(),
            cert_pem: String::new(),
            key_pem: String::new(),
            organization,
            names,
        })
    }

    #[test]
    fn a_clients_certificate_of_the_same_ca_is_no_members() {
        let issue = |usages: &[Usage], common: &str, dns: &[&str]| {
            let names: Vec<String> = dns.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, common);
            params.extended_key_usages = usages.to_vec();
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let both = [Usage::ServerAuth, Usage::ClientAuth];
        for (what, certificate, any, named) in [
            ("a member's", issue(&both, "s1", &[]), true, true),
            ("one by its DNS name", issue(&both, "x", &["y", "s2"]), true, true),
            ("another server's", issue(&both, "web", &["web"]), true, false),
            ("a client's", issue(&[Usage::ClientAuth], "s1", &["s1"]), false, false),
            ("for nothing in particular", issue(&[], "s1", &["s1"]), false, false),
        ] {
            let chain = [certificate];
            assert_eq!(members(None, &[]).admits(Some(&chain)), any, "{what}");
            assert_eq!(members(None, &["s1", "s2"]).admits(Some(&chain)), named, "{what}, by name");
        }
    }

    #[test]
    fn only_a_masters_certificate_is_a_peers() {
        let servers = members(Some(PeerTls::SERVERS), &[]);
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
        }
        assert!(!servers.admits(None));
        assert!(!servers.admits(Some(&[])));
        assert!(!servers.admits(Some(&[CertificateDer::from(vec![1, 2, 3])])));
    }
}
