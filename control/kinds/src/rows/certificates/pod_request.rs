//! PodCertificateRequests: what a node asks for in the name of a pod. A request is decided once, by its signer.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{DAY, GROUP, HOUR, check_annotations, check_signer, csr::bytes, longest_life, x509};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{
    Bad, FieldError, Path, ResourceDef, Strategy, Verbs,
    resource::names,
    rows::{
        cells::{self, Cell},
        parts,
        value::{child, copy, default_to, get, has, int, list, set, text, text_entries},
        vocab::{self, Errors},
    },
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        fields: names(&["spec.nodeName", "spec.podName", "spec.signerName"]),
        ..ResourceDef::new(
            GROUP,
            ("podcertificaterequests", "podcertificaterequest", "PodCertificateRequest"),
            "io.k8s.api.certificates.v1.PodCertificateRequest",
            PodRequests,
        )
    }
    .with_part("status", Verbs::PART)
}

/// The longest key, proof or request, in bytes.
const MAX_KEY: usize = 10 * 1024;
/// The longest chain, in bytes.
const MAX_CHAIN: usize = 100 * 1024;
const MAX_UID: usize = 128;
const DECIDED: [&str; 3] = ["Issued", "Denied", "Failed"];

struct PodRequests;

impl Strategy for PodRequests {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn default(&self, obj: &mut Value) {
        default_to(child(obj, "spec"), "maxExpirationSeconds", DAY);
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", serde_json::json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        match sub {
            Some("status") => parts::only_status(new, old),
            _ => copy(new, old, "status"),
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let spec = get(obj, "spec");
        check_signer(&mut errs, &Path::new("spec").child("signerName"), text(spec, "signerName"));
        let annotations = Path::new("spec").child("unverifiedUserAnnotations");
        check_annotations(&mut errs, &annotations, spec, "unverifiedUserAnnotations");
        for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
        {
            check_named(&mut errs, spec, name, uid);
        }
        if check_life(&mut errs, spec) {
            check_key(&mut errs, spec);
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_status(&mut errs, new, old);
        } else {
            vocab::immutable(&mut errs, "spec", get(new, "spec"), get(old, "spec"));
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        let shown = ["podName", "serviceAccountName", "nodeName", "signerName"];
        let conditions = list(get(obj, "status"), "conditions");
        let state = conditions.iter().rev().map(|c| text(c, "type")).find(|kind| DECIDED.contains(kind));
        let annotations: Vec<String> =
            text_entries(spec, "unverifiedUserAnnotations").map(|(key, value)| format!("{key}={value}")).collect();
        let mut row = vec![cells::name(obj)];
        row.extend(shown.map(|field| cells::of(text(spec, field))));
        row.push(cells::of(state.unwrap_or("Pending")));
        row.push(cells::or_none(&annotations.join(",")));
        row
    }
}

fn check_named(errs: &mut Errors, spec: &Value, name: &str, uid: &str) {
    let path = Path::new("spec");
    vocab::subdomain(errs, &path.child(name), text(spec, name));
    let (path, uid) = (path.child(uid), text(spec, uid));
    if uid.is_empty() {
        errs.push(FieldError::invalid(&path, uid, "must not be empty"));
    }
    if uid.len() > MAX_UID {
        errs.push(FieldError::too_long(&path, MAX_UID));
    }
}

/// Checks how long the certificate may live; whether it makes sense to look further.
fn check_life(errs: &mut Errors, spec: &Value) -> bool {
    let path = Path::new("spec").child("maxExpirationSeconds");
    let Some(seconds) = int(spec, "maxExpirationSeconds") else {
        errs.push(FieldError::required(path, "must be set"));
        return false;
    };
    let longest = longest_life(text(spec, "signerName"));
    if !(HOUR..=longest).contains(&seconds) {
        errs.push(FieldError::invalid(path, seconds, format!("must be in the range [{HOUR}, {longest}]")));
    }
    true
}

fn omitted(path: &str, why: &str) -> FieldError {
    FieldError::invalid(path, Bad::Omitted, why)
}

fn check_key(errs: &mut Errors, spec: &Value) {
    let given = |field: &str| !text(spec, field).is_empty();
    match (given("stubPKCS10Request"), given("pkixPublicKey"), given("proofOfPossession")) {
        (true, false, false) => check_stub(errs, &bytes(spec, "stubPKCS10Request")),
        (false, true, true) => check_public_key(errs, spec),
        _ => errs.push(omitted(
            "spec",
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        )),
    }
}

/// Whether certificates are given to such a key.
fn check_kind(errs: &mut Errors, path: &str, key: &x509::Key, curves: &str, other: Bad) -> bool {
    let problem = match key {
        x509::Key::Ed25519 | x509::Key::Ec { curve: Some(_) } | x509::Key::Rsa { bits: 3072 | 4096 } => return true,
        x509::Key::Ec { curve: None } => ("curve unknown".into(), curves),
        x509::Key::Rsa { bits } => {
            (format!("{bits}-bit modulus").into(), "RSA keys must have modulus size 3072 or 4096")
        }
        x509::Key::Other => (other, "unknown public key type; supported types are Ed25519, ECDSA, and RSA"),
    };
    errs.push(FieldError::invalid(path, problem.0, problem.1));
    false
}

fn check_stub(errs: &mut Errors, der: &[u8]) {
    const PATH: &str = "spec.stubPKCS10Request";
    if der.len() > MAX_KEY {
        errs.push(FieldError::too_long(PATH, MAX_KEY));
        return;
    }
    let Ok(request) = x509::request(der) else {
        errs.push(omitted(PATH, "must be a valid PKCS#10 CSR"));
        return;
    };
    let key = x509::Key::of(&request.certification_request_info.subject_pki);
    let curves = "elliptic public keys must use curve P256, P384, or P521";
    if check_kind(errs, PATH, &key, curves, Bad::Omitted) && x509::check_signature(&request).is_err() {
        errs.push(omitted(PATH, "invalid signature"));
    }
}

fn check_public_key(errs: &mut Errors, spec: &Value) {
    const PATH: &str = "spec.pkixPublicKey";
    let (der, proof) = (bytes(spec, "pkixPublicKey"), bytes(spec, "proofOfPossession"));
    for (path, value) in [(PATH, &der), ("spec.proofOfPossession", &proof)] {
        if value.len() > MAX_KEY {
            errs.push(FieldError::too_long(path, MAX_KEY));
            return;
        }
    }
    let shown = || Bad::from(text(spec, "pkixPublicKey"));
    let Some(key) = x509::public_key(&der) else {
        errs.push(FieldError::invalid(PATH, shown(), "must be a valid PKIX-serialized public key"));
        return;
    };
    let curves = "elliptic public keys must use curve P256 or P384";
    if check_kind(errs, PATH, &x509::Key::of(&key), curves, shown())
        && !x509::proves(&key, text(spec, "podUID").as_bytes(), &proof)
    {
        errs.push(omitted("spec.proofOfPossession", "could not verify proof-of-possession signature"));
    }
}

fn is(obj: &Value, kind: &str) -> bool {
    let conditions = list(get(obj, "status"), "conditions");
    conditions.iter().any(|condition| text(condition, "type") == kind && text(condition, "status") == "True")
}

fn check_status(errs: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("status").child("conditions");
    let (status, before) = (get(new, "status"), get(old, "status"));
    check_decisions(errs, list(status, "conditions"));
    parts::check_conditions(errs, &path, list(status, "conditions"));
    if !errs.is_empty() {
        return;
    }
    if DECIDED.iter().any(|kind| is(old, kind)) {
        if status != before {
            errs.push(omitted("status", "immutable after PodCertificateRequest is issued, denied, or failed"));
        }
    } else if is(new, "Denied") || is(new, "Failed") {
        let rest = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];
        if rest.iter().any(|field| has(status, field) && !text(status, field).is_empty()) {
            let why = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            errs.push(omitted("status", why));
        }
    } else if is(new, "Issued") {
        if let Err(error) = check_issued(errs, new, old) {
            errs.push(error);
        }
    } else if status != before {
        let why = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
        errs.push(omitted("status", why));
    }
}

