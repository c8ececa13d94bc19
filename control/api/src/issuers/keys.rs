//! Public keys as issuers publish them (RFC 7517), and signatures by them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::Value;

/// Keys of a set that are looked at: each may have to be tried on a token that names none.
const MOST: usize = 64;
/// Bytes of an RSA modulus: 1024 bits, as Go has it, to 8192.
const MODULUS: std::ops::RangeInclusive<usize> = 128..=1024;

/// What a key can have signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Rsa,
    P256,
    P384,
}

impl Family {
    fn signs(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self == Self::Rsa,
            Algorithm::ES256 => self == Self::P256,
            Algorithm::ES384 => self == Self::P384,
            _ => false,
        }
    }
}

/// A public key.
pub(crate) struct Key {
    id: String,
    family: Family,
    key: DecodingKey,
}

impl Key {
    /// `None`: it is of no kind that is known here, or not meant for signatures.
    fn of(said: &Value) -> Option<Self> {
        let text = |field: &str| said[field].as_str().unwrap_or_default();
        if !matches!(text("use"), "" | "sig") {
            return None;
        }
        let number = |field: &str| URL_SAFE_NO_PAD.decode(text(field)).ok();
        let (family, key) = match (text("kty"), text("crv")) {
            ("RSA", _) => {
                let modulus = number("n")?;
                let modulus = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
                let exponent = number("e")?;
                let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
                if !MODULUS.contains(&modulus.len()) || !odd(modulus) || !odd(&exponent) || exponent.len() > 8 {
                    return None;
                }
                (Family::Rsa, DecodingKey::from_rsa_raw_components(modulus, &exponent))
            }
            ("EC", curve @ ("P-256" | "P-384")) => {
                let (family, size) = if curve == "P-256" { (Family::P256, 32) } else { (Family::P384, 48) };
                if number("x")?.len() != size || number("y")?.len() != size {
                    return None;
                }
                (family, DecodingKey::from_ec_components(text("x"), text("y")).ok()?)
            }
            _ => return None,
        };
        Some(Self { id: text("kid").to_owned(), family, key })
    }

