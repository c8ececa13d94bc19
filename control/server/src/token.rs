//! Join tokens, in the form kubeadm made known.
//!
//! Invariants
//! - A token's secret never appears in a log or an error; `Debug` hides it.
//! - Comparing secrets takes the same time wherever they differ.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Type of the Secrets that hold tokens.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Namespace of those Secrets.
pub const NAMESPACE: &str = "kube-system";

/// Group of tokens that admit servers, besides agents; in `auth-extra-groups`, where kubeadm keeps
/// what a token's bearer may be.
pub const SERVERS_GROUP: &str = "system:bootstrappers:kontiki:servers";

/// What somebody joins as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A worker.
    Agent,
    /// A master: it will hold the cluster's keys.
    Server,
}

/// `id.secret`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: String,
}

/// The text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a join token looks like abcdef.0123456789abcdef")]
pub struct BadToken;

impl JoinToken {
    /// A new random token.
    #[must_use]
    pub fn random() -> Self {
        let draw = |length: usize| {
            const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
            (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect::<String>()
        };
        Self { id: draw(6), secret: draw(16) }
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the Secret that holds it.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// The whole token, for showing it once to the person who asked for it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The Secret that makes this token valid until `expires`, for agents, and for servers too if that
    /// is its purpose.
    #[must_use]
    pub fn to_secret(&self, purpose: Purpose, expires: Option<Timestamp>, description: &str) -> Value {
        let mut data = json!({
            "token-id": self.id,
            "token-secret": self.secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "description": description,
        });
        if let Some(expires) = expires {
            data["expiration"] = json!(expires.to_string());
        }
        if purpose == Purpose::Server {
            data["auth-extra-groups"] = json!(SERVERS_GROUP);
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {"name": self.secret_name(), "namespace": NAMESPACE},
            "stringData": data,
        })
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let fits = |part: &str, length| {
            part.len() == length && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if fits(id, 6) && fits(secret, 16) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err(BadToken),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.…)", self.id)
    }
}

/// Why a token does not admit its bearer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No such token, or a wrong secret: the two are not told apart.
    #[error("the join token is not valid")]
    Unknown,
    /// Too late.
    #[error("the join token expired at {0}")]
    Expired(String),
    /// Made for something else.
    #[error("the join token may not be used to join")]
    Usage,
    /// Another server has shown it.
    #[error("the join token has admitted another server: each needs a token of its own")]
    Used,
    /// Made for agents, shown by a server.
    #[error("the join token admits agents only; kontiki token create --server makes one for servers")]
    AgentsOnly,
}

/// Judges `token` by the Secret stored under its name, if there is one.
///
/// # Errors
/// Why it is refused.
pub fn check(token: &JoinToken, secret: Option<&Value>, purpose: Purpose, now: Timestamp) -> Result<(), TokenRefused> {
    let secret = secret.ok_or(TokenRefused::Unknown)?;
    let field = |name: &str| data(secret, name);
    let stored = field("token-secret").unwrap_or_default();
    let right = secret["type"] == SECRET_TYPE
        && field("token-id").as_deref() == Some(token.id())
        && same(stored.as_bytes(), token.secret.as_bytes());
    if !right {
        return Err(TokenRefused::Unknown);
    }
    if let Some(text) = field("expiration") {
        // An expiration that cannot be read is treated as passed, as upstream's token cleaner does.
        if text.parse::<Timestamp>().map_or(true, |at| at <= now) {
            return Err(TokenRefused::Expired(text));
        }
    }
    if field("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err(TokenRefused::Usage);
    }
    let groups = field("auth-extra-groups").unwrap_or_default();
    if purpose == Purpose::Server && !groups.split(',').any(|group| group.trim() == SERVERS_GROUP) {
        return Err(TokenRefused::AgentsOnly);
    }
    Ok(())
}

/// A field of a Secret.
fn data(secret: &Value, name: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret.pointer(&format!("/data/{name}"))?.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// Field of the server that has shown a token.
const USED_BY: &str = "used-by";

/// The server that has shown the token of this Secret, if one has.
#[must_use]
pub fn user(secret: &Value) -> Option<String> {
    data(secret, USED_BY)
}

/// The merge patch that makes the token of `secret`, as it was read, the token of one server.
#[must_use]
pub fn use_by(secret: &Value, user: &str) -> Value {
    json!({"metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]}, "data": {USED_BY: STANDARD.encode(user)}})
}

/// Constant-time equality: hashes are compared, so that timing tells nothing of the secret.
fn same(a: &[u8], b: &[u8]) -> bool {
    Sha256::digest(a) == Sha256::digest(b) && !a.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_strictly() {
        for (text, ok) in [
            ("abcdef.0123456789abcdef", true),
            ("abcdef.0123456789abcde", false),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdef0123456789abcdef", false),
            ("abcdéf.0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<JoinToken>().is_ok(), ok, "{text}");
        }
        let token = JoinToken::random();
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn a_token_admits_only_what_its_secret_says() {
        let token: JoinToken = "abcdef.0123456789abcdef".parse().expect("well formed");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let secret = |pairs: &[(&str, &str)]| {
            let mut data = serde_json::Map::new();
            let base = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
            ];
            for (key, value) in base.iter().chain(pairs) {
                data.insert((*key).to_owned(), json!(STANDARD.encode(value)));
            }
            json!({"type": SECRET_TYPE, "data": data})
        };
        for (name, stored, expect) in [
            ("no Secret", None, Err(TokenRefused::Unknown)),
            ("as made", Some(secret(&[])), Ok(())),
            ("not yet expired", Some(secret(&[("expiration", "2026-01-01T00:00:01Z")])), Ok(())),
            (
                "expired",
                Some(secret(&[("expiration", "2026-01-01T00:00:00Z")])),
                Err(TokenRefused::Expired("2026-01-01T00:00:00Z".into())),
            ),
            ("unreadable expiry", Some(secret(&[("expiration", "soon")])), Err(TokenRefused::Expired("soon".into()))),
            ("wrong secret", Some(secret(&[("token-secret", "0123456789abcdee")])), Err(TokenRefused::Unknown)),
            ("empty secret", Some(secret(&[("token-secret", "")])), Err(TokenRefused::Unknown)),
            ("other usage", Some(secret(&[("usage-bootstrap-authentication", "false")])), Err(TokenRefused::Usage)),
            ("other type", Some(json!({"type": "Opaque", "data": secret(&[])["data"]})), Err(TokenRefused::Unknown)),
        ] {
            assert_eq!(check(&token, stored.as_ref(), Purpose::Agent, now), expect, "{name}");
        }
        let for_servers = secret(&[("auth-extra-groups", SERVERS_GROUP)]);
        assert_eq!(check(&token, Some(&for_servers), Purpose::Server, now), Ok(()));
        assert_eq!(check(&token, Some(&secret(&[])), Purpose::Server, now), Err(TokenRefused::AgentsOnly));
    }

    #[test]
    fn a_token_for_servers_is_one_servers() {
        let mut secret = json!({"metadata": {"resourceVersion": "7"}, "data": {"token-id": "x"}});
        assert_eq!(user(&secret), None);
        let patch = use_by(&secret, "s2 at 10.0.0.2:2380");
        assert_eq!(patch["metadata"]["resourceVersion"], "7", "only if nobody was faster");
        secret["data"][USED_BY] = patch["data"][USED_BY].clone();
        assert_eq!(user(&secret).as_deref(), Some("s2 at 10.0.0.2:2380"));
    }
}
