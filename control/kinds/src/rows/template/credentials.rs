//! Sources of projected volumes that show who is trusted, and who the pod is: anchors of trust and certificates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::certificates::{self, HOUR};
use super::super::selector;
use super::super::value::{get, has, int, some, text};
use super::super::vocab::Errors;
use super::mounts;
use crate::{Bad, FieldError, Path};

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// Checks a `clusterTrustBundle`. `taken`: the paths of the volume's other sources.
pub(super) fn bundle<'a>(
    errs: &mut Errors,
    volume: &Path,
    at: &Path,
    source: &'a Value,
    taken: &mut BTreeSet<&'a str>,
) {
    match (some(source, "name"), some(source, "signerName")) {
        (Some(_), Some(_)) => {
            let shown = Bad::Raw(source.to_string());
            errs.push(FieldError::invalid(at, shown, "only one of name and signerName may be used"));
        }
        (Some(_), None) => by_name(errs, at, source),
        (None, Some(_)) => by_signer(errs, at, source),
        (None, None) => errs.push(FieldError::required(at, "either name or signerName must be specified")),
    }
    let path = text(source, "path");
    if path.is_empty() {
        errs.push(FieldError::required(at.child("path"), ""));
    }
    place(errs, volume, &at.child("path"), path, taken);
}

fn by_name(errs: &mut Errors, at: &Path, source: &Value) {
    let name = text(source, "name");
    if name.is_empty() {
        errs.push(FieldError::required(at.child("name"), "must be a valid object name"));
    }
    for problem in certificates::bundle_name_errors(name) {
        let why = format!("not a valid clustertrustbundlename: {problem}");
        errs.push(FieldError::invalid(at.child("name"), name, why));
    }
    if has(source, "labelSelector") {
        let shown = selector::bad(get(source, "labelSelector"));
        let why = "labelSelector must be unset if name is specified";
        errs.push(FieldError::invalid(at.child("labelSelector"), shown, why));
    }
}

fn by_signer(errs: &mut Errors, at: &Path, source: &Value) {
    let signer = text(source, "signerName");
    if signer.is_empty() {
        errs.push(FieldError::required(at.child("signerName"), "must be a valid signer name"));
    }
    certificates::check_signer(errs, &at.child("signerName"), signer);
    selector::check(errs, &at.child("labelSelector"), get(source, "labelSelector"));
}

/// Checks a `podCertificate`.
pub(super) fn certificate<'a>(
    errs: &mut Errors,
    volume: &Path,
    at: &Path,
    source: &'a Value,
    taken: &mut BTreeSet<&'a str>,
) {
    let signer = text(source, "signerName");
    certificates::check_signer(errs, &at.child("signerName"), signer);
    certificates::check_annotations(errs, &at.child("userAnnotations"), source, "userAnnotations");
    let kind = text(source, "keyType");
    if !KEY_TYPES.contains(&kind) {
        errs.push(FieldError::not_supported(at.child("keyType"), kind, &KEY_TYPES));
    }
    if let Some(seconds) = int(source, "maxExpirationSeconds") {
        let (path, longest) = (at.child("maxExpirationSeconds"), certificates::longest_life(signer));
        if seconds < HOUR {
            let why = format!("if provided, maxExpirationSeconds must be >= {HOUR}");
            errs.push(FieldError::invalid(&path, seconds, why));
        }
        if seconds > longest {
            let why = format!("if provided, maxExpirationSeconds must be <= {longest}");
            errs.push(FieldError::invalid(&path, seconds, why));
        }
    }
    let fields = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    let given = fields.iter().filter(|field| !text(source, field).is_empty());
    let count = given.map(|field| place(errs, volume, &at.child(field), text(source, field), taken)).count();
    if count == 0 {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errs.push(FieldError::required(at, why));
    }
}

/// Checks the path of a file, which no other source may have.
fn place<'a>(errs: &mut Errors, volume: &Path, at: &Path, path: &'a str, taken: &mut BTreeSet<&'a str>) {
    mounts::non_reserved_path(errs, at, path);
    if !taken.insert(path) {
        errs.push(FieldError::invalid(volume, path, "conflicting duplicate paths"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is found, each as `path: kind of finding, detail`, without the path of the source.
    fn found(kind: &str, source: &Value) -> String {
        let (mut errs, mut taken) = (Errors::new(), BTreeSet::from(["taken"]));
        let (volume, at) = (Path::new("v"), Path::new("s"));
        match kind {
            "bundle" => bundle(&mut errs, &volume, &at, source, &mut taken),
            _ => certificate(&mut errs, &volume, &at, source, &mut taken),
        }
        errs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_bundle_is_named_or_chosen() {
        for (source, expect) in [
            (json!({"name": "b", "path": "p"}), ""),
            (json!({"name": "e.com:s:b", "path": "p"}), ""),
            (json!({"signerName": "e.com/s", "path": "p"}), ""),
            (json!({"signerName": "e.com/s", "labelSelector": {}, "path": "p"}), ""),
            (json!({"path": "p"}), "s: Required value: either name or signerName must be specified"),
            (
                json!({"name": "b", "labelSelector": {}, "path": "p"}),
                "s.labelSelector: Invalid value: {}: labelSelector must be unset if name is specified",
            ),
            (json!({"name": "b"}), "s.path: Required value"),
            (json!({"name": "b", "path": "taken"}), "v: Invalid value: \"taken\": conflicting duplicate paths"),
            (json!({"name": "b", "path": "../x"}), "s.path: Invalid value: \"../x\": must not contain '..'"),
        ] {
            assert_eq!(found("bundle", &source), expect, "{source}");
        }
    }

    #[test]
    fn a_certificate_lives_no_longer_than_signers_may_say() {
        for (signer, seconds, expect) in [
            ("e.com/s", 3600, ""),
            ("e.com/s", 3599, "Invalid value: 3599: if provided, maxExpirationSeconds must be >= 3600"),
            ("e.com/s", 7_862_400, ""),
            ("e.com/s", 7_862_401, "Invalid value: 7862401: if provided, maxExpirationSeconds must be <= 7862400"),
            ("kubernetes.io/s", 86_401, "Invalid value: 86401: if provided, maxExpirationSeconds must be <= 86400"),
        ] {
            let source =
                json!({"signerName": signer, "keyType": "ED25519", "keyPath": "k", "maxExpirationSeconds": seconds});
            let expect = if expect.is_empty() { String::new() } else { format!("s.maxExpirationSeconds: {expect}") };
            assert_eq!(found("certificate", &source), expect, "{source}");
        }
        for (more, expect) in [
            (
                json!({"keyType": "ED25519"}),
                "s: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
            ),
            (
                json!({"keyType": "ED25519", "keyPath": "a", "certificateChainPath": "a"}),
                "v: Invalid value: \"a\": conflicting duplicate paths",
            ),
            (
                json!({"keyType": "x", "keyPath": "a"}),
                "s.keyType: Unsupported value: \"x\": supported values: \"RSA3072\", \"RSA4096\", \"ECDSAP256\", \
                 \"ECDSAP384\", \"ECDSAP521\", \"ED25519\"",
            ),
        ] {
            let mut source = more.clone();
            source["signerName"] = "e.com/s".into();
            assert_eq!(found("certificate", &source), expect, "{source}");
        }
    }
}
