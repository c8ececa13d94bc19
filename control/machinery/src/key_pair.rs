//! Whether a private key goes with a certificate, told in the words of Go's `tls.X509KeyPair`.
//!
//! Deviation: a key on an elliptic curve that does not say its public half is taken for the right one.

use crate::x509::{Block, blocks, certificate};

/// `1.2.840.113549.1.1.1`
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// `1.2.840.10045.2.1`
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// `1.3.101.112`
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[1]`, where a key on a curve has its public half.
const PUBLIC: u8 = 0xa1;
/// `[1]` in the place of bits, where PKCS#8 has it.
const PUBLIC_OF_PKCS8: u8 = 0x81;

/// Checks that the key in `key` is that of the first certificate in `certificates`, both PEM.
///
/// # Errors
/// Why it is not, or why that cannot be told.
pub fn check(certificates: &[u8], key: &[u8]) -> Result<(), String> {
    let (found, others): (Vec<Block>, Vec<Block>) =
        blocks(certificates).into_iter().partition(|block| block.label == "CERTIFICATE");
    let Some(first) = found.first() else { return Err(no_certificate(&others)) };
    let keys = blocks(key);
    let at = keys.iter().position(|block| block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY"));
    let Some(at) = at else { return Err(no_key(&keys)) };
    let parsed = certificate(&first.bytes).ok_or("x509: malformed certificate")?;
    let info = parsed.public_key();
    let public = match info.algorithm.algorithm.as_bytes() {
        RSA => Half::Rsa(modulus(&info.subject_public_key.data, 0).ok_or("x509: invalid RSA modulus")?),
        EC => Half::Ec(Some(&info.subject_public_key.data)),
        ED25519 => Half::Ed25519(Some(&info.subject_public_key.data)),
        _ => return Err("tls: unknown public key algorithm".to_owned()),
    };
    let private = private(&keys[at].bytes).ok_or("tls: failed to parse private key")?;
    let fits = match (public, private) {
        (Half::Rsa(public), Half::Rsa(private)) => public == private,
        (Half::Ec(public), Half::Ec(private)) | (Half::Ed25519(public), Half::Ed25519(private)) => {
            private.is_none() || public == private
        }
        _ => return Err("tls: private key type does not match public key type".to_owned()),
    };
    if fits { Ok(()) } else { Err("tls: private key does not match public key".to_owned()) }
}

fn labels(blocks: &[Block]) -> String {
    let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
    format!("after skipping PEM blocks of the following types: [{}]", labels.join(" "))
}

fn no_certificate(others: &[Block]) -> String {
    match others {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.label.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned()
        }
        others => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input {}", labels(others)),
    }
}

fn no_key(others: &[Block]) -> String {
    match others {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one.label == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        others => {
            format!("tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input {}", labels(others))
        }
    }
}

/// The public half of a key, as far as it is said.
#[derive(Debug, PartialEq, Eq)]
enum Half<'a> {
    /// The modulus, without zeros before it.
    Rsa(&'a [u8]),
    /// The point.
    Ec(Option<&'a [u8]>),
    Ed25519(Option<&'a [u8]>),
}

/// That of a private key: RFC 8017, 5958 or 5915.
fn private(der: &[u8]) -> Option<Half<'_>> {
    if let Some(modulus) = modulus(der, 1) {
        return Some(Half::Rsa(modulus));
    }
    if let Some(point) = curve(der) {
        return Some(Half::Ec(point));
    }
    let mut fields = Der(der).inner(SEQUENCE)?;
    fields.take(INTEGER)?;
    let algorithm = fields.inner(SEQUENCE)?.take(OID)?;
    let key = fields.take(OCTETS)?;
    match algorithm {
        RSA => modulus(key, 1).map(Half::Rsa),
        EC => curve(key).map(Half::Ec),
        ED25519 => {
            let public = fields.find(PUBLIC_OF_PKCS8).map(|bits| bits.get(1..).unwrap_or_default());
            Some(Half::Ed25519(public))
        }
        _ => None,
    }
}

/// The modulus of a key of RSA, before which `skipped` numbers stand.
fn modulus(der: &[u8], skipped: usize) -> Option<&[u8]> {
    let mut fields = Der(der).inner(SEQUENCE)?;
    for _ in 0..skipped {
        fields.take(INTEGER)?;
    }
    let number = fields.take(INTEGER)?;
    // The exponent follows.
    fields.take(INTEGER)?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    Some(&number[zeros..])
}

/// The point of a key on a curve, if it is said. `None`: it is no such key.
fn curve(der: &[u8]) -> Option<Option<&[u8]>> {
    let mut fields = Der(der).inner(SEQUENCE)?;
    fields.take(INTEGER)?;
    fields.take(OCTETS)?;
    let public = fields.find(PUBLIC);
    Some(public.and_then(|public| Der(public).take(BITS)).map(|bits| bits.get(1..).unwrap_or_default()))
}

/// What is left of DER (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut length = usize::from(*first);
        if length >= 0x80 {
            let (bytes, after) = rest.split_at_checked(length - 0x80).filter(|(bytes, _)| bytes.len() <= 4)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((*tag, content))
    }

    /// The content of the next value, if it has this tag.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    fn inner(&mut self, wanted: u8) -> Option<Der<'a>> {
        self.take(wanted).map(Der)
    }

    /// The content of the first of the next values that has this tag.
    fn find(&mut self, wanted: u8) -> Option<&'a [u8]> {
        while let Some((tag, content)) = self.next() {
            if tag == wanted {
                return Some(content);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Certificates and keys: `openssl req -x509 -newkey TYPE -nodes -subj /CN=x -days 36500`, the keys as PKCS#8 and, of RSA
    /// and EC, in their older forms.
    const PAIRS: &str = include_str!("../tests/key_pairs.pem");

    fn pem(name: &str) -> &'static [u8] {
        let (_, after) = PAIRS.split_once(&format!("# {name}\n")).unwrap_or_else(|| panic!("{name}"));
        after.split_once("# ").map_or(after, |(text, _)| text).as_bytes()
    }

    #[test]
    fn a_key_goes_with_its_own_certificate() {
        for (certificate, key, expect) in [
            ("rsa", "rsa key", ""),
            ("rsa", "rsa key, old", ""),
            ("rsa", "other rsa key", "tls: private key does not match public key"),
            ("rsa", "ec key", "tls: private key type does not match public key type"),
            ("ec", "ec key", ""),
            ("ec", "ec key, old", ""),
            ("ec", "other ec key", "tls: private key does not match public key"),
            ("ed25519", "ed25519 key", ""),
            ("ed25519", "rsa key", "tls: private key type does not match public key type"),
            (
                "rsa key",
                "rsa",
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched",
            ),
            ("rsa", "rsa", "tls: found a certificate rather than a key in the PEM for the private key"),
            ("nothing", "rsa key", "tls: failed to find any PEM data in certificate input"),
            ("rsa", "nothing", "tls: failed to find any PEM data in key input"),
            ("nonsense", "rsa key", "x509: malformed certificate"),
            ("rsa", "nonsense key", "tls: failed to parse private key"),
            (
                "parameters",
                "rsa key",
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [EC PARAMETERS]",
            ),
        ] {
            let found = check(pem(certificate), pem(key)).err().unwrap_or_default();
            assert_eq!(found, expect, "{certificate} with {key}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (private(&bytes), modulus(&bytes, 0), curve(&bytes));
        }
    }
}
