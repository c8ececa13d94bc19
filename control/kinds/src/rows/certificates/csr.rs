//! CertificateSigningRequests. Their spec never changes; who asked stands in it.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{GROUP, check_signer, signers, x509};
use crate::apply::Counted;
use crate::{
    FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta,
    resource::{Author, names, without},
    rows::{
        cells::{self, Cell, NONE},
        value::{at, child, copy, default_text, get, int, items_mut, list, set, text, texts, unset},
        vocab::Errors,
    },
    table::human_duration,
};

/// The row.
pub(super) fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["csr"]),
        fields: names(&["spec.signerName"]),
        ..ResourceDef::new(
            GROUP,
            ("certificatesigningrequests", "certificatesigningrequest", "CertificateSigningRequest"),
            "io.k8s.api.certificates.v1.CertificateSigningRequest",
            Csrs,
        )
    }
    .with_part("approval", Verbs::PART)
    .with_part("status", Verbs::PART)
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The shortest life that may be asked for, in seconds.
const SHORTEST: i64 = 600;
const APPROVAL: [&str; 2] = ["Approved", "Denied"];
/// Conditions that cannot be taken back, and are true where they are.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

struct Csrs;

impl Strategy for Csrs {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        // What is asked for belongs to nobody: it never changes.
        Some(match sub {
            None => without(&["spec", "status"]),
            Some("approval") => without(&["spec", "status.certificate"]),
            Some(_) => without(&["spec", "status.conditions"]),
        })
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        copy(new, old, "spec");
        match sub {
            Some("status") => APPROVAL.iter().for_each(|kind| keep_conditions(new, old, kind)),
            Some("approval") => {
                let conditions = at(new, &["status", "conditions"]).clone();
                copy(new, old, "status");
                // What is not there stays away.
                if conditions.is_null() {
                    child(new, "status").as_object_mut().map(|status| status.remove("conditions"));
                } else {
                    set(child(new, "status"), "conditions", conditions);
                }
            }
            _ => copy(new, old, "status"),
        }
    }

    fn stamp(&self, obj: &mut Value, old: Option<&Value>, sub: Option<&str>, by: Author<'_>) {
        match (old, sub) {
            (None, _) => stamp_user(child(obj, "spec"), by),
            (Some(old), Some("status" | "approval")) => stamp_times(obj, old, by.now),
            _ => {}
        }
    }

    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        meta::name_is_path_segment(name, prefix)
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        check(obj, &Tolerated::default())
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        errs.extend(check(new, &Tolerated::of(new, old)));
        check_final(&mut errs, new, old);
        if sub != Some("approval") {
            check_approval_kept(&mut errs, new, old);
        }
        check_certificate_kept(&mut errs, new, old, sub == Some("status"));
        errs
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        vec![
            cells::name(obj),
            cells::age(obj),
            cells::or_none(text(spec, "signerName")),
            cells::of(text(spec, "username")),
            cells::of(int(spec, "expirationSeconds").map_or(NONE.to_owned(), human_duration)),
            cells::of(state(get(obj, "status"))),
        ]
    }
}

/// Whoever asks says nothing of himself: the authenticator does.
fn stamp_user(spec: &mut Value, by: Author<'_>) {
    for field in ["username", "uid", "groups", "extra"] {
        unset(spec, field);
    }
    let user = by.user;
    set(spec, "username", user.name.as_str());
    if !user.uid.is_empty() {
        set(spec, "uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        set(spec, "groups", json!(user.groups));
    }
    if !user.extra.is_empty() {
        set(spec, "extra", json!(user.extra));
    }
}

/// Conditions without times get them; one that was there with the same status keeps the time of its transition.
fn stamp_times(obj: &mut Value, old: &Value, now: &str) {
    let before = at(old, &["status", "conditions"]).clone();
    for condition in items_mut(child(obj, "status"), "conditions") {
        let same = |other: &&Value| ["type", "status"].iter().all(|field| text(other, field) == text(condition, field));
        let since = before.as_array().into_iter().flatten().find(same).map_or("", |c| text(c, "lastTransitionTime"));
        let since = if since.is_empty() { now } else { since }.to_owned();
        default_text(condition, "lastUpdateTime", now);
        default_text(condition, "lastTransitionTime", &since);
    }
}

fn conditions<'a>(obj: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(get(obj, "status"), "conditions").iter().filter(move |condition| text(condition, "type") == kind)
}

