//! Calls to servers outside this process that have a say in what it does: whom to call, and who does it.
//!
//! Not here: sockets, TLS, clocks (whoever implements [`Caller`]).

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{access::Objects, admission::Waiting};

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// At an absolute URL of scheme `https`.
    Url(String),
    /// Behind a service of the cluster.
    Service {
        /// Namespace of the service.
        namespace: String,
        /// Its name.
        name: String,
        /// One of its ports.
        port: u16,
        /// Path and query of the URL; may be empty.
        path: String,
    },
}

/// A server, and what its certificate must descend from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where it is.
    pub place: Place,
    /// Certificates in PEM; empty: those that the machine trusts.
    pub ca_bundle: Vec<u8>,
    /// As whom it is called.
    pub credentials: Credentials,
}

/// As whom a server is called, and how it is known besides its certificate's descent. None of it by default.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// A client certificate and its key, in PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// The header `Authorization`; empty: none.
    pub authorization: String,
    /// The name in the server's certificate; empty: that of the URL.
    pub server_name: String,
    /// Whether whoever answers is believed.
    pub insecure: bool,
}

/// Nothing secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Target {
    /// The target in a `clientConfig` (`WebhookClientConfig`, with its defaults); `None` if it names neither a URL nor a
    /// service.
    #[must_use]
    pub fn of(client: &Value) -> Option<Self> {
        let text = |owner: &Value, field: &str| owner[field].as_str().unwrap_or_default().to_owned();
        let service = &client["service"];
        let place = match client["url"].as_str() {
            Some(url) => Place::Url(url.to_owned()),
            None if service.is_object() => Place::Service {
                namespace: text(service, "namespace"),
                name: text(service, "name"),
                port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
                path: text(service, "path"),
            },
            None => return None,
        };
        let ca_bundle = STANDARD.decode(text(client, "caBundle")).unwrap_or_default();
        Some(Self { place, ca_bundle, credentials: Credentials::default() })
    }

    /// The URL as errors and `Host` headers have it.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service { namespace, name, port, path } => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        }
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the call's beginning.
    pub timeout: Duration,
    /// At the latest.
    pub deadline: Instant,
}

/// One that calls servers.
pub trait Caller: Send + Sync {
    /// POSTs a JSON document and gives the body of an answer of success, which is as long as answers may be at most.
    /// Waits no longer than `patience` says. May be dropped at any `await`.
    ///
    /// # Errors
    /// Why there is no such answer, in upstream's words where it has some.
    fn post<'a>(
        &'a self,
        target: &'a Target,
        document: Vec<u8>,
        patience: Patience,
    ) -> Waiting<'a, Result<Vec<u8>, String>>;

    /// A UID that nobody else has.
    fn uid(&self) -> String;
}

/// One that serves a service.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The node that it is on, if it is on one.
    pub node: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Why nobody serves a service; the texts are upstream's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoEndpoint {
    /// It is not there, or not of a kind that is served by endpoints.
    #[error("{0}")]
    Service(String),
    /// It does not have the port.
    #[error("{0}")]
    Port(String),
    /// Nobody who serves it is ready.
    #[error("{0}")]
    Endpoints(String),
}

/// One that knows who serves a service.
pub trait Resolver: Send + Sync {
    /// Those that serve a port of a service and are ready: never none.
    ///
    /// # Errors
    /// Why there is none.
    fn endpoints(
        &self,
        objects: &dyn Objects,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Vec<Endpoint>, NoEndpoint>;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_is_a_url_or_a_service() {
        for (client, expect) in [
            (json!({"url": "https://a:1/x"}), Some("https://a:1/x")),
            (json!({"service": {"namespace": "n", "name": "s"}}), Some("https://s.n.svc:443/")),
            (
                json!({"service": {"namespace": "n", "name": "s", "port": 8443, "path": "/x?y=1"}}),
                Some("https://s.n.svc:8443/x?y=1"),
            ),
            (json!({}), None),
        ] {
            assert_eq!(Target::of(&client).map(|target| target.url()).as_deref(), expect, "{client}");
        }
        let bundle = Target::of(&json!({"url": "https://a", "caBundle": "UEVN"})).map(|target| target.ca_bundle);
        assert_eq!(bundle.as_deref(), Some(&b"PEM"[..]));
    }
}