/// There is one decision at most, and it is true.
fn check_decisions(errs: &mut Errors, conditions: &[Value]) {
    let mut known = 0;
    for (i, condition) in conditions.iter().enumerate() {
        // Upstream's own form of a path.
        let at = |field: &str| format!("status.conditions.[{i}].{field}");
        let (kind, status) = (text(condition, "type"), text(condition, "status"));
        if !DECIDED.contains(&kind) {
            errs.push(FieldError::not_supported(at("type"), kind, &DECIDED));
            continue;
        }
        known += 1;
        if known > 1 {
            let message = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errs.push(FieldError::invalid(at("type"), kind, message));
        }
        if status != "True" {
            errs.push(FieldError::not_supported(at("status"), status, &["True"]));
        }
    }
}

const CHAIN: &str = "status.certificateChain";

/// Checks what was issued; how near `notBefore` is to the present is for admission, which knows the time.
fn check_issued(errs: &mut Errors, new: &Value, old: &Value) -> Result<(), FieldError> {
    let status = get(new, "status");
    let chain = text(status, "certificateChain");
    if chain.len() > MAX_CHAIN {
        return Err(FieldError::too_long(CHAIN, MAX_CHAIN));
    }
    let wrong = |why: &str| FieldError::invalid(CHAIN, chain, why);
    let blocks = x509::blocks(chain.as_bytes());
    let first =
        blocks.first().ok_or_else(|| wrong("issued certificate chain must contain at least one certificate"))?;
    if first.label != "CERTIFICATE" {
        return Err(wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let leaf =
        x509::certificate(&first.bytes).ok_or_else(|| wrong("leaf certificate does not parse as valid X.509"))?;
    check_leaf_names(errs, &leaf);
    if !x509::is_for(&leaf, &wanted_key(get(old, "spec"))?) {
        return Err(wrong("leaf certificate was not issued to the requested public key"));
    }
    check_times(errs, status, &leaf, int(get(new, "spec"), "maxExpirationSeconds").unwrap_or(0))?;
    for block in &blocks[1..] {
        if block.label != "CERTIFICATE" {
            return Err(wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
        }
        if x509::certificate(&block.bytes).is_none() {
            return Err(wrong("intermediate certificate does not parse as valid X.509"));
        }
    }
    Ok(())
}

fn check_leaf_names(errs: &mut Errors, leaf: &x509::X509Certificate<'_>) {
    for name in x509::dns_names(leaf) {
        let mut wrong = |why: &str| errs.push(FieldError::invalid(CHAIN, name.as_str(), why));
        if name.is_empty() {
            wrong("leaf certificate should not contain empty DNSName");
        }
        if name.contains("..") {
            wrong("leaf certificate's DNSName should not contain '..'");
        }
        if name.starts_with('.') || name.ends_with('.') {
            wrong("leaf certificate's DNSName should not start or end with '.'");
        }
    }
}

/// The key that was asked for, as DER.
fn wanted_key(spec: &Value) -> Result<Vec<u8>, FieldError> {
    let stub = bytes(spec, "stubPKCS10Request");
    if stub.is_empty() {
        return Ok(bytes(spec, "pkixPublicKey"));
    }
    let request = x509::request(&stub).map_err(|_| omitted("spec.stubPKCS10Request", "must be a valid PKCS#10 CSR"))?;
    Ok(request.certification_request_info.subject_pki.raw.to_vec())
}

fn check_times(
    errs: &mut Errors,
    status: &Value,
    leaf: &x509::X509Certificate<'_>,
    longest: i64,
) -> Result<(), FieldError> {
    const BEGIN: &str = "must be present and in the range [notbefore+10min, notafter-10min]";
    const SAME: &str = "must be present and consistent with the issued certificate";
    let moment = |field: &str| text(status, field).parse::<Timestamp>().ok();
    let path = |field: &str| Path::new("status").child(field);
    let times = ["notBefore", "notAfter", "beginRefreshAt"].map(moment);
    let [Some(not_before), Some(not_after), Some(refresh)] = times else {
        for (field, why) in [("notBefore", SAME), ("notAfter", SAME), ("beginRefreshAt", BEGIN)] {
            if moment(field).is_none() {
                errs.push(FieldError::required(path(field), why));
            }
        }
        return Ok(());
    };
    let wrong = |field: &str, why: &str| Err(FieldError::invalid(path(field), text(status, field), why));
    let validity = leaf.validity();
    if not_before.as_second() != validity.not_before.timestamp() {
        return wrong("notBefore", "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if not_after.as_second() != validity.not_after.timestamp() {
        return wrong("notAfter", "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let life = not_after.as_second() - not_before.as_second();
    if life < HOUR {
        let why = "leaf certificate lifetime must be >= 1 hour";
        return Err(FieldError::invalid(CHAIN, life.saturating_mul(1_000_000_000), why));
    }
    if life > longest {
        let why = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})");
        return Err(FieldError::invalid(CHAIN, life.saturating_mul(1_000_000_000), why));
    }
    let margin = SignedDuration::from_mins(10);
    if refresh.duration_since(not_before) < margin {
        return wrong("beginRefreshAt", "must be at least 10 minutes after status.notBefore");
    }
    if not_after.duration_since(refresh) < margin {
        return wrong("beginRefreshAt", "must be at least 10 minutes before status.notAfter");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_says_what_it_is_for() {
        let spec = json!({
            "signerName": "example.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "s",
            "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w", "maxExpirationSeconds": 86400,
            "stubPKCS10Request": "AAE=",
        });
        for (what, edit, expect) in [
            ("no request", json!({}), "spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"),
            ("short", json!({"maxExpirationSeconds": 60}), "must be in the range [3600, 7862400]"),
            (
                "our own signer",
                json!({"maxExpirationSeconds": 86401, "signerName": "a.kubernetes.io/s"}),
                "must be in the range [3600, 86400]",
            ),
            ("nothing", json!({"stubPKCS10Request": ""}), "exactly one of"),
            ("no uid", json!({"nodeUID": ""}), "spec.nodeUID: Invalid value: \"\": must not be empty"),
        ] {
            let mut obj = json!({ "spec": spec });
            for (key, value) in edit.as_object().into_iter().flatten() {
                obj["spec"][key] = value.clone();
            }
            let found = PodRequests.validate(&obj);
            assert!(found.iter().any(|error| error.to_string().contains(expect)), "{what}: {found:?}");
        }
    }

    #[test]
    fn a_decision_is_final() {
        let with = |kind: &str| {
            let condition =
                json!({"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            json!({"status": {"conditions": [condition]}})
        };
        for (what, old, new, expect) in [
            ("nothing said", json!({"status": {}}), json!({"status": {}}), ""),
            ("denied", json!({}), with("Denied"), ""),
            ("denied, then failed", with("Denied"), with("Failed"), "immutable after"),
            ("issued without a chain", json!({}), with("Issued"), "must contain at least one certificate"),
            ("something else", json!({}), with("Odd"), "Unsupported value: \"Odd\""),
        ] {
            let mut errs = Errors::new();
            check_status(&mut errs, &new, &old);
            let found = errs.first().map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{what}: {found}");
        }
    }
}
