//! What masters and agents both do with certificates: trust a cluster by the hash of its CA's key while they join it,
//! and know when a certificate is to be renewed.
//!
//! Not here: issuing certificates, who may do what with one, files, clocks. All of it is one cryptographic provider's,
//! [`provider`].

mod ca_hash;
mod pin;
mod validity;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use ca_hash::{BadCaHash, CaHash};
pub use pin::{Pin, Unpinned};
pub use validity::Validity;

/// What should be an X.509 certificate is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a certificate")]
pub struct NotACertificate;

/// The one that is compiled in: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
