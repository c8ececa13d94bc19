//! Keys of pods, and the requests that prove them (RFC 2986).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};

/// A key that never leaves this machine.
#[derive(Clone)]
pub(super) struct Key {
    /// PKCS#8 in PEM.
    pub(super) pem: String,
    /// A request with nothing but the public key in it, DER.
    pub(super) request: Vec<u8>,
}

impl Key {
    /// Makes one, of a type as pods name them.
    ///
    /// # Errors
    /// This node has no generator of such keys.
    pub(super) fn generate(kind: &str) -> Result<Self, String> {
        let algorithm = algorithm(kind)?;
        let failed = |error: rcgen::Error| format!("while generating {kind} key: {error}");
        let pair = KeyPair::generate_for(algorithm).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&pair).map_err(failed)?;
        Ok(Self { pem: pem(&plain(pair.serialized_der())), request: request.der().to_vec() })
    }
}

fn algorithm(kind: &str) -> Result<&'static SignatureAlgorithm, String> {
    match kind {
        "ED25519" => Ok(&rcgen::PKCS_ED25519),
        "ECDSAP256" => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        "RSA3072" | "RSA4096" | "ECDSAP521" => {
            Err(format!("this node cannot generate {kind} keys; it can generate ED25519, ECDSAP256 and ECDSAP384"))
        }
        other => Err(format!("unknown key type {other:?}")),
    }
}

/// The beginning of an Ed25519 key in the first version of its form (RFC 8410), without its public key. What follows the
/// first byte of length is the same in the second version, but for the number of the version.
const ED25519: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The key in the first version of its form: many programs read no other.
fn plain(der: &[u8]) -> Vec<u8> {
    match (der.get(5..16), der.get(16..48)) {
        (Some(kind), Some(seed)) if *kind == ED25519[5..] => [&ED25519[..], seed].concat(),
        _ => der.to_vec(),
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END PRIVATE KEY-----\n");
    out
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;

    #[test]
    fn keys_are_proven() {
        for (kind, expect) in [
            ("ED25519", ""),
            ("ECDSAP256", ""),
            ("ECDSAP384", ""),
            ("RSA3072", "this node cannot generate RSA3072 keys; it can generate ED25519, ECDSAP256 and ECDSAP384"),
            ("DSA", "unknown key type \"DSA\""),
        ] {
            let key = match Key::generate(kind) {
                Ok(key) => key,
                Err(error) => {
                    assert_eq!(error, expect);
                    continue;
                }
            };
            assert_eq!(expect, "", "{kind}");
            let again = KeyPair::from_pem(&key.pem).expect("a key that others read");
            let (_, request) = X509CertificationRequest::from_der(&key.request).expect("a request");
            let info = &request.certification_request_info;
            assert_eq!(info.subject_pki.subject_public_key.data.as_ref(), again.public_key_raw(), "{kind}");
            assert!(kind != "ED25519" || key.pem.len() < 130, "the shorter form: {}", key.pem);
            assert_eq!(info.subject.iter().count(), 0, "{kind}: no name is asked for");
            assert!(key.pem.lines().all(|line| line.len() <= 64));
        }
    }
}
