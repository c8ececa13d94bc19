//! A JSON web token taken apart (RFC 7515, 7519), nothing of it believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::Algorithm;
use serde_json::Value;

/// Longer ones are none.
const LONGEST: usize = 64 << 10;
/// How much our clock may be behind that of who says from when on a token is good.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Algorithms that are taken. Upstream takes ES512 too, which is not at hand.
const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// A token in three parts, whose second is an object.
pub(crate) struct Token<'t> {
    head: &'t str,
    /// What the signature is over.
    pub signed: &'t str,
    pub signature: &'t str,
    pub claims: Value,
}

/// What a token's head says.
pub(crate) struct Head {
    pub algorithm: Algorithm,
    /// The name of the key; empty: it says none.
    pub key: String,
}

impl<'t> Token<'t> {
    /// `None`: it is no such token.
    pub fn read(text: &'t str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (head, payload) = signed.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let claims = object(payload)?;
        Some(Self { head, signed, signature, claims })
    }

    /// Who says that it has issued the token.
    pub fn issuer(&self) -> &str {
        match self.claims["iss"].as_str().unwrap_or_default() {
            // It has called itself so (OpenID Connect Core, 15.6.2).
            "accounts.google.com" => "https://accounts.google.com",
            issuer => issuer,
        }
    }

    /// What the head says.
    ///
    /// # Errors
    /// It cannot be read, or asks for what is not taken.
    pub fn head(&self) -> Result<Head, String> {
        let head = object(self.head).ok_or("oidc: malformed jwt: the header cannot be read")?;
        if !head["crit"].is_null() {
            return Err("oidc: malformed jwt: unsupported crit header".to_owned());
        }
        let named = head["alg"].as_str().unwrap_or_default();
        let Some((_, algorithm)) = ALGORITHMS.iter().find(|(known, _)| *known == named) else {
            let known: Vec<String> = ALGORITHMS.iter().map(|(known, _)| format!("{known:?}")).collect();
            let known = known.join(" ");
            return Err(format!("oidc: id token signed with unsupported algorithm, expected [{known}] got {named:?}"));
        };
        Ok(Head { algorithm: *algorithm, key: head["kid"].as_str().unwrap_or_default().to_owned() })
    }

    /// Whether it is meant for one of `audiences`, and good at `now`.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn check(&self, audiences: &[String], now: Timestamp) -> Result<(), String> {
        self.meant_for(audiences)?;
        let ends = seconds(&self.claims["exp"]).unwrap_or(i64::MIN);
        if ends < now.as_second() {
            return Err(format!("oidc: token is expired (Token Expiry: {})", shown(ends)));
        }
        let early = |from: i64| now.saturating_add(LEEWAY).is_ok_and(|now| from > now.as_second());
        match seconds(&self.claims["nbf"]).filter(|from| early(*from)) {
            Some(from) => {
                let (now, from) = (shown(now.as_second()), shown(from));
                Err(format!("oidc: current time {now} before the nbf (not before) time: {from}"))
            }
            None => Ok(()),
        }
    }

    fn meant_for(&self, audiences: &[String]) -> Result<(), String> {
        let said: Vec<&str> = match &self.claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if audiences.iter().any(|audience| said.contains(&audience.as_str())) {
            return Ok(());
        }
        let list = |items: Vec<String>| format!("[{}]", items.join(" "));
        let got = list(said.iter().map(|audience| format!("{audience:?}")).collect());
        Err(match audiences {
            [one] => format!("oidc: expected audience {one:?} got {got}"),
            many => {
                let mut many: Vec<String> = many.iter().map(|audience| format!("{audience:?}")).collect();
                many.sort_unstable();
                format!("oidc: expected audience in {} got {got}", list(many))
            }
        })
    }
}

fn object(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
}

/// A time in seconds, which may have a fraction.
#[allow(clippy::cast_possible_truncation, reason = "a time that does not fit is one of the far future or past")]
fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

