//! The key that signs ServiceAccount tokens.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};

/// The cluster's signing key, both halves.
pub(crate) struct Keys {
    pub algorithm: Algorithm,
    pub sign: EncodingKey,
    pub verify: DecodingKey,
    /// Names the key in the head of a token.
    pub id: String,
}

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the ServiceAccount signing key cannot be used: {0}")]
pub struct KeyError(String);

impl Keys {
    /// Reads an EC (P-256, P-384) or RSA private key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let error = |e: &dyn std::fmt::Display| KeyError(e.to_string());
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| error(&e))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&der).map_err(|e| error(&e))?;
        let public = signer.public_key().ok_or_else(|| error(&"it has no public half"))?;
        let public_pem = spki_pem(&public);
        let (algorithm, sign, verify) = match signer.algorithm() {
            rustls::SignatureAlgorithm::RSA => (
                Algorithm::RS256,
                EncodingKey::from_rsa_pem(pem.as_bytes()),
                DecodingKey::from_rsa_pem(public_pem.as_bytes()),
            ),
            rustls::SignatureAlgorithm::ECDSA => {
                let p384 = public.len() > 100; // a P-256 key's public half has 91 bytes, a P-384's 120
                let algorithm = if p384 { Algorithm::ES384 } else { Algorithm::ES256 };
                (algorithm, EncodingKey::from_ec_pem(pem.as_bytes()), DecodingKey::from_ec_pem(public_pem.as_bytes()))
            }
            other => return Err(KeyError(format!("{other:?} keys are not supported"))),
        };
        let id = encode_url(&<sha2::Sha256 as sha2::Digest>::digest(&public));
        Ok(Self { algorithm, sign: sign.map_err(|e| error(&e))?, verify: verify.map_err(|e| error(&e))?, id })
    }
}

fn encode_url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn spki_pem(public: &SubjectPublicKeyInfoDer<'_>) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(public.as_ref());
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|i| &body[i..body.len().min(i + 64)]).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}
