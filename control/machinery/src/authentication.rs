//! Who finds out by a bearer token who asks, besides the API itself; and what the API has to know of those who issue tokens.

use std::{fmt, sync::Arc, time::Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::{access::User, admission::Waiting};

/// A token that somebody shows.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// It may be anything.
    pub token: &'a str,
    /// For whom it has to be meant: for one of them at least. Never none.
    pub audiences: &'a [String],
    /// What is meant by a token that does not say for whom it is.
    pub own: &'a [String],
    /// The time.
    pub now: Timestamp,
    /// When whoever asks stops waiting.
    pub deadline: Instant,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The user.
    pub user: User,
    /// Those of the audiences asked about for whom it is meant.
    pub audiences: Vec<String>,
}

/// One that knows tokens. May be dropped at any `await`.
pub trait Tokens: Send + Sync {
    /// Whose the token is; `None`: it is none of those that it knows.
    ///
    /// # Errors
    /// It is one of them, and no good; or that cannot be found out.
    fn authenticate<'a>(&'a self, presented: Presented<'a>) -> Waiting<'a, Result<Option<Authenticated>, String>>;
}

/// Makes a user of what a token says.
pub trait Claims: Send + Sync {
    /// The user; the token has been found to be genuine, timely and meant for us.
    ///
    /// # Errors
    /// Why there is none, in upstream's words.
    fn user(&self, claims: &Value) -> Result<User, String>;
}

/// One who issues JSON web tokens.
#[derive(Clone)]
pub struct Issuer {
    /// What it calls itself in tokens.
    pub url: String,
    /// Where it tells where its keys are; empty: at the usual place below its URL.
    pub discovery_url: String,
    /// What its servers' certificates must descend from, as PEM; empty: what the machine trusts.
    pub certificate_authority: String,
    /// For whom its tokens have to be meant: for one of them.
    pub audiences: Vec<String>,
    /// Whom they name.
    pub claims: Arc<dyn Claims>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.url)
    }
}

/// Whether, and where, somebody who shows nothing is let in as nobody in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    /// Whether at all.
    pub enabled: bool,
    /// The only paths where; empty: everywhere.
    pub paths: Vec<String>,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self { enabled: true, paths: Vec::new() }
    }
}

impl Anonymous {
    /// Whether at this path.
    #[must_use]
    pub fn admits(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|known| known == path))
    }
}