/// As Go prints a time.
fn shown(second: i64) -> String {
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MIN);
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_answered(text in "([A-Za-z0-9_-]{0,12}\\.){0,4}|\\PC{0,40}", head in "\\PC{0,20}", claims in "\\PC{0,20}") {
            for text in [text, format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims))] {
                if let Some(token) = Token::read(&text) {
                    let _ = (token.issuer().len(), token.head().is_ok(), token.check(&[], Timestamp::UNIX_EPOCH).is_ok());
                }
            }
        }
    }

    fn token(head: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(head), part(claims))
    }

    #[test]
    fn what_is_no_token_is_none() {
        let good = token(&json!({"alg": "RS256"}), &json!({"iss": "a"}));
        let long = token(&json!({}), &json!({"iss": "a".repeat(LONGEST)}));
        let list = token(&json!({}), &json!([1]));
        let deep = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode("[".repeat(10_000)));
        for (text, read) in [
            (good.as_str(), true),
            ("", false),
            ("a", false),
            ("a.b", false),
            ("..", false),
            ("a.b.c.d", false),
            ("{\"payload\": \"\"}", false),
            (&format!("{good}.x"), false),
            (&long, false),
            (&list, false),
            (&deep, false),
        ] {
            assert_eq!(Token::read(text).is_some(), read, "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn heads_that_are_not_taken_say_why() {
        for (head, expect) in [
            (json!({"alg": "RS256", "kid": "k"}), "RS256 k"),
            (json!({"alg": "ES384"}), "ES384 "),
            (json!({"alg": "none"}), "expected [\"ES256\" \"ES384\" \"PS256\""),
            (json!({"alg": "HS256"}), "got \"HS256\""),
            (json!({"alg": "rs256"}), "got \"rs256\""),
            (json!({"alg": ["RS256"]}), "got \"\""),
            (json!({"alg": "RS256", "crit": ["b64"], "b64": false}), "unsupported crit"),
            (json!([]), "malformed jwt"),
        ] {
            let text = token(&head, &json!({}));
            let read = Token::read(&text).expect("three parts").head();
            let found = read.map_or_else(|why| why, |head| format!("{:?} {}", head.algorithm, head.key));
            assert!(found.contains(expect), "{head}: {found}");
        }
    }

    #[test]
    fn a_token_is_for_somebody_and_for_a_time() {
        let now = Timestamp::from_second(1000).expect("a time");
        for (claims, audiences, expect) in [
            (json!({"aud": "a", "exp": 1000}), &["a"][..], ""),
            (json!({"aud": ["x", "b"], "exp": 1001.5, "nbf": 1060}), &["a", "b"], ""),
            (json!({"aud": "a"}), &["a"], "oidc: token is expired"),
            (
                json!({"aud": "a", "exp": 999}),
                &["a"],
                "oidc: token is expired (Token Expiry: 1970-01-01 00:16:39 +0000 UTC)",
            ),
            (json!({"aud": "a", "exp": "2000"}), &["a"], "oidc: token is expired"),
            (json!({"aud": "a", "exp": 1e300, "nbf": 1061}), &["a"], "before the nbf (not before) time: 1970-01-01"),
            (json!({"exp": 2000}), &["a"], "oidc: expected audience \"a\" got []"),
            (json!({"aud": {"a": 1}, "exp": 2000}), &["a"], "oidc: expected audience \"a\" got []"),
            (json!({"aud": "c", "exp": 2000}), &["b", "a"], "oidc: expected audience in [\"a\" \"b\"] got [\"c\"]"),
        ] {
            let text = token(&json!({}), &claims);
            let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
            let found = Token::read(&text).expect("three parts").check(&audiences, now).err().unwrap_or_default();
            assert!(if expect.is_empty() { found.is_empty() } else { found.contains(expect) }, "{claims}: {found}");
        }
    }
}
