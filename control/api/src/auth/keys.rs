//! The key that signs ServiceAccount tokens.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The cluster's signing key, both halves.
pub(crate) struct Keys {
    pub algorithm: Algorithm,
    pub sign: EncodingKey,
    pub verify: DecodingKey,
    /// Names the key in the head of a token.
    pub id: String,
    /// The public half, as a member of a JSON web key set (RFC 7517).
    pub public: Value,
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
        let public = public_key(&public, algorithm, &id).ok_or_else(|| error(&"its public half cannot be read"))?;
        Ok(Self { algorithm, sign: sign.map_err(|e| error(&e))?, verify: verify.map_err(|e| error(&e))?, id, public })
    }
}

/// A public key as those read it who check tokens; `None`: it is of another kind.
fn public_key(der: &SubjectPublicKeyInfoDer<'_>, algorithm: Algorithm, id: &str) -> Option<Value> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref()).ok()?;
    let (algorithm, common) = (format!("{algorithm:?}"), json!({"use": "sig", "kid": id}));
    let more = match info.parsed().ok()? {
        PublicKey::EC(point) => {
            // Uncompressed: a byte that says so, then both coordinates.
            let [4, coordinates @ ..] = point.data() else { return None };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            json!({"kty": "EC", "alg": algorithm, "crv": curve, "x": encode_url(x), "y": encode_url(y)})
        }
        PublicKey::RSA(key) => {
            let number = |bytes: &[u8]| {
                let start = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
                encode_url(&bytes[start..])
            };
            json!({"kty": "RSA", "alg": algorithm, "n": number(key.modulus), "e": number(key.exponent)})
        }
        _ => return None,
    };
    let mut out = common;
    out.as_object_mut()?.extend(more.as_object()?.clone());
    Some(out)
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
