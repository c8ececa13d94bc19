//! The pin that a joiner is given beside its token, in the form that kubeadm made known.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::NotACertificate;

/// `sha256:<hex>` over the DER of a CA's SubjectPublicKeyInfo (RFC 5280, 4.1). Not secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaHash([u8; 32]);

/// The text is not a CA hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CA hash looks like sha256:<64 hexadecimal digits>")]
pub struct BadCaHash;

impl CaHash {
    /// The hash of a public key, the DER of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The hash of a certificate's public key.
    ///
    /// # Errors
    /// `der` is not a certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self, NotACertificate> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        Ok(Self::of_spki(certificate.public_key().raw))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CaHash {
    type Err = BadCaHash;

    fn from_str(text: &str) -> Result<Self, BadCaHash> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or(BadCaHash)?;
        let mut out = [0; 32];
        for (byte, digits) in out.iter_mut().zip(hex.as_bytes().chunks(2)) {
            // Asked before, because a number may also begin with a plus.
            let digits = Some(digits).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or(BadCaHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadCaHash)?;
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ca_hashes_are_read_strictly() {
        let hash = CaHash::of_spki(b"key");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().replace("SHA", "sha").parse(), Ok(hash));
        for text in [
            "",
            "sha256:",
            "sha256:zz",
            &format!("sha256:{}", "é".repeat(32)),
            &format!("sha256:{}", "+f".repeat(32)),
            &format!("md5:{}", "0".repeat(64)),
        ] {
            assert_eq!(text.parse::<CaHash>(), Err(BadCaHash), "{text}");
        }
    }
}
