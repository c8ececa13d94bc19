//! PEM and X.509 as far as rows, admission and the controllers of certificates look at them.
//!
//! Deviation: signatures by keys on P-521 cannot be checked here and count as wrong.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use x509_parser::certificate::X509Certificate;
pub use x509_parser::certification_request::X509CertificationRequest as Request;
use x509_parser::{
    asn1_rs::BitString,
    error::X509Error,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::FromDer,
    public_key::PublicKey,
    verify::verify_signature,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

/// A block of PEM (RFC 7468, with the headers of RFC 1421).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What stands after `BEGIN`.
    pub label: String,
    /// Whether it has headers.
    pub headers: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const BEGIN: &str = "-----BEGIN ";
/// Always on a line of its own.
const END: &str = "\n-----END ";

/// The blocks of a text, as Go's `pem.Decode` finds them: what is no block is skipped. Each end goes with the last beginning
/// before it, so that no part of a text is read over and over.
#[must_use]
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let (mut rest, mut found) = (&*text, Vec::new());
    while let Some(end) = rest.find(END) {
        // The line before the end is whole.
        let (before, after) = (&rest[..=end], &rest[end + END.len()..]);
        let (line, next) = after.split_once('\n').unwrap_or((after, ""));
        let block = block(before, line);
        rest = if block.is_some() { next } else { after };
        found.extend(block);
    }
    found
}

/// The block that begins last in some lines, whose end has the label that begins `line`.
fn block(lines: &str, line: &str) -> Option<Block> {
    let at = lines.rfind(BEGIN).filter(|at| *at == 0 || lines[..*at].ends_with('\n'))?;
    let (begin, mut body) = lines[at + BEGIN.len()..].split_once('\n')?;
    let label = begin.trim_end().strip_suffix("-----")?;
    if !line.strip_prefix(label)?.strip_prefix("-----")?.trim().is_empty() {
        return None;
    }
    let mut headers = BTreeMap::new();
    while let Some((line, after)) = body.split_once('\n') {
        let Some((key, value)) = line.split_once(':') else { break };
        headers.insert(key.trim(), value.trim());
        body = after;
    }
    let packed: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(packed).ok()?;
    Some(Block { label: label.to_owned(), headers: !headers.is_empty(), bytes })
}

/// The request in a PEM text, as DER.
///
/// # Errors
/// There is none.
pub fn request_block(pem: &[u8]) -> Result<Vec<u8>, String> {
    let first = blocks(pem).into_iter().next().filter(|block| block.label == "CERTIFICATE REQUEST");
    first.map(|block| block.bytes).ok_or_else(|| "PEM block type must be CERTIFICATE REQUEST".to_owned())
}

/// Reads a request (RFC 2986).
///
/// # Errors
/// It is none.
pub fn request(der: &[u8]) -> Result<Request<'_>, String> {
    match Request::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data".to_owned()),
        Err(_) => Err("asn1: structure error: malformed certificate request".to_owned()),
    }
}

/// Checks that the request was signed by its own key.
///
/// # Errors
/// It was not, or that cannot be told.
pub fn check_signature(request: &Request<'_>) -> Result<(), String> {
    let key = Key::of(&request.certification_request_info.subject_pki);
    request.verify_signature().map_err(|error| {
        match (error, key) {
            (X509Error::SignatureUnsupportedAlgorithm, _) => "x509: cannot verify signature: algorithm unimplemented",
            (_, Key::Rsa { .. }) => "crypto/rsa: verification error",
            (_, Key::Ed25519) => "x509: Ed25519 verification failure",
            _ => "x509: ECDSA verification failure",
        }
        .to_owned()
    })
}

/// Reads one certificate (RFC 5280).
#[must_use]
pub fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// Reads a public key (`SubjectPublicKeyInfo`).
#[must_use]
pub fn public_key(der: &[u8]) -> Option<SubjectPublicKeyInfo<'_>> {
    SubjectPublicKeyInfo::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, key)| key)
}

/// Why a text is no list of certificates; empty texts are fine.
///
/// # Errors
/// What is wrong with it.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    if pem.is_empty() {
        return Ok(());
    }
    let blocks = blocks(pem);
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found \"{}\"", block.label));
        }
        if block.headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        let mut rest = block.bytes.as_slice();
        if rest.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        while !rest.is_empty() {
            (rest, _) = X509Certificate::from_der(rest).map_err(|_| "x509: malformed certificate".to_owned())?;
        }
    }
    if blocks.is_empty() { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

/// What a public key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Ed25519.
    Ed25519,
    /// On an elliptic curve.
    Ec {
        /// Its name, if it is one of those that are taken.
        curve: Option<&'static str>,
    },
    /// RSA.
    Rsa {
        /// Of the modulus.
        bits: usize,
    },
    /// Anything else.
    Other,
}

