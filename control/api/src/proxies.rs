//! Proxies in front of the API, under an authority of their own: which certificates are theirs, and in which headers they
//! name whom they ask for (upstream's `--requestheader-*`).
//!
//! Invariant: a certificate of their authority makes nobody a user, and one of the cluster's makes nobody a proxy.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use kontiki_machinery::access::User;
use percent_encoding::percent_decode_str;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of headers, in small letters.
#[derive(Clone, Debug)]
pub struct RemoteHeaders {
    /// The first that says something names the user.
    pub user: Vec<String>,
    /// The first that says something is its id.
    pub uid: Vec<String>,
    /// All that these say are groups.
    pub groups: Vec<String>,
    /// What headers of extras begin with.
    pub extra: Vec<String>,
}

impl Default for RemoteHeaders {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            user: one("x-remote-user"),
            uid: one("x-remote-uid"),
            groups: one("x-remote-group"),
            extra: one("x-remote-extra-"),
        }
    }
}

impl RemoteHeaders {
    /// The user that a request is for; `None`: it names none.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| {
            names.iter().find_map(|name| values(name).into_iter().next().filter(|value| !value.is_empty()))
        };
        let mut user = User { name: first(&self.user)?, ..User::default() };
        user.uid = first(&self.uid).unwrap_or_default();
        user.groups = self.groups.iter().flat_map(|name| values(name)).collect();
        for name in headers.keys() {
            let key = self.extra.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let Some(key) = key {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                user.extra.entry(key).or_default().extend(values(name.as_str()));
            }
        }
        Some(user)
    }
}

/// Who may ask for others.
pub struct Proxies {
    /// Knows the cluster's certificates.
    pub own: Arc<dyn ClientCertVerifier>,
    /// Knows those of proxies.
    pub theirs: Arc<dyn ClientCertVerifier>,
    /// Common names of proxies; none: any that their authority gave.
    pub names: Vec<String>,
    /// In which they say whom they ask for.
    pub headers: RemoteHeaders,
}

/// What a certificate is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shown {
    /// It names a user.
    pub user: bool,
    /// Who shows it may ask for others.
    pub proxy: bool,
}

impl Proxies {
    /// What a chain that a client has shown is good for.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Shown {
        let Some((leaf, between)) = chain.split_first() else { return Shown::default() };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
        let known = |by: &Arc<dyn ClientCertVerifier>| by.verify_client_cert(leaf, between, now).is_ok();
        let named = self.names.is_empty() || self.names.iter().any(|name| names(leaf, name));
        Shown { user: known(&self.own), proxy: named && known(&self.theirs) }
    }
}

fn names(leaf: &CertificateDer<'_>, name: &str) -> bool {
    X509Certificate::from_der(leaf)
        .is_ok_and(|(_, parsed)| parsed.subject().iter_common_name().any(|found| found.as_str() == Ok(name)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "the same");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
        }

        fn gives(&self, name: &str) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().expect("a key");
            params.signed_by(&key, &self.0).expect("a certificate").der().clone()
        }

        fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).expect("a root");
            let provider = kontiki_tls::provider();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier")
        }
    }

    #[test]
    fn each_authority_makes_what_it_is_for() {
        let (cluster, proxies, other) = (Authority::new(), Authority::new(), Authority::new());
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        for (chain, names, expect) in [
            (vec![cluster.gives("front")], &[][..], (true, false)),
            (vec![proxies.gives("front")], &[], (false, true)),
            (vec![proxies.gives("front")], &["other", "front"], (false, true)),
            (vec![proxies.gives("admin")], &["front"], (false, false)),
            (vec![cluster.gives("front")], &["front"], (true, false)),
            (vec![other.gives("front")], &[], (false, false)),
            (vec![other.gives("front"), proxies.gives("front")], &[], (false, false)),
            (Vec::new(), &[], (false, false)),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let headers = RemoteHeaders::default();
            let known = Proxies { own: cluster.verifier(), theirs: proxies.verifier(), names, headers };
            let shown = known.judge(&chain, now);
            assert_eq!((shown.user, shown.proxy), expect);
        }
    }

    #[test]
    fn headers_name_whom_a_proxy_asks_for() {
        let names = RemoteHeaders { user: vec!["x-a".into(), "x-user".into()], ..RemoteHeaders::default() };
        for (headers, expect) in [
            (&[("x-user", "ann"), ("x-remote-group", "g"), ("x-remote-group", "h")][..], Some("ann g,h  ")),
            (&[("x-a", ""), ("x-user", "ann"), ("x-remote-uid", "1")], Some("ann  1 ")),
            (&[("x-user", "ann"), ("x-remote-extra-acme%2fa", "x")], Some("ann   acme/a")),
            (&[("x-remote-user", "ann")], None),
            (&[("x-remote-group", "system:masters")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let user = names.user(&map).map(|user| {
                let extra: Vec<&str> = user.extra.keys().map(String::as_str).collect();
                format!("{} {} {} {}", user.name, user.groups.join(","), user.uid, extra.join(","))
            });
            assert_eq!(user.as_deref(), expect, "{headers:?}");
        }
    }
}
