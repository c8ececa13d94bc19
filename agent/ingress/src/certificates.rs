//! Certificates of hosts, chosen by the name that a client asks for (SNI).
//!
//! Invariants
//! - A certificate is read once for each version of its Secret. One that cannot be used is told of once, and its hosts have
//!   none.
//! - A key is never shown: errors say what is wrong, not with what.

use std::{collections::HashMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use parking_lot::RwLock;
use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    read::SecretName,
    table::{Host, Hosts},
};

/// The certificates that are in use.
pub(crate) struct Certificates {
    provider: Arc<CryptoProvider>,
    hosts: RwLock<Arc<Hosts<Arc<CertifiedKey>>>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// What was made of a Secret.
pub(crate) struct Read {
    secret: Arc<Secret>,
    key: Option<Arc<CertifiedKey>>,
}

/// What was made of each Secret.
pub(crate) type Known = HashMap<SecretName, Read>;

impl Certificates {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, hosts: RwLock::default() }
    }

    /// From now on exactly these are in use. `known` is what was made of Secrets before.
    pub(crate) fn set(
        &self,
        wanted: Vec<(Host, SecretName)>,
        secrets: &HashMap<SecretName, Arc<Secret>>,
        known: &mut Known,
    ) {
        known.retain(|name, read| secrets.get(name).is_some_and(|secret| Arc::ptr_eq(secret, &read.secret)));
        let mut hosts = Hosts::default();
        for (host, name) in wanted {
            let Some(secret) = secrets.get(&name) else { continue };
            let read = known.entry(name).or_insert_with_key(|(namespace, name)| {
                let key = read(secret, &self.provider);
                if let Err(reason) = &key {
                    tracing::warn!(namespace, name, reason, "the certificate of an Ingress cannot be used");
                }
                Read { secret: Arc::clone(secret), key: key.ok().map(Arc::new) }
            });
            if let Some(key) = &read.key {
                hosts.offer(host, Arc::clone(key));
            }
        }
        *self.hosts.write() = Arc::new(hosts);
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let hosts = Arc::clone(&self.hosts.read());
        let name = name.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        hosts.of(&name).next().cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

fn read(secret: &Secret, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let part = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("{name} is missing"))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(part("tls.crt")?).collect();
    let chain = chain.map_err(|_| "tls.crt is not PEM".to_owned())?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(|_| "tls.key has no private key".to_owned())?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "tls.key is not the key of tls.crt".to_owned(),
        _ => "its key or certificate is of no known kind".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(certificate: &str, key: &str) -> Arc<Secret> {
        let data =
            [("tls.crt", certificate), ("tls.key", key)].map(|(name, text)| (name.to_owned(), ByteString(text.into())));
        Arc::new(Secret { data: Some(data.into()), ..Secret::default() })
    }

    fn pair(host: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn names_find_certificates_and_what_is_no_pair_is_none() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates = Certificates::new(provider);
        let ((first, first_key), (second, second_key)) = (pair("a"), pair("b"));
        let name = |text: &str| ("d".to_owned(), text.to_owned());
        let mut secrets: HashMap<SecretName, Arc<Secret>> = [
            (name("one"), secret(&first, &first_key)),
            (name("two"), secret(&second, &second_key)),
            (name("mixed"), secret(&first, &second_key)),
            (name("broken"), secret("-----BEGIN CERTIFICATE-----\nAAAA", "x")),
            (name("empty"), Arc::new(Secret::default())),
        ]
        .into();
        let wanted = || {
            ["a.b=one", "*.a.b=two", "a.b=two", "m.x=mixed", "b.x=broken", "e.x=empty", "g.x=gone"]
                .iter()
                .filter_map(|text| text.split_once('='))
                .map(|(host, secret)| (Host::read(host), name(secret)))
                .collect::<Vec<_>>()
        };
        let mut known = Known::new();
        certificates.set(wanted(), &secrets, &mut known);
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let shown = |host: Option<&str>| match certificates.find(host) {
            Some(key) if key.cert[0] == der(&first) => "one",
            Some(_) => "two",
            None => "none",
        };
        for (host, expect) in [
            (Some("a.b"), "one"),
            (Some("A.B."), "one"),
            (Some("x.a.b"), "two"),
            (Some("x.y.a.b"), "none"),
            (Some("m.x"), "none"),
            (Some("b.x"), "none"),
            (Some("e.x"), "none"),
            (Some("g.x"), "none"),
            (None, "none"),
        ] {
            assert_eq!(shown(host), expect, "{host:?}");
        }
        let before = certificates.find(Some("x.a.b")).expect("a certificate");
        secrets.insert(name("one"), secret(&second, &second_key));
        certificates.set([wanted(), vec![(Host::Any, name("two"))]].concat(), &secrets, &mut known);
        assert_eq!((shown(Some("a.b")), shown(None)), ("two", "two"), "a Secret changed, and there is one for all");
        let after = certificates.find(Some("x.a.b")).expect("a certificate");
        assert!(Arc::ptr_eq(&before, &after), "what did not change is not read again");
    }
}
