//! What masters and agents both do with certificates: trust a cluster by the hash of its CA's key while they join it,
//! and know when a certificate is to be renewed; take any certificate where nobody can know whose it should be.
//!
//! Not here: issuing certificates, who may do what with one, files, clocks. All of it is one cryptographic provider's,
//! [`provider`].

mod any;
mod ca_hash;
mod pin;
mod validity;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use any::any_certificate;
pub use ca_hash::{BadCaHash, CaHash};
pub use pin::{Pin, Unpinned};
pub use validity::Validity;

/// What should be an X.509 certificate is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a certificate")]
pub struct NotACertificate;

/// The serial number of a certificate, in hexadecimal digits.
///
/// # Errors
/// `der` is not a certificate.
pub fn serial(der: &[u8]) -> Result<String, NotACertificate> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
    Ok(certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The one that is compiled in: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
