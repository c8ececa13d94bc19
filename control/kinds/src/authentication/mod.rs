//! Whom the API believes besides the cluster's own certificates and ServiceAccount tokens: issuers of JSON web tokens, as a
//! file says them (`AuthenticationConfiguration`, KEP-3331), and a webhook that is shown tokens.
//!
//! ```text
//! config     what the file may say
//!    │
//! validate   whether it makes sense; its expressions, compiled
//!    │
//! mapping    a user from the claims of a token
//!
//! webhook    a token shown to somebody else
//! ```
//!
//! Invariant: a file is used as a whole or not at all; expressions are compiled once for each.

mod config;
mod mapping;
mod validate;
mod webhook;

use std::sync::Arc;

use kontiki_machinery::authentication::{Anonymous, Issuer};

use crate::options;
pub use webhook::Webhook;

/// What a file says.
#[derive(Debug)]
pub struct Configuration {
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// What it says of those who show nothing, if it says something.
    pub anonymous: Option<Anonymous>,
}

/// Reads a file. `disallowed`: issuers that are believed already.
///
/// # Errors
/// What is wrong with it, in upstream's words and in one line.
pub fn read(text: &[u8], disallowed: &[&str]) -> Result<Configuration, String> {
    let file: config::File = options::read(text, config::KIND, &config::SHAPE)?;
    let mappings = validate::check(&file, disallowed).map_err(|errors| options::said(&errors))?;
    let issuers = file.jwt.into_iter().zip(mappings).map(|(jwt, mapping)| Issuer {
        url: jwt.issuer.url,
        discovery_url: jwt.issuer.discovery_url,
        certificate_authority: jwt.issuer.certificate_authority,
        audiences: jwt.issuer.audiences,
        claims: Arc::new(mapping),
    });
    let anonymous = file.anonymous.map(|anonymous| Anonymous {
        enabled: anonymous.enabled,
        paths: anonymous.conditions.into_iter().map(|condition| condition.path).collect(),
    });
    Ok(Configuration { issuers: issuers.collect(), anonymous })
}

#[cfg(test)]
mod tests;
