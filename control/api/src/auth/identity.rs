//! Authentication: client certificate, ServiceAccount token, or nobody.
//!
//! A certificate has already been checked against the cluster CA by the TLS layer. A bearer token
//! that is not valid is refused even where nobody in particular would be let in.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Api, Status, User};

pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const ANONYMOUS: &str = "system:anonymous";

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
    (!name.is_empty()).then(|| User { name, groups, ..User::default() })
}

impl Api {
    /// Finds out who sent a request.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: Option<&User>) -> Result<User, Status> {
        let user = match (peer, bearer(headers)) {
            (Some(peer), _) => peer.clone(),
            (None, Some(token)) => self.token_user(token, &[]).await.map_err(|_| Status::unauthorized())?.user,
            (None, None) => anonymous(),
        };
        impersonated(user, headers)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `Impersonate-*` headers: open to administrators only.
fn impersonated(user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let Some(name) = text("impersonate-user") else {
        let stray = headers.keys().any(|key| key.as_str().starts_with("impersonate-"));
        return if stray { Err(Status::bad_request("requested headers need Impersonate-User")) } else { Ok(user) };
    };
    if !user.in_group(MASTERS) {
        let message = format!(
            "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(Status::forbidden(kontiki_model::GroupResource { group: "", resource: "users" }, &name, message));
    }
    let mut groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    groups.extend(implied_groups(&name).filter(|g| !groups.contains(g)).collect::<Vec<_>>());
    Ok(User { uid: text("impersonate-uid").unwrap_or_default(), groups, extra: impersonated_extra(headers), name })
}

fn implied_groups(name: &str) -> impl Iterator<Item = String> {
    let account = service_account(name);
    let general = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    let of_account = account.map(|(namespace, _)| account_groups(namespace)).into_iter().flatten();
    of_account.chain([general.to_owned()])
}

fn impersonated_extra(headers: &HeaderMap) -> std::collections::BTreeMap<String, Vec<String>> {
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            extra.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    extra
}

/// Namespace and name of a ServiceAccount's user name.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// The groups that a ServiceAccount of `namespace` is in by being one.
pub(crate) fn account_groups(namespace: &str) -> [String; 2] {
    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}
