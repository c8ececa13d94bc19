//! Users by the JSON web tokens of others (OpenID Connect): whose tokens are believed comes from outside, who is named by
//! what they say is worked out by whoever gave that ([`Claims`](kontiki_machinery::authentication::Claims)). Here tokens are
//! read and their signatures checked, with keys that their issuers publish.
//!
//! ```text
//! token   a token taken apart; what it says of itself
//! keys    a set of public keys, as issuers publish it; signatures
//!   │
//! issuer  one issuer: its keys, fetched and kept
//!   │
//! mod     all issuers, replaced as a whole
//! ```
//!
//! Invariants
//! - A token that no issuer here has issued costs one look at what it calls its issuer. Nobody outside is asked about it.
//! - Signatures are checked last. A key checks only what keys of its kind can have signed.
//! - Whatever tokens arrive, an issuer is asked for its keys at most once in [`Pace::retry`], by one task at a time; nobody's
//!   going away ends that.
//! - What issuers answer is bounded in size and time, and redirections are not followed.

mod issuer;
mod keys;
mod pace;
mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kontiki_machinery::admission::Waiting;
use kontiki_machinery::authentication::{Authenticated, Issuer, Presented, Tokens};
use parking_lot::RwLock;

use crate::issuers::issuer::Known;
use crate::issuers::token::Token;

pub use pace::Pace;

/// Issuers whose tokens are believed.
pub struct Issuers {
    pace: Pace,
    current: RwLock<Arc<[Arc<Known>]>>,
}

impl Issuers {
    /// These, whose keys are fetched at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What an issuer's servers must descend from cannot be used.
    pub fn new(issuers: Vec<Issuer>, pace: Pace) -> Result<Arc<Self>, String> {
        let current = Self::known(issuers, pace)?;
        for issuer in current.iter() {
            let issuer = Arc::clone(issuer);
            // If it fails that is said, and tried again for a token.
            tokio::spawn(async move { drop(issuer.refresh(Instant::now()).await) });
        }
        Ok(Arc::new(Self { pace, current: RwLock::new(current) }))
    }

    fn known(issuers: Vec<Issuer>, pace: Pace) -> Result<Arc<[Arc<Known>]>, String> {
        issuers.into_iter().map(|issuer| Known::new(issuer, pace).map(Arc::new)).collect()
    }

    /// Believes these from now on, once the keys of all of them are there; until then, and if that takes longer than
    /// `patience`, those of before.
    ///
    /// # Errors
    /// Whose keys cannot be fetched, and why.
    ///
    /// # Cancel safety
    /// Dropped, it changes nothing.
    pub async fn replace(&self, issuers: Vec<Issuer>, patience: Duration) -> Result<(), String> {
        let next = Self::known(issuers, self.pace)?;
        let until = Instant::now() + patience;
        for issuer in next.iter() {
            while let Err(why) = issuer.refresh(Instant::now()).await {
                if Instant::now() + self.pace.retry > until {
                    return Err(format!("issuer \"{}\": {why}", issuer.url()));
                }
                tokio::time::sleep(self.pace.retry).await;
            }
        }
        *self.current.write() = next;
        Ok(())
    }

    async fn judge(&self, presented: Presented<'_>) -> Result<Option<Authenticated>, String> {
        let current = Arc::clone(&self.current.read());
        if current.is_empty() {
            return Ok(None);
        }
        let Some(token) = Token::read(presented.token) else { return Ok(None) };
        let Some(issuer) = current.iter().find(|issuer| issuer.url() == token.issuer()) else { return Ok(None) };
        // What such a token is meant for is for its issuer's audiences to say; to us it stands for this API.
        let meant = |audience: &&String| presented.own.contains(*audience);
        let audiences: Vec<String> = presented.audiences.iter().filter(meant).cloned().collect();
        if audiences.is_empty() {
            return Ok(None);
        }
        let user = issuer.user(&token, presented.now).await?;
        Ok(Some(Authenticated { user, audiences }))
    }
}

impl Tokens for Issuers {
    fn authenticate<'a>(&'a self, presented: Presented<'a>) -> Waiting<'a, Result<Option<Authenticated>, String>> {
        Box::pin(self.judge(presented))
    }
}