/// Puts the old conditions of a kind in the place of the new ones, if there are as many.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let kept: Vec<Value> = conditions(old, kind).cloned().collect();
    if conditions(new, kind).count() == kept.len() {
        let places = items_mut(child(new, "status"), "conditions").filter(|c| text(c, "type") == kind);
        places.zip(kept).for_each(|(place, kept)| *place = kept);
    }
}

/// What is not held against an update, as it was so before.
#[derive(Default)]
struct Tolerated {
    both_approved_and_denied: bool,
    legacy_signer: bool,
    repeated_conditions: bool,
    conditions_without_type: bool,
    any_certificate: bool,
    repeated_usages: bool,
    unknown_usages: bool,
}

impl Tolerated {
    fn of(new: &Value, old: &Value) -> Self {
        let kinds: Vec<&str> = list(get(old, "status"), "conditions").iter().map(|c| text(c, "type")).collect();
        let usages = texts(get(old, "spec"), "usages");
        let certificate = certificate(old);
        let same = at(new, &["status", "certificate"]) == at(old, &["status", "certificate"]);
        Self {
            both_approved_and_denied: APPROVAL.iter().all(|kind| kinds.contains(kind)),
            legacy_signer: text(get(old, "spec"), "signerName") == signers::LEGACY,
            repeated_conditions: repeats(&kinds),
            conditions_without_type: kinds.contains(&""),
            any_certificate: same || x509::check_certificates(&certificate).is_err(),
            repeated_usages: repeats(&usages),
            unknown_usages: usages.iter().any(|usage| !USAGES.contains(usage)),
        }
    }
}

fn repeats(words: &[&str]) -> bool {
    words.iter().collect::<BTreeSet<_>>().len() < words.len()
}

/// The bytes of a field that upstream keeps as `[]byte`.
pub fn bytes(v: &Value, key: &str) -> Vec<u8> {
    STANDARD.decode(text(v, key)).unwrap_or_default()
}

fn certificate(obj: &Value) -> Vec<u8> {
    bytes(get(obj, "status"), "certificate")
}

fn check(obj: &Value, tolerated: &Tolerated) -> Errors {
    let mut errs = Errors::new();
    let (spec, path) = (get(obj, "spec"), Path::new("spec"));
    if let Err(why) = check_request(&bytes(spec, "request")) {
        errs.push(FieldError::invalid(path.child("request"), text(spec, "request"), why));
    }
    check_usages(&mut errs, &path.child("usages"), &texts(spec, "usages"), tolerated);
    let (at, signer) = (path.child("signerName"), text(spec, "signerName"));
    if signer == signers::LEGACY && !tolerated.legacy_signer {
        errs.push(FieldError::invalid(at, signer, "the legacy signerName is not allowed via this API version"));
    } else {
        check_signer(&mut errs, &at, signer);
    }
    if let Some(seconds) = int(spec, "expirationSeconds").filter(|seconds| *seconds < SHORTEST) {
        let message = "may not specify a duration less than 600 seconds (10 minutes)";
        errs.push(FieldError::invalid(path.child("expirationSeconds"), seconds, message));
    }
    check_conditions(&mut errs, obj, tolerated);
    if !tolerated.any_certificate
        && let Err(why) = x509::check_certificates(&certificate(obj))
    {
        errs.push(FieldError::invalid("status.certificate", "<certificate data>", why));
    }
    errs
}