impl Key {
    /// That of a certificate or request.
    #[must_use]
    pub fn of(info: &SubjectPublicKeyInfo<'_>) -> Self {
        if info.algorithm.algorithm == OID_SIG_ED25519 {
            return Self::Ed25519;
        }
        if info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let known = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
            let curve = curve.and_then(|curve| known.iter().find(|(oid, _)| *oid == curve).map(|(_, name)| *name));
            return Self::Ec { curve };
        }
        match info.parsed() {
            Ok(PublicKey::RSA(key)) => {
                let modulus: usize = key.modulus.iter().skip_while(|byte| **byte == 0).count();
                Self::Rsa { bits: 8 * modulus }
            }
            _ => Self::Other,
        }
    }
}

/// Whether a certificate was issued to a public key, given as DER.
#[must_use]
pub fn is_for(certificate: &X509Certificate<'_>, key: &[u8]) -> bool {
    certificate.public_key().raw == key
}

/// The DNS names of a certificate.
#[must_use]
pub fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
        .collect()
}

const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
const ECDSA_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// PSS with SHA-256 for the hash and for the mask, and a salt as long as that.
const RSA_PSS_SHA256: &[u8] = &[
    0x30, 0x41, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0a, 0x30, 0x34, 0xa0, 0x0f, 0x30, 0x0d, 6, 9, 0x60,
    0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 0xa1, 0x1c, 0x30, 0x1a, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8,
    0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 0xa2, 3, 2, 1, 0x20,
];

/// Whether `proof` is the signature of `message` by the owner of a key, as proofs of possession are made.
#[must_use]
pub fn proves(key: &SubjectPublicKeyInfo<'_>, message: &[u8], proof: &[u8]) -> bool {
    let algorithm = match Key::of(key) {
        Key::Ed25519 => ED25519,
        Key::Ec { .. } => ECDSA_SHA256,
        Key::Rsa { .. } => RSA_PSS_SHA256,
        Key::Other => return false,
    };
    let Ok((_, algorithm)) = AlgorithmIdentifier::from_der(algorithm) else { return false };
    verify_signature(key, &algorithm, &BitString::new(0, proof), message).is_ok()
}

/// What a request says of its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name.
    pub common_name: String,
    /// The organizations.
    pub organizations: Vec<String>,
    /// Alternative names that are DNS names.
    pub dns: Vec<String>,
    /// How many alternative names are e-mail addresses, IP addresses, URIs.
    pub emails: usize,
    /// IP addresses.
    pub ips: usize,
    /// URIs.
    pub uris: usize,
}

impl Subject {
    /// That of a request.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        let name = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_owned()
        };
        let mut subject = Self {
            // Go keeps the last one.
            common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: name.iter_organization().map(text).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => subject.dns.push((*name).to_owned()),
                    GeneralName::RFC822Name(_) => subject.emails += 1,
                    GeneralName::IPAddress(_) => subject.ips += 1,
                    GeneralName::URI(_) => subject.uris += 1,
                    _ => {}
                }
            }
        }
        subject
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(-----(BEGIN|END) [AB]{0,2}-----|a: b|AAEC|[ \n\r:*-]){0,40}") {
            let found = blocks(text.as_bytes());
            prop_assert!(found.iter().map(|block| block.bytes.len()).sum::<usize>() <= text.len());
            let _ = (request_block(text.as_bytes()), check_certificates(text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (request(&bytes).is_ok(), certificate(&bytes).is_some(), public_key(&bytes).is_some());
        }
    }

    #[test]
    fn a_text_is_not_read_over_and_over() {
        let begins = "-----BEGIN A-----\n".repeat(100_000);
        assert_eq!(blocks(begins.as_bytes()), []);
        let headers = "-----BEGIN a:-----\n".repeat(100_000) + "-----END a:-----\n";
        assert_eq!(blocks(headers.as_bytes()).len(), 1);
    }

    #[test]
    fn blocks_are_found_as_go_finds_them() {
        let labels = |text: &str| blocks(text.as_bytes()).into_iter().map(|b| (b.label, b.headers, b.bytes)).collect();
        for (what, text, expect) in [
            ("nothing", "AAEC", vec![]),
            ("one", "x\n-----BEGIN A-----\nAAEC\n-----END A-----\n", vec![("A", false, vec![0, 1, 2])]),
            ("a header", "-----BEGIN A-----\nk: v\n\nAAEC\n-----END A-----", vec![("A", true, vec![0, 1, 2])]),
            ("empty", "-----BEGIN A-----\n-----END A-----\n", vec![("A", false, vec![])]),
            ("other end", "-----BEGIN A-----\nAAEC\n-----END B-----\n", vec![]),
            ("not base64", "-----BEGIN A-----\n*\n-----END A-----\n", vec![]),
            (
                "two",
                "-----BEGIN A-----\nAAEC\n-----END A-----\n-----BEGIN B-----\nAA==\n-----END B-----\n",
                vec![("A", false, vec![0, 1, 2]), ("B", false, vec![0])],
            ),
        ] {
            let expect: Vec<_> = expect.into_iter().map(|(l, h, b)| (l.to_owned(), h, b)).collect();
            let found: Vec<(String, bool, Vec<u8>)> = labels(text);
            assert_eq!(found, expect, "{what}");
        }
    }
}
