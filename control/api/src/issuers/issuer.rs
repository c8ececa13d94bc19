//! One issuer: where its keys are, and these as they were when it was asked last.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use kontiki_machinery::authentication::Issuer;
use parking_lot::RwLock;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::User;
use crate::issuers::keys::{self, Key};
use crate::issuers::pace::Pace;
use crate::issuers::token::{Head, Token};
use crate::outbound::get::{get, trusting};

/// Longest document of an issuer that is read.
const DOCUMENT: usize = 1 << 20;

/// An issuer, and what is known of its keys.
pub(crate) struct Known {
    issuer: Issuer,
    pace: Pace,
    client: Arc<ClientConfig>,
    keys: RwLock<Option<Arc<Keys>>>,
    /// When it was asked last, and what is wrong since then. Held while it is asked.
    asked: Mutex<Option<(Instant, Option<String>)>>,
}

/// Keys, as they were at a time.
struct Keys {
    keys: Vec<Key>,
    /// Where they are.
    url: String,
    at: Instant,
}

impl Known {
    /// # Errors
    /// What its servers must descend from cannot be used.
    pub fn new(issuer: Issuer, pace: Pace) -> Result<Self, String> {
        let client = trusting(issuer.certificate_authority.as_bytes())?;
        Ok(Self { issuer, pace, client, keys: RwLock::default(), asked: Mutex::default() })
    }

    pub fn url(&self) -> &str {
        &self.issuer.url
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// It is not genuine, not timely or not for us, or names nobody; in upstream's words.
    pub async fn user(self: &Arc<Self>, token: &Token<'_>, now: Timestamp) -> Result<User, String> {
        let wrong = |why: String| format!("oidc: verify token: {why}");
        let head = token.head().map_err(wrong)?;
        token.check(&self.issuer.audiences, now).map_err(wrong)?;
        if !self.is_genuine(token, &head).await? {
            return Err(wrong("failed to verify signature: failed to verify id token signature".to_owned()));
        }
        self.issuer.claims.user(&token.claims)
    }

    /// Whether the issuer has signed it: by the keys that are known, else by those that it has now.
    async fn is_genuine(self: &Arc<Self>, token: &Token<'_>, head: &Head) -> Result<bool, String> {
        let began = Instant::now();
        if let Some(known) = self.known() {
            let genuine = known.have_signed(token, head);
            if genuine && known.at.elapsed() < self.pace.fresh {
                return Ok(true);
            }
            if genuine {
                // Whoever asks need not wait for it, but the next ones are judged by what comes of it.
                drop(self.asking(began));
                return Ok(true);
            }
        }
        let asked = self.asking(began).await;
        match (self.known(), asked) {
            (Some(known), _) => Ok(known.have_signed(token, head)),
            (None, Ok(Err(why))) => Err(format!("oidc: authenticator not initialized: {why}")),
            (None, _) => Err("oidc: authenticator not initialized".to_owned()),
        }
    }

    fn known(&self) -> Option<Arc<Keys>> {
        self.keys.read().clone()
    }

    /// Asks in a task of its own, which nobody's going away ends.
    fn asking(self: &Arc<Self>, since: Instant) -> tokio::task::JoinHandle<Result<(), String>> {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.refresh(since).await })
    }

    /// Fetches the keys, if nobody has done so since `since` or a moment ago.
    ///
    /// # Errors
    /// Why there are none that are newer.
    pub async fn refresh(&self, since: Instant) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if let Some((at, failed)) = &*asked
            && (*at >= since || at.elapsed() < self.pace.retry)
        {
            return failed.clone().map_or(Ok(()), Err);
        }
        let at = Instant::now();
        let fetched = timeout(self.pace.patience, self.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        let failed = match fetched {
            Ok(keys) => {
                *self.keys.write() = Some(Arc::new(keys));
                None
            }
            Err(why) => {
                tracing::warn!(issuer = self.issuer.url, why, "the keys of an issuer of tokens cannot be fetched");
                Some(why)
            }
        };
        *asked = Some((at, failed.clone()));
        failed.map_or(Ok(()), Err)
    }

    async fn fetch(&self) -> Result<Keys, String> {
        // Where they are is asked anew if they are not there any more.
        if let Some(known) = self.known()
            && let Ok(keys) = self.keys_at(known.url.clone()).await
        {
            return Ok(keys);
        }
        let place = match self.issuer.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/')),
            elsewhere => elsewhere.to_owned(),
        };
        let document = get(&self.client, &place, DOCUMENT).await?;
        let document: Value = serde_json::from_slice(&document)
            .map_err(|why| format!("oidc: failed to decode provider discovery object: {why}"))?;
        let said = document["issuer"].as_str().unwrap_or_default();
        if said != self.issuer.url {
            let why = "oidc: issuer did not match the issuer returned by provider";
            return Err(format!("{why}, expected {:?} got {said:?}", self.issuer.url));
        }
        match document["jwks_uri"].as_str() {
            Some(url) if !url.is_empty() => self.keys_at(url.to_owned()).await,
            _ => Err("provider did not return JWKS URL".to_owned()),
        }
    }

    async fn keys_at(&self, url: String) -> Result<Keys, String> {
        let at = Instant::now();
        let set = get(&self.client, &url, DOCUMENT).await?;
        Ok(Keys { keys: keys::read(&set)?, url, at })
    }
}

impl Keys {
    fn have_signed(&self, token: &Token<'_>, head: &Head) -> bool {
        keys::verify(&self.keys, (token.signed, token.signature), head.algorithm, &head.key)
    }
}