fn check_request(pem: &[u8]) -> Result<(), String> {
    let der = x509::request_block(pem)?;
    x509::check_signature(&x509::request(&der)?)
}

fn check_usages(errs: &mut Errors, path: &Path, usages: &[&str], tolerated: &Tolerated) {
    if usages.is_empty() {
        errs.push(FieldError::required(path, ""));
    }
    let numbered = || usages.iter().enumerate();
    if !tolerated.unknown_usages {
        let unknown = numbered().filter(|(_, usage)| !USAGES.contains(usage));
        errs.extend(unknown.map(|(i, usage)| FieldError::not_supported(path.index(i), *usage, USAGES)));
    }
    if !tolerated.repeated_usages {
        let again = numbered().filter(|(i, usage)| usages[..*i].contains(usage));
        errs.extend(again.map(|(i, usage)| FieldError::duplicate(path.index(i), *usage)));
    }
}

fn check_conditions(errs: &mut Errors, obj: &Value, tolerated: &Tolerated) {
    let (path, conditions) = (Path::new("status").child("conditions"), list(get(obj, "status"), "conditions"));
    let kinds: Vec<&str> = conditions.iter().map(|condition| text(condition, "type")).collect();
    for (i, kind) in kinds.iter().enumerate() {
        let (at, before) = (path.index(i), &kinds[..i]);
        if kind.is_empty() && !tolerated.conditions_without_type {
            errs.push(FieldError::required(at.child("type"), ""));
        }
        let known: &[&str] = if FINAL.contains(kind) { &["True"] } else { &["False", "True", "Unknown"] };
        match text(&conditions[i], "status") {
            "" => errs.push(FieldError::required(at.child("status"), "")),
            status if !known.contains(&status) => {
                errs.push(FieldError::not_supported(at.child("status"), status, known));
            }
            _ => {}
        }
        if before.contains(kind) && !tolerated.repeated_conditions {
            errs.push(FieldError::duplicate(at.child("type"), *kind));
        }
    }
    if APPROVAL.iter().all(|kind| kinds.contains(kind)) && !tolerated.both_approved_and_denied {
        let message = "Approved and Denied conditions are mutually exclusive";
        let last = kinds.iter().rev().find(|kind| APPROVAL.contains(kind)).copied().unwrap_or_default();
        errs.push(FieldError::invalid(&path, last, message));
    }
}

fn forbid(errs: &mut Errors, field: &str, why: String) {
    errs.push(FieldError::forbidden(Path::new("status").child(field), why));
}

fn check_final(errs: &mut Errors, new: &Value, old: &Value) {
    for kind in FINAL {
        if conditions(new, kind).count() < conditions(old, kind).count() {
            forbid(errs, "conditions", format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
}

/// Only the approval says who approved or denied.
fn check_approval_kept(errs: &mut Errors, new: &Value, old: &Value) {
    for kind in APPROVAL {
        let (now, then): (Vec<_>, Vec<_>) = (conditions(new, kind).collect(), conditions(old, kind).collect());
        let what = match now.len().cmp(&then.len()) {
            std::cmp::Ordering::Greater => "add",
            std::cmp::Ordering::Equal if now != then => "modify",
            _ => continue,
        };
        forbid(errs, "conditions", format!("updates may not {what} a condition of type \"{kind}\""));
    }
}

fn check_certificate_kept(errs: &mut Errors, new: &Value, old: &Value, may_set: bool) {
    let (now, then) = (certificate(new), certificate(old));
    if now == then {
        return;
    }
    if !may_set {
        forbid(errs, "certificate", "updates may not set certificate content".to_owned());
    } else if !then.is_empty() {
        forbid(errs, "certificate", "updates may not modify existing certificate content".to_owned());
    }
}

fn state(status: &Value) -> String {
    let has = |kind: &str| list(status, "conditions").iter().any(|condition| text(condition, "type") == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(status, "certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}