    /// Whether it has signed this.
    fn signed(&self, signed: &str, signature: &str, algorithm: Algorithm) -> bool {
        self.family.signs(algorithm)
            && crypto::verify(signature, signed.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

/// The keys of a set.
///
/// # Errors
/// It is none, or has none that is known here.
pub(crate) fn read(set: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(set).map_err(|why| format!("oidc: failed to decode keys: {why}"))?;
    let keys: Vec<Key> = set["keys"].as_array().into_iter().flatten().take(MOST).filter_map(Key::of).collect();
    if keys.is_empty() { Err("oidc: there are no keys for signatures in the set".to_owned()) } else { Ok(keys) }
}

/// Whether one of the keys that may be meant has signed this. `id`: the key's name; empty: any.
pub(crate) fn verify(keys: &[Key], (signed, signature): (&str, &str), algorithm: Algorithm, id: &str) -> bool {
    let meant = |key: &&Key| id.is_empty() || key.id == id;
    keys.iter().filter(meant).any(|key| key.signed(signed, signature, algorithm))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Of a key of 2048 bits that signed `a.b`.
    const MODULUS: &str = "qzPz2RBTyr0uRN6nzKxBZb235AgBWLc_BnCHz9PVLatVO6YZb_sA-GJ9yiPd8WnS81dxKM_ALppoN61d9xqMnby9WndI6c1La-5H\
        zbhoTjB_BGOpNlRO742sgVV6v0X8iXjMh5XMQRcxhtR4cEAmrVSQvoXhLtPKqw2yHyWHSLRtC0K-s0pcBKlNukvGosot5FwNBQzo\
        Dja9MlCxlsw9gfHDaydG49uTRiv5znF4y3SlVMHtQVu5cLnnXq1a8k4oPGN2ItFcQwMrE9pBUPfb-0xNcb8NmlQgUaUmwN8Le-RN\
        kZclvys8cbxnXWgcraHOcnrwV8QxVVu77rLhc9gdAw";
    /// By PKCS #1 and SHA-256.
    const RS256: &str = "GCugJpaWSNeC3QmTDPQaihg8Pf2dGgcxofLq6lF2dqE76CZmpnyWaURSDdRYE0fhjy-2gA1pzb5j_1S2GE1PHNFEwfR8n700JkXC\
        xjlxbn3TRpk_RqmWMJJURaOJDo3kXL17-VXqTOAEFZPZAMTHCBfzknQGmn-QFIjGytj8cfB8c275XngsKipaWIouOUxqs1k7Az1Q\
        CGTi4iP9zUAA1HdgzZiz4StMmk-RUmmY0zKqNzEpuSkkfa2zC_K2tiRclJCKJMv4ieamHJWXM5Dtk4E4Ga1oXFitZNrMeEA7O4CI\
        HKWGfFSsUOUmBnK9t8iF8OQQ1zSPAxc2Kypc_7YQyw";
    /// By PSS and SHA-384.
    const PS384: &str = "cQCFbCfBJRnJ3z80N_ijDVfuqGBWNtsfpfN4dccT7_k1DmpctbHMXCfWENZUKD8Q7rkASxe9j_APE5n_mjWgXsfWKGvez0twBmNS\
        FoApGtaSUYeRg_yNuTK1F-xNu5RwbRm5QVblotjjjQrseNB084vshWy6kF5x6CsZUmjgKpsNdNO9G34-T83c8Hd4UaxLmACGWLBZ\
        0qSsrbGzab1DxIaeM1s8qj4gZFfQna2SC-1Laj3U2WPHUSJLHJlSfiyffKGa9QAPnSBdQ4CX31zFL4yu_9EDDoRnKhbyKgBu8NJG\
        ckihR_hQefUQ4Gu0xbAoT6mzuy-femfZfw7lzCvr5A";

    #[test]
    fn signatures_by_rsa_are_checked() {
        let set = |n: &str| json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB", "kid": "k"}]}).to_string();
        let other = format!("r{}", &MODULUS[1..]);
        for (modulus, signed, signature, algorithm, id, expect) in [
            (MODULUS, "a.b", RS256, Algorithm::RS256, "k", true),
            (MODULUS, "a.b", PS384, Algorithm::PS384, "k", true),
            (MODULUS, "a.b", RS256, Algorithm::RS256, "", true),
            (MODULUS, "a.b", RS256, Algorithm::RS256, "other", false),
            (MODULUS, "a.c", RS256, Algorithm::RS256, "k", false),
            (MODULUS, "a.b", PS384, Algorithm::RS384, "k", false),
            (MODULUS, "a.b", RS256, Algorithm::PS256, "k", false),
            (MODULUS, "a.b", RS256, Algorithm::HS256, "k", false),
            (MODULUS, "a.b", "", Algorithm::RS256, "k", false),
            (MODULUS, "a.b", "!", Algorithm::RS256, "k", false),
            (&other, "a.b", RS256, Algorithm::RS256, "k", false),
        ] {
            let keys = read(set(modulus).as_bytes()).expect("a set");
            assert_eq!(verify(&keys, (signed, signature), algorithm, id), expect, "{signed} {algorithm:?} {id}");
        }
    }

    #[test]
    fn only_keys_for_signatures_are_read() {
        let coordinate = URL_SAFE_NO_PAD.encode([1; 32]);
        let long = URL_SAFE_NO_PAD.encode([1; 2000]);
        let modulus = URL_SAFE_NO_PAD.encode([1; 256]);
        let ec = json!({"kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate, "kid": "a"});
        let rsa = json!({"kty": "RSA", "n": modulus, "e": "AQAB"});
        let with = |key: &Value, field: &str, value: &str| {
            let mut key = key.clone();
            key[field] = value.into();
            key
        };
        for (key, expect) in [
            (ec.clone(), Some(Family::P256)),
            (with(&ec, "use", "sig"), Some(Family::P256)),
            (with(&ec, "use", "enc"), None),
            (with(&ec, "crv", "P-384"), None),
            (with(&ec, "crv", "P-521"), None),
            (with(&ec, "x", "!"), None),
            (with(&ec, "y", "AQ"), None),
            (rsa.clone(), Some(Family::Rsa)),
            (with(&rsa, "n", "AQAB"), None),
            (with(&rsa, "n", &long), None),
            (with(&rsa, "n", ""), None),
            (with(&rsa, "e", ""), None),
            (with(&rsa, "e", "AA"), None),
            (json!({"kty": "oct", "k": "AQAB"}), None),
            (json!("text"), None),
            (json!(null), None),
        ] {
            assert_eq!(Key::of(&key).map(|key| key.family), expect, "{key}");
        }
        for set in ["", "[]", "{\"keys\": 1}", "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AQAB\"}]}"] {
            assert!(read(set.as_bytes()).is_err(), "{set}");
        }
    }

    #[test]
    fn a_key_checks_what_its_kind_signs() {
        for (family, algorithm, expect) in [
            (Family::Rsa, Algorithm::RS256, true),
            (Family::Rsa, Algorithm::PS512, true),
            (Family::Rsa, Algorithm::HS256, false),
            (Family::Rsa, Algorithm::ES256, false),
            (Family::P256, Algorithm::ES256, true),
            (Family::P256, Algorithm::ES384, false),
            (Family::P256, Algorithm::HS256, false),
            (Family::P384, Algorithm::ES384, true),
            (Family::P384, Algorithm::EdDSA, false),
        ] {
            assert_eq!(family.signs(algorithm), expect, "{family:?} {algorithm:?}");
        }
    }
}
