//! Authentication: client certificate, ServiceAccount token, a token that somebody else knows, or nobody.
//!
//! A certificate has already been checked against the cluster CA by the TLS layer. A bearer token
//! that is not valid is refused even where nobody in particular would be let in.

use std::time::Instant;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use kontiki_machinery::meta;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::proxies::RemoteHeaders;
use crate::{Api, Status, User};

pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// Group of the nodes, and what their user names begin with.
pub(crate) const NODE_GROUP: &str = "system:nodes";
pub(crate) const NODE_USER: &str = "system:node:";
/// Extra that says by which credential a user came.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Nobody in particular.
pub(crate) fn anonymous() -> User {
    User::new(ANONYMOUS, &[UNAUTHENTICATED])
}

/// The user a verified client certificate names: CN is the user, each O a group.
pub(crate) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let digest = <sha2::Sha256 as sha2::Digest>::digest(certificate);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={digest}")])].into();
    (!name.is_empty()).then(|| User { name, groups, extra, ..User::default() })
}

impl Api {
    /// Finds out who sent a request to `path`, before `deadline`. `peer`: whom the certificate names; `proxy`: it is one
    /// of those who ask for others.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        (peer, proxy): (Option<&User>, bool),
        path: &str,
        deadline: Instant,
    ) -> Result<User, Status> {
        let proxies = self.inner.config.proxies.as_ref().filter(|_| proxy);
        if let Some(user) = proxies.and_then(|proxies| proxies.headers.user(headers)) {
            return Ok(vouched_for(user));
        }
        match (peer, bearer(headers)) {
            (Some(peer), _) => Ok(self.passed_on(peer, headers).unwrap_or_else(|| peer.clone())),
            (None, Some(token)) => match self.token_user(token, &[], deadline).await {
                Ok(found) => Ok(found.user),
                Err(why) => {
                    tracing::debug!(why, "a token was refused");
                    Err(Status::unauthorized())
                }
            },
            (None, None) if self.inner.config.anonymous.admits(path) => Ok(anonymous()),
            (None, None) => Err(Status::unauthorized()),
        }
    }
}

/// A user that somebody vouches for, with the group of all those.
pub(crate) fn vouched_for(mut user: User) -> User {
    let known = [AUTHENTICATED, UNAUTHENTICATED].iter().any(|group| user.in_group(group));
    if !known && user.name != ANONYMOUS {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

impl Api {
    /// The user for whom a front proxy asks; `None`: the peer is none, or asks for itself.
    fn passed_on(&self, peer: &User, headers: &HeaderMap) -> Option<User> {
        let proxy = self.inner.config.front_proxy.as_ref()?;
        let trusted = peer.name == proxy.name && proxy.groups.iter().all(|group| peer.in_group(group));
        trusted.then(|| RemoteHeaders::default().user(headers)).flatten().map(vouched_for)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    // An empty token is none.
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Namespace and name of a ServiceAccount's user name.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let legal =
        meta::name_is_dns_label(namespace, false).is_empty() && meta::name_is_dns_subdomain(name, false).is_empty();
    legal.then_some((namespace, name))
}

/// The groups that a ServiceAccount of `namespace` is in by being one.
pub(crate) fn account_groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}
